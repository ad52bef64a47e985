/**
 * Reads GGUF files, versions 2 and 3, little-endian: the header only; tensors are read on demand.
 * Layout: magic, version, counts, metadata, tensor table, padding, tensor data.
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { KvError, ensure } from '../errors/errors.ts';
import type { DType } from '../math/dtype.ts';
import { ggmlTypeById, ggmlTypes, type GgmlType } from './ggml-types.ts';
import { HeaderCursor, safe } from './gguf-cursor.ts';
import {
  maxAlignment,
  maxArrayDepth,
  maxArrayLength,
  maxDimensions,
  maxKeyBytes,
  maxMetadataCount,
  maxStringBytes,
  maxStringsUnpacked,
  maxTensorCount,
  maxTensorNameBytes,
} from './gguf-limits.ts';
import { GgufStringList } from './gguf-string-list.ts';
import {
  arrayTypeId,
  ggufNumberTypes,
  ggufScalars,
  type GgufScalarType,
  type GgufType,
  type GgufValue,
} from './gguf-value.ts';
import type { ByteSource } from './source.ts';

export interface Gguf {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** The type of each metadata value, so that a file can be written back as it was. */
  readonly metadataTypes: ReadonlyMap<string, GgufType>;
  /** In the order of the tensor table. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  readonly alignment: number;
  /** Where tensor data starts, and the size of the header with its padding. */
  readonly dataOffset: number;
}

export interface GgufTensor {
  readonly name: string;
  /** GGML's name, such as `Q8_0`. */
  readonly type: string;
  /** undefined if the engine cannot compute with this type */
  readonly dtype: DType | undefined;
  /** Row-major, outermost first: a weight is [rows, columns]. GGUF's own order is the reverse. */
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly offset: number;
  readonly sizeBytes: number;
}

const defaultAlignment = 32;

/**
 * Reads and checks the whole header. Nothing in it is believed: every count, length and offset is
 * held against `gguf-limits.ts` and the size of the source before it is used.
 * @throws KvError "format" if the file is damaged, "unsupported" if it is another kind of GGUF
 */
export async function readGguf(source: ByteSource): Promise<Gguf> {
  const cursor = new HeaderCursor(source);
  const version = await readVersion(cursor, source.name);
  const tensorCount = await cursor.count(maxTensorCount, 'tensor count');
  const metadataCount = await cursor.count(maxMetadataCount, 'metadata count');
  const { metadata, metadataTypes } = await readMetadata(cursor, metadataCount, source.name);
  const alignment = alignmentOf(metadata, metadataTypes, source.name);
  const table: GgufTensor[] = [];
  for (let i = 0; i < tensorCount; i++) table.push(await readTensorRow(cursor, i, source.name));
  const dataOffset = Math.ceil(cursor.position / alignment) * alignment;
  const tensors = placeTensors(table, dataOffset, alignment, source);
  return { version, metadata, metadataTypes, tensors, alignment, dataOffset };
}

async function readVersion(cursor: HeaderCursor, file: string): Promise<number> {
  const magic = await cursor.u32('magic');
  const version = await cursor.u32('version');
  // A big-endian writer swaps the version, and some of them the magic too.
  if (magic === 0x47475546 || (magic === 0x46554747 && version !== 0 && version % 65536 === 0)) {
    throw new KvError(
      'unsupported',
      `gguf: ${file} is big-endian; supported: little-endian. Convert it with gguf_convert_endian.py.`,
    );
  }
  ensure(magic === 0x46554747, 'format', () => {
    const found = magic.toString(16).padStart(8, '0');
    return `gguf: ${file} starts with 0x${found}; a GGUF file starts with 0x46554747 ("GGUF"). Check the path.`;
  });
  ensure(version === 2 || version === 3, 'unsupported', () => {
    const next = version > 3 ? 'Update this package' : 'Convert the model again';
    return `gguf: ${file} has version ${version}; supported: 2 3. ${next}.`;
  });
  return version;
}

async function readMetadata(cursor: HeaderCursor, count: number, file: string) {
  const metadata = new Map<string, GgufValue>();
  const metadataTypes = new Map<string, GgufType>();
  for (let i = 0; i < count; i++) {
    const key = await cursor.string(maxKeyBytes, `metadata key ${i}`);
    ensure(
      !metadata.has(key),
      'format',
      () => `gguf: ${file}: metadata "${key}" is there twice; each key may be once. It is damaged.`,
    );
    const { type, value } = await readEntry(cursor, `metadata "${key}"`, file);
    metadata.set(key, value);
    metadataTypes.set(key, type);
  }
  return { metadata, metadataTypes };
}

async function readEntry(
  cursor: HeaderCursor,
  what: string,
  file: string,
): Promise<{ type: GgufType; value: GgufValue }> {
  const id = await cursor.u32(`type of ${what}`);
  if (id !== arrayTypeId) {
    const type = scalarType(id, what, file);
    return { type, value: await readScalar(cursor, type, what, file) };
  }
  const itemId = await cursor.u32(`item type of ${what}`);
  ensure(itemId !== arrayTypeId, 'unsupported', () => {
    return `gguf: ${file}: ${what} is an array of arrays; supported: depth ${maxArrayDepth}. Remove that key.`;
  });
  const type = scalarType(itemId, what, file);
  const length = await cursor.count(maxArrayLength, `length of ${what}`);
  return { type: `${type}[]`, value: await readArray(cursor, type, length, what, file) };
}

function scalarType(id: number, what: string, file: string): GgufScalarType {
  const type = ggufScalars[id];
  if (type === undefined || type === 'array') {
    throw new KvError(
      'format',
      `gguf: ${file}: ${what} has value type ${id}; known: 0 to ${ggufScalars.length - 1}. ` +
        `It is damaged: fetch it again.`,
    );
  }
  return type;
}

async function readScalar(
  cursor: HeaderCursor,
  type: GgufScalarType,
  what: string,
  file: string,
): Promise<number | bigint | boolean | string> {
  if (type === 'string') return cursor.string(maxStringBytes, what);
  if (type === 'bool') return toBoolean((await cursor.take(1, what)).getUint8(0), what, file);
  const { bytes, read } = ggufNumberTypes[type];
  const value = read(await cursor.take(bytes, what));
  return typeof value === 'bigint' ? safe(value) : value;
}

async function readArray(
  cursor: HeaderCursor,
  type: GgufScalarType,
  length: number,
  what: string,
  file: string,
): Promise<GgufValue> {
  if (type === 'string') {
    cursor.ensureRemaining(8 * length, what); // every string has at least its length
    const strings = length > maxStringsUnpacked ? new GgufStringList() : new Array<string>();
    while (strings.length < length) {
      strings.push(await cursor.string(maxStringBytes, what));
      cursor.stringsInWindow(strings, length, what);
    }
    return strings;
  }
  if (type === 'bool') {
    const view = await cursor.take(length, what);
    return Array.from({ length }, (_, i) => toBoolean(view.getUint8(i), what, file));
  }
  const { bytes, array } = ggufNumberTypes[type];
  const view = await cursor.take(length * bytes, what);
  return array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

function toBoolean(byte: number, what: string, file: string): boolean {
  ensure(
    byte <= 1,
    'format',
    () => `gguf: ${file}: ${what} is a boolean of ${byte}; allowed: 0 1. It is damaged.`,
  );
  return byte === 1;
}

/** The alignment of tensor data that this metadata asks for; shared with the writer. */
export function alignmentOf(
  metadata: ReadonlyMap<string, unknown>,
  types: ReadonlyMap<string, GgufType>,
  file: string,
): number {
  const found = metadata.get('general.alignment') ?? defaultAlignment;
  const type = types.get('general.alignment') ?? 'u32';
  if (
    typeof found !== 'number' ||
    type !== 'u32' ||
    found < 1 ||
    found > maxAlignment ||
    !Number.isInteger(Math.log2(found))
  ) {
    throw new KvError(
      'format',
      `gguf: ${file}: metadata "general.alignment" is ${type} ${String(found).slice(0, 40)}; ` +
        `allowed: u32 powers of two up to ${maxAlignment}. It is damaged.`,
    );
  }
  return found;
}

/** One row of the tensor table; `offset` is still relative to the tensor data. */
async function readTensorRow(
  cursor: HeaderCursor,
  index: number,
  file: string,
): Promise<GgufTensor> {
  const name = await cursor.string(maxTensorNameBytes, `name of tensor ${index}`);
  const what = `tensor "${name}"`;
  const nDims = await cursor.u32(`dimension count of ${what}`);
  ensure(
    nDims >= 1 && nDims <= maxDimensions,
    'format',
    () => `gguf: ${file}: ${what} has ${nDims} dimensions; allowed: 1 to ${maxDimensions}.`,
  );
  const shape: number[] = [];
  let elements = 1;
  for (let i = 0; i < nDims; i++) {
    // So that the product stays exact: at most 2^53 divided by what is there already.
    const limit = Math.floor(Number.MAX_SAFE_INTEGER / elements);
    const size = await cursor.count(limit, `dimension ${i} of ${what}`);
    ensure(
      size > 0,
      'format',
      () => `gguf: ${file}: ${what} has dimension ${i} of 0; at least 1 is needed.`,
    );
    elements *= size;
    shape.unshift(size);
  }
  const type = tensorType(await cursor.u32(`type of ${what}`), what, file);
  const columns = shape[nDims - 1];
  ensure(
    columns % type.elements === 0,
    'format',
    () =>
      `gguf: ${file}: ${what} is ${type.name} with rows of ${columns}; ` +
      `they must be multiples of ${type.elements}.`,
  );
  const offset = await cursor.count(Number.MAX_SAFE_INTEGER, `offset of ${what}`);
  const sizeBytes = (elements / type.elements) * type.bytes;
  return { name, type: type.name, dtype: type.dtype, shape, offset, sizeBytes };
}

function tensorType(id: number, what: string, file: string): GgmlType {
  const type = ggmlTypeById(id);
  if (!type) {
    const known = ggmlTypes.map((t) => t.id).join(' ');
    throw new KvError(
      'unsupported',
      `gguf: ${file}: ${what} has GGML type ${id}; known: ${known}. ` +
        `Update this package, or re-quantize to Q8_0.`,
    );
  }
  return type;
}

/** Makes offsets absolute, and checks that every tensor has bytes of its own inside the file. */
function placeTensors(
  table: readonly GgufTensor[],
  dataOffset: number,
  alignment: number,
  source: ByteSource,
): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (const row of table) {
    const what = `gguf: ${source.name}: tensor "${row.name}"`;
    ensure(!tensors.has(row.name), 'format', () => `${what} is there twice. It is damaged.`);
    ensure(
      row.offset % alignment === 0,
      'format',
      () => `${what} is at offset ${row.offset}; it must be a multiple of ${alignment}.`,
    );
    const offset = dataOffset + row.offset;
    ensure(
      offset + row.sizeBytes <= source.sizeBytes,
      'format',
      () =>
        `${what} has ${row.sizeBytes} bytes at ${offset}, but the file ends at ` +
        `${source.sizeBytes}. It is truncated or damaged: fetch it again.`,
    );
    tensors.set(row.name, { ...row, offset });
  }
  const inOrder = [...tensors.values()].sort((a, b) => a.offset - b.offset);
  for (let i = 1; i < inOrder.length; i++) {
    const [before, after] = [inOrder[i - 1], inOrder[i]];
    ensure(
      before.offset + before.sizeBytes <= after.offset,
      'format',
      () =>
        `gguf: ${source.name}: tensors "${before.name}" and "${after.name}" overlap at ` +
        `${after.offset}. It is damaged: fetch it again.`,
    );
  }
  return tensors;
}

/**
 * Reads a tensor's bytes as the file has them.
 * @param target exactly `tensor.sizeBytes` bytes, possibly shared memory
 */
export async function readTensorInto(
  source: ByteSource,
  tensor: GgufTensor,
  target: Uint8Array,
): Promise<void> {
  ensure(
    target.length === tensor.sizeBytes,
    'shape',
    () =>
      `gguf: tensor "${tensor.name}" has ${tensor.sizeBytes} bytes; ` +
      `the target has ${target.length}. Make them equal.`,
  );
  await source.read(tensor.offset, target);
}
