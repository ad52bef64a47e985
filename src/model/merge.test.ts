import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { tinyShape } from '../../test/forged.ts';
import { forgeBytes, writtenBytes, type ForgeOptions } from '../bench/forge-node.ts';
import type { Adapter } from '../cache/adapter.ts';
import type { FinetunedMatrix } from '../cache/finetuned.ts';
import { convertGguf, type ConvertType } from '../format/convert.ts';
import { requireTensor } from '../format/gguf-access.ts';
import { readGguf, readTensorInto } from '../format/gguf.ts';
import { modelHash } from '../format/model-hash.ts';
import { memorySource } from '../format/source.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { dequantize } from '../math/blocks.ts';
import { f16ToF32, f32ToF16 } from '../math/f16.ts';
import { Random } from '../math/random.ts';
import { adapterBytes } from './adapter-file.ts';
import { loadModel } from './load.ts';
import { mergedValues } from './merge.ts';

const shape = { ...tinyShape, dModel: 32 };
const { dModel, nKvHeads, headDim, nLayers, nHeads } = shape;
const rows = nKvHeads * headDim;
const random = new Random(3);
const matrix = (height: number, width: number): FinetunedMatrix => ({
  shape: [height, width],
  numbers: Float32Array.from({ length: height * width }, () => 0.1 * random.normal()),
});
const part = (name: string, values: () => FinetunedMatrix[]) => ({
  method: 'h1b' as const,
  name,
  bits: 32,
  seed: 1,
  layers: Array.from({ length: nLayers }, () => ({
    temperatures: new Float32Array(nHeads).fill(0.5),
    values: values(),
  })),
});
const finetuned = [
  part('rank2', () => [matrix(2, dModel), matrix(rows, 2)]),
  part('full', () => [matrix(rows, dModel)]),
  part('t', () => []),
  part('wide', () => [matrix(rows, dModel + 8)]),
];

let kernels: Kernels;
beforeAll(async () => {
  kernels = await createKernels('auto');
});
afterAll(() => kernels.dispose());

/** A model and its adapter, in memory. */
async function original(type: ForgeOptions['type']) {
  const bytes = await forgeBytes({ ...shape, type });
  const source = memorySource(bytes, 'forged');
  const gguf = await readGguf(source);
  const adapter: Adapter = {
    model: await modelHash(gguf, source),
    text: '',
    temperatures: [],
    finetuned,
  };
  return { bytes, gguf, source, file: { name: 'of forged', bytes: adapterBytes(adapter) } };
}
type Original = Awaited<ReturnType<typeof original>>;

async function converted({ gguf, source, file }: Original, type: ConvertType, name?: string) {
  const added = name === undefined ? undefined : await mergedValues({ gguf, source }, file, name);
  return writtenBytes((sink) => convertGguf(source, gguf, sink, type, { ...(added && { added }) }));
}

async function logitsOf(bytes: Uint8Array, spec: string, adapter: Uint8Array | false) {
  const model = await loadModel(memorySource(bytes, 'm'), { kernels, adapter });
  const cache = await model.createCache(spec);
  const ids = Int32Array.from({ length: 48 }, (_, i) => (i * 37 + 5) % model.vocabSize);
  const logits = await kernels.read(await model.forward([{ ids, cache }], 'all'));
  const copy = (logits as Float32Array).slice();
  cache.dispose();
  model.dispose();
  return copy;
}

const apart = (x: Float32Array, y: Float32Array) =>
  x.reduce((most, value, i) => Math.max(most, Math.abs(value - y[i])), 0);

describe.each(['rank2', 'full'])('a model with %s merged', (name) => {
  test('computes what the model and its adapter do', async () => {
    const model = await original('F32');
    const merged = await converted(model, 'f32', name);
    const logits = async (cache: string) => {
      const tuned = await logitsOf(model.bytes, `${cache}:tuned=${name}`, model.file.bytes);
      return [tuned, await logitsOf(merged, cache, false)] as const;
    };
    // Sums in another order; with f16 an element of the cache may round to its neighbour, 2^-11 away.
    expect(apart(...(await logits('f32')))).toBeLessThan(1e-5);
    expect(apart(...(await logits('f16')))).toBeLessThan(1e-3);
    const [tuned] = await logits('f16');
    expect(apart(tuned, await logitsOf(model.bytes, 'f16', false))).toBeGreaterThan(0.1);
  });

  test.each<[ForgeOptions['type'], ConvertType]>([
    ['F32', 'f32'],
    ['F32', 'f16'],
    ['Q8_0', 'f32'],
    ['Q8_0', 'q8_0'],
  ])('from %s to %s has W + B A, rounded once, and all else as it was', async (from, to) => {
    const model = await original(from);
    const [plain, merged] = [await converted(model, to), await converted(model, to, name)];
    const read = async (bytes: Uint8Array, tensor: string) => {
      const source = memorySource(bytes, 'read');
      const entry = requireTensor(await readGguf(source), tensor);
      const raw = new Uint8Array(entry.sizeBytes);
      await readTensorInto(source, entry, raw);
      return dequantize(
        entry.dtype,
        raw,
        entry.shape.reduce((a, b) => a * b),
      );
    };
    const found = finetuned.find((each) => each.name === name);
    for (const tensor of model.gguf.tensors.keys()) {
      const [, layer] = /^blk\.(\d+)\.attn_v\.weight$/.exec(tensor) ?? [];
      const was = await read(layer === undefined ? plain : model.bytes, tensor);
      const is = await read(merged, tensor);
      if (layer === undefined) {
        expect(is, tensor).toEqual(was);
        continue;
      }
      const delta = product(found?.layers[Number(layer)].values ?? []);
      const exact = was.map((x, i) => x + delta[i]);
      const bound = Math.max(...exact.map(Math.abs)) / 127;
      if (to === 'f32') expect(is).toEqual(exact);
      else if (to === 'f16') expect(is).toEqual(exact.map((x) => f16ToF32(f32ToF16(x))));
      else expect(apart(is, exact)).toBeLessThan(0.55 * bound);
    }
  });
});

/** The whole product, element by element. */
function product(values: readonly FinetunedMatrix[]): number[] {
  const [a, b] = values;
  return Array.from({ length: rows * dModel }, (_, at) => {
    if (!b) return a.numbers[at];
    const [row, column] = [Math.floor(at / dModel), at % dModel];
    let sum = 0;
    for (let i = 0; i < 2; i++) sum += b.numbers[2 * row + i] * a.numbers[dModel * i + column];
    return sum;
  });
}

describe('refused:', () => {
  test.each<[string, 'usage' | 'shape', RegExp]>([
    [
      'nosuch',
      'usage',
      /^convert: --merge nosuch needs an adapter .* has tuned=rank2; tuned=full; tuned=t; tuned=wide\. Run/,
    ],
    ['t', 'usage', /--merge t left the value projections as they were.* nothing to merge/],
    ['wide', 'shape', /--merge wide changes value projections of 40 columns; the model's have 32/],
  ])('%s', async (name, code, message) => {
    const model = await original('F32');
    const merging = mergedValues(model, model.file, name);
    await expect(merging).rejects.toMatchObject({ name: 'KvError', code });
    await expect(merging).rejects.toThrow(message);
  });

  test('a part for other layers, no adapter, and one of another model', async () => {
    const model = await original('F32');
    const bytes = await forgeBytes({ ...shape, nLayers: 1 });
    const source = memorySource(bytes, 'one layer');
    const gguf = await readGguf(source);
    const hash = await modelHash(gguf, source);
    const foreign = adapterBytes({ model: hash, text: '', temperatures: [], finetuned });
    const merge = (file: Original['file'] | undefined) =>
      mergedValues({ gguf, source }, file, 'full');
    await expect(merge({ name: 'x', bytes: foreign })).rejects.toMatchObject({ code: 'shape' });
    await expect(merge(undefined)).rejects.toThrow(
      /this model has no adapter\. Run h1bkv finetune/,
    );
    await expect(merge(model.file)).rejects.toThrow(/of forged: it was fitted for another model/);
    const half = { ...model.file, bytes: model.file.bytes.subarray(0, 100) };
    await expect(mergedValues(model, half, 'full')).rejects.toMatchObject({ code: 'format' });
  });
});
