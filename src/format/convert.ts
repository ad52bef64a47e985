import { ensure } from '../errors/errors.ts';
import { dtypeBlocks, elementCount } from '../math/dtype.ts';
import { dequantize, encode } from '../math/blocks.ts';
import type { Gguf, GgufTensor } from './gguf.ts';
import { getNumber, getString, usable } from './gguf-access.ts';
import { metadataEntries, writeGguf } from './gguf-write.ts';
import { ropeStyleKey } from './hf-config.ts';
import type { ByteSink, ByteSource } from './source.ts';

export type ConvertType = 'q8_0' | 'q4_0' | 'f16' | 'f32';

/**
 * What is added to some neighbouring rows of a matrix.
 * @returns [rowCount, columns]
 */
export type AddedRows = (firstRow: number, rowCount: number) => Float64Array;

export interface ConvertOptions {
  /** by the names of matrices */
  readonly added?: ReadonlyMap<string, AddedRows>;
  /** called after every chunk, with elements done and in all */
  readonly onProgress?: (done: number, total: number) => void;
}

/** `general.file_type` values, from llama.cpp's `llama_ftype`. */
const fileTypes: Readonly<Record<ConvertType, number>> = { f32: 0, f16: 1, q4_0: 2, q8_0: 7 };

/** About how many elements are in memory at a time, once as f32 and once in each file's type. */
const chunkElements = 1 << 20;

/**
 * Writes a model again with its weights in another type. Matrices become `type`, or f16 where
 * their rows are not whole blocks of it, as llama.cpp does; vectors (norms, RoPE factors) become
 * f32; everything else, metadata and order included, stays as it is. A llama model from a Hugging
 * Face folder gets GGUF's order of rows. Some rows of one tensor are in memory at a time.
 * @throws KvError "unsupported" if a matrix or vector has a type that the engine cannot read,
 *   "not-finite" if a weight is NaN or infinite, or too large for `type`
 */
export async function convertGguf(
  source: ByteSource,
  gguf: Gguf,
  sink: ByteSink,
  type: ConvertType,
  { added, onProgress }: ConvertOptions = {},
): Promise<void> {
  const metadata = metadataEntries(gguf);
  const pairs = pairedRows(gguf);
  metadata.delete(ropeStyleKey);
  metadata.set('general.file_type', { type: 'u32', value: fileTypes[type] });
  // The specification requires it of quantized files; 2 is GGML's GGML_QNT_VERSION.
  if (type === 'q8_0' || type === 'q4_0')
    metadata.set('general.quantization_version', { type: 'u32', value: 2 });

  const all = [...gguf.tensors.values()];
  const total = all.reduce((sum, tensor) => sum + elementCount(tensor.shape), 0);
  let done = 0;
  const tensors = all.map((tensor) => {
    const target = targetOf(tensor, type);
    // Before anything is written: a model that cannot be read must fail at once.
    if (target) usable(tensor);
    const change = { target, pairs, added: added?.get(tensor.name) };
    return {
      name: tensor.name,
      type: target ? target.toUpperCase() : tensor.type,
      shape: tensor.shape,
      async *data() {
        for await (const { bytes, elements } of convertedChunks(source, tensor, change)) {
          yield bytes;
          onProgress?.((done += elements), total);
        }
      },
    };
  });
  await writeGguf(sink, { metadata, tensors });
}

/** The type that a tensor is to have; undefined if it stays as it is. */
function targetOf({ shape }: GgufTensor, type: ConvertType): ConvertType | undefined {
  if (shape.length === 1) return 'f32';
  if (shape.length !== 2) return undefined;
  return shape[1] % dtypeBlocks[type].elements === 0 ? type : 'f16';
}

/** Rows of a head, for tensors whose rows are to be paired; undefined for others. */
type PairedRows = (tensor: GgufTensor) => number | undefined;

/**
 * In GGUF, a llama model's rotating pairs (i, i + d/2) of a head of d rows lie side by side; where
 * the metadata says `halves`, queries and keys, weights and biases, are still to be put so.
 */
function pairedRows(gguf: Gguf): PairedRows {
  if (getString(gguf, ropeStyleKey, 'adjacent') !== 'halves') return () => undefined;
  const architecture = getString(gguf, 'general.architecture');
  const headRows = getNumber(gguf, `${architecture}.attention.key_length`);
  return ({ name, shape }) => {
    if (!/^blk\.\d+\.attn_[qk]\./.test(name)) return undefined;
    ensure(
      headRows > 0 && headRows % 2 === 0 && shape[0] % headRows === 0,
      'format',
      () =>
        `gguf: tensor "${name}" has ${shape[0]} rows in heads of ${headRows}; need whole heads ` +
        `with an even number of rows. Fetch the model again.`,
    );
    return headRows;
  };
}

/** What becomes of a tensor. */
interface Change {
  readonly target: ConvertType | undefined;
  readonly pairs: PairedRows;
  readonly added: AddedRows | undefined;
}

/** The tensor's bytes in its new type, some whole rows at a time. */
async function* convertedChunks(
  source: ByteSource,
  tensor: GgufTensor,
  { target, pairs, added }: Change,
): AsyncGenerator<{ bytes: Uint8Array; elements: number }> {
  const headRows = pairs(tensor);
  // A bias has one row per element where rows move.
  const columns = headRows && tensor.shape.length === 1 ? 1 : tensor.shape[tensor.shape.length - 1];
  const rows = elementCount(tensor.shape) / columns;
  const rowBytes = tensor.sizeBytes / rows;
  const step = headRows ?? 1;
  const rowsPerChunk = Math.max(1, Math.floor(chunkElements / columns / step)) * step;
  for (let row = 0; row < rows; row += rowsPerChunk) {
    const count = Math.min(rowsPerChunk, rows - row);
    const bytes = new Uint8Array(count * rowBytes);
    await source.read(tensor.offset + row * rowBytes, bytes);
    const placed = headRows ? pairHalves(bytes, rowBytes, headRows) : bytes;
    const elements = count * columns;
    const rowsAdded = added?.(row, count);
    yield {
      bytes: target ? recode(tensor, target, placed, elements, rowsAdded) : placed,
      elements,
    };
  }
}

/** Whole heads with their rows 0, d/2, 1, d/2 + 1 and so on, as llama.cpp's converter has them. */
function pairHalves(bytes: Uint8Array, rowBytes: number, headRows: number): Uint8Array {
  const paired = new Uint8Array(bytes.length);
  for (let row = 0; row < bytes.length / rowBytes; row++) {
    const inHead = row % headRows;
    const from = row - inHead + (inHead % 2) * (headRows / 2) + Math.floor(inHead / 2);
    paired.set(bytes.subarray(from * rowBytes, (from + 1) * rowBytes), row * rowBytes);
  }
  return paired;
}

function recode(
  tensor: GgufTensor,
  target: ConvertType,
  bytes: Uint8Array,
  elements: number,
  added?: Float64Array,
): Uint8Array {
  const { dtype } = usable(tensor);
  if (dtype === target && !added) return bytes;
  const values = dequantize(dtype, bytes, elements);
  added?.forEach((x, i) => (values[i] += x));
  return encode(target, values);
}
