/** What finetuning added to the value projections, as a part of the weights, for engines that know no adapter. */
import { finetunedNamed } from '../cache/adapter.ts';
import type { FinetunedMatrix } from '../cache/finetuned.ts';
import { ensure } from '../errors/errors.ts';
import type { AddedRows } from '../format/convert.ts';
import { requireTensor } from '../format/gguf-access.ts';
import { modelHash } from '../format/model-hash.ts';
import { readAdapter, type AdapterFile } from './adapter-file.ts';
import { layerShapes, readConfig } from './config.ts';
import type { OpenedModel } from './open.ts';

/**
 * For `convertGguf`: what is added to the value projections of a model to make them what `tuned=name` computes.
 * @param file the model's adapter
 * @throws KvError "usage" if the adapter has no such part, or that part left the value projections alone; "shape" if
 *   it is for other layers; "format" for another model's or a damaged file
 */
export async function mergedValues(
  { gguf, source }: Pick<OpenedModel, 'gguf' | 'source'>,
  file: AdapterFile | undefined,
  name: string,
): Promise<ReadonlyMap<string, AddedRows>> {
  const adapter = file && (await readAdapter(file, await modelHash(gguf, source)));
  const config = readConfig(gguf, gguf.tensors.get('token_embd.weight')?.shape[0] ?? 0);
  const asked = `convert: --merge ${name}`;
  const { layers } = finetunedNamed(name, asked, layerShapes(config), adapter);
  const { nKvHeads, headDimV, dModel } = config;
  const added = layers.flatMap(({ values }, layer) => {
    if (values.length === 0) return [];
    const columns = values[0].shape[1];
    ensure(
      columns === dModel,
      'shape',
      () =>
        `${asked} changes value projections of ${columns} columns; the model's have ${dModel}. Run h1bkv finetune.`,
    );
    const tensor = `blk.${layer}.attn_v.weight`;
    requireTensor(gguf, tensor, [nKvHeads * headDimV, dModel]);
    return [[tensor, (first: number, count: number) => productRows(values, first, count)] as const];
  });
  ensure(
    added.length > 0,
    'usage',
    () =>
      `${asked} left the value projections as they were, so there is nothing to merge. Name one that was trained with --values.`,
  );
  return new Map(added);
}

/** Some rows of the product of all matrices, the last one leftmost; in f64, [count, columns of the first]. */
function productRows(
  matrices: readonly FinetunedMatrix[],
  first: number,
  count: number,
): Float64Array {
  const [last, ...others] = matrices.toReversed();
  let columns = last.shape[1];
  let product = Float64Array.from(
    last.numbers.subarray(first * columns, (first + count) * columns),
  );
  for (const { shape, numbers } of others) {
    const next = new Float64Array(count * shape[1]);
    for (let row = 0; row < count; row++) {
      for (let i = 0; i < columns; i++) {
        const x = product[row * columns + i];
        for (let c = 0; c < shape[1]; c++)
          next[row * shape[1] + c] += x * numbers[i * shape[1] + c];
      }
    }
    columns = shape[1];
    product = next;
  }
  return product;
}
