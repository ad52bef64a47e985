/** Writes GGUF version 3, streamed: the header, then one tensor after the other. */
import { KvError, ensure } from '../errors/errors.ts';
import { elementCount } from '../math/dtype.ts';
import { ggmlTypeByName, ggmlTypes, type GgmlType } from './ggml-types.ts';
import { alignmentOf, type Gguf } from './gguf.ts';
import { maxDimensions, maxKeyBytes, maxTensorNameBytes } from './gguf-limits.ts';
import { GgufStringList } from './gguf-string-list.ts';
import {
  arrayTypeId,
  ggufNumberTypes,
  ggufScalars,
  type GgufNumberType,
  type GgufScalarType,
  type GgufType,
  type GgufValue,
} from './gguf-value.ts';
import type { ByteSink } from './source.ts';

/** A metadata value with its type in the file; arrays of numbers may be plain arrays. */
export interface GgufEntry {
  readonly type: GgufType;
  readonly value: GgufValue | readonly number[];
}

export interface TensorToWrite {
  readonly name: string;
  /** GGML's name, such as `Q8_0`. */
  readonly type: string;
  /** Row-major, outermost first: [rows, columns]. */
  readonly shape: readonly number[];
  /** Called once, when it is this tensor's turn; its bytes must add up to the tensor's size. */
  data(): Promise<Uint8Array> | AsyncIterable<Uint8Array>;
}

/** The metadata of a file that was read, to write it back with the same types. */
export function metadataEntries(gguf: Pick<Gguf, 'metadata' | 'metadataTypes'>) {
  const entries = new Map<string, GgufEntry>();
  for (const [key, value] of gguf.metadata) {
    const type = gguf.metadataTypes.get(key);
    if (type !== undefined) entries.set(key, { type, value });
  }
  return entries;
}

/**
 * Writes a whole file. Tensor data is aligned to `general.alignment` if the metadata has it,
 * otherwise to 32 bytes.
 * @throws KvError "shape" if a tensor's data has another size than its shape says, "range" if a
 *   value does not fit its type, "unsupported" for an unknown tensor type
 */
export async function writeGguf(
  sink: ByteSink,
  file: {
    readonly metadata: ReadonlyMap<string, GgufEntry>;
    readonly tensors: readonly TensorToWrite[];
  },
): Promise<void> {
  const values = new Map([...file.metadata].map(([key, entry]) => [key, entry.value]));
  const types = new Map([...file.metadata].map(([key, entry]) => [key, entry.type]));
  const alignment = alignmentOf(values, types, 'new file');
  const header = encodeHeader(file.metadata, file.tensors, alignment);
  await sink.write(header);
  await sink.write(padding(header.length, alignment));
  for (const tensor of file.tensors) {
    const sizeBytes = tensorBytes(tensor);
    let written = 0;
    for await (const chunk of chunksOf(tensor)) {
      written += chunk.length;
      if (written > sizeBytes) break;
      await sink.write(chunk);
    }
    ensure(
      written === sizeBytes,
      'shape',
      () =>
        `gguf: tensor "${tensor.name}" is ${tensor.type} [${tensor.shape.join(', ')}], ` +
        `${sizeBytes} bytes; its data has ${written > sizeBytes ? 'more' : written}.`,
    );
    await sink.write(padding(sizeBytes, alignment));
  }
}

function padding(sizeBytes: number, alignment: number): Uint8Array {
  return new Uint8Array((alignment - (sizeBytes % alignment)) % alignment);
}

async function* chunksOf(tensor: TensorToWrite): AsyncGenerator<Uint8Array> {
  const data = tensor.data();
  if (Symbol.asyncIterator in data) yield* data;
  else yield await data;
}

function typeOf(tensor: TensorToWrite): GgmlType {
  const type = ggmlTypeByName(tensor.type);
  if (!type) {
    const known = ggmlTypes.map((t) => t.name).join(' ');
    throw new KvError('unsupported', `gguf: tensor type ${tensor.type}; known: ${known}.`);
  }
  return type;
}

function tensorBytes(tensor: TensorToWrite): number {
  const type = typeOf(tensor);
  const { name, shape } = tensor;
  const columns = shape.at(-1) ?? 0;
  ensure(
    shape.length >= 1 &&
      shape.length <= maxDimensions &&
      shape.every((size) => Number.isSafeInteger(size) && size > 0) &&
      columns % type.elements === 0,
    'shape',
    () =>
      `gguf: tensor "${name}" is ${type.name} [${shape.join(', ')}]; need 1 to ` +
      `${maxDimensions} dimensions, rows a multiple of ${type.elements}.`,
  );
  return (elementCount(shape) / type.elements) * type.bytes;
}

function encodeHeader(
  metadata: ReadonlyMap<string, GgufEntry>,
  tensors: readonly TensorToWrite[],
  alignment: number,
): Uint8Array {
  const out = new HeaderBytes();
  out.number('u32', 0x46554747); // "GGUF"
  out.number('u32', 3);
  out.number('u64', tensors.length);
  out.number('u64', metadata.size);
  for (const [key, entry] of metadata) {
    out.string(key, maxKeyBytes);
    out.entry(key, entry);
  }
  let offset = 0;
  const names = new Set<string>();
  for (const tensor of tensors) {
    ensure(
      !names.has(tensor.name),
      'format',
      () => `gguf: tensor "${tensor.name}" is there twice; names must differ.`,
    );
    names.add(tensor.name);
    out.string(tensor.name, maxTensorNameBytes);
    out.number('u32', tensor.shape.length);
    for (const size of tensor.shape.toReversed()) out.number('u64', size);
    out.number('u32', typeOf(tensor).id);
    out.number('u64', offset);
    offset += Math.ceil(tensorBytes(tensor) / alignment) * alignment;
  }
  return out.bytes();
}

/** Limits of the integer types; a float holds any number. */
const integerRanges: Partial<Record<GgufNumberType, [bigint, bigint]>> = {
  u8: [0n, 2n ** 8n],
  i8: [-(2n ** 7n), 2n ** 7n],
  u16: [0n, 2n ** 16n],
  i16: [-(2n ** 15n), 2n ** 15n],
  u32: [0n, 2n ** 32n],
  i32: [-(2n ** 31n), 2n ** 31n],
  u64: [0n, 2n ** 64n],
  i64: [-(2n ** 63n), 2n ** 63n],
};

function isArrayLike(value: unknown): value is ArrayLike<unknown> {
  return Array.isArray(value) || ArrayBuffer.isView(value);
}

/** Bytes that grow as values are appended, little-endian. */
class HeaderBytes {
  private buffer = new Uint8Array(1 << 16);
  private view = new DataView(this.buffer.buffer);
  private length = 0;
  private readonly utf8 = new TextEncoder();

  bytes(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }

  entry(key: string, { type, value }: GgufEntry): void {
    const what = `metadata "${key}"`;
    if (!type.endsWith('[]')) {
      this.number('u32', ggufScalars.indexOf(type as GgufScalarType));
      this.scalar(type as GgufScalarType, value, what);
      return;
    }
    const itemType = type.slice(0, -2) as GgufScalarType;
    const items: unknown = value instanceof GgufStringList ? [...value] : value;
    if (!isArrayLike(items)) throw wrongValue(what, type, value);
    this.number('u32', arrayTypeId);
    this.number('u32', ggufScalars.indexOf(itemType));
    this.number('u64', items.length);
    for (let i = 0; i < items.length; i++) this.scalar(itemType, items[i], what);
  }

  private scalar(type: GgufScalarType, value: unknown, what: string): void {
    if (type === 'string') {
      if (typeof value !== 'string') throw wrongValue(what, type, value);
      this.string(value, Infinity);
    } else if (type === 'bool') {
      if (typeof value !== 'boolean') throw wrongValue(what, type, value);
      this.number('u8', value ? 1 : 0);
    } else {
      const range = integerRanges[type];
      const isInteger = typeof value === 'bigint' || Number.isInteger(value);
      if (typeof value !== 'number' && typeof value !== 'bigint') {
        throw wrongValue(what, type, value);
      }
      if (range ? !isInteger || value < range[0] || value >= range[1] : typeof value === 'bigint') {
        throw wrongValue(what, type, value);
      }
      this.number(type, value);
    }
  }

  string(value: string, limitBytes: number): void {
    // TextEncoder would silently write U+FFFD, and the string would not read back the same.
    ensure(
      !/\p{Surrogate}/u.test(value),
      'format',
      () => `gguf: string ${JSON.stringify(value.slice(0, 40))} has half a surrogate pair.`,
    );
    const bytes = this.utf8.encode(value);
    ensure(
      bytes.length <= limitBytes,
      'range',
      () => `gguf: name "${value.slice(0, 40)}" has ${bytes.length} bytes; at most ${limitBytes}.`,
    );
    this.number('u64', bytes.length);
    this.reserve(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  number(type: GgufNumberType, value: number | bigint): void {
    const { bytes } = ggufNumberTypes[type];
    this.reserve(bytes);
    if (type === 'u64' || type === 'i64') this.view.setBigInt64(this.length, BigInt(value), true);
    else if (type === 'f32') this.view.setFloat32(this.length, Number(value), true);
    else if (type === 'f64') this.view.setFloat64(this.length, Number(value), true);
    else if (bytes === 4) this.view.setInt32(this.length, Number(value), true);
    else if (bytes === 2) this.view.setInt16(this.length, Number(value), true);
    else this.view.setInt8(this.length, Number(value));
    this.length += bytes;
  }

  private reserve(bytes: number): void {
    if (this.length + bytes <= this.buffer.length) return;
    const grown = new Uint8Array(Math.max(2 * this.buffer.length, this.length + bytes));
    grown.set(this.bytes());
    this.buffer = grown;
    this.view = new DataView(grown.buffer);
  }
}

function wrongValue(what: string, type: GgufType, value: unknown): KvError {
  const shown = String(value).slice(0, 40);
  return new KvError('range', `gguf: ${what} is ${shown}; that is no ${type}.`);
}
