/**
 * Reads the header of a safetensors file; tensors are read on demand.
 * Layout: u64 header length, header (JSON), tensor data without gaps.
 * Source: https://huggingface.co/docs/safetensors
 */
import { KvError, ensure } from '../errors/errors.ts';
import { elementCount } from '../math/dtype.ts';
import { maxTensorCount } from './gguf-limits.ts';
import { asObject, describe } from './hf-json.ts';
import type { ByteSource } from './source.ts';

export interface SafetensorsEntry {
  /** The format's name, such as `BF16`. */
  readonly dtype: string;
  /** Row-major, outermost first; empty for a single number. */
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly offset: number;
  readonly sizeBytes: number;
}

export interface SafetensorsHeader {
  /** By name, in the header's order. */
  readonly tensors: Map<string, SafetensorsEntry>;
  /** What the file says about itself: words, by word. */
  readonly metadata: ReadonlyMap<string, string>;
}

/** The format's own limit, so that a header can be parsed in memory. */
export const maxSafetensorsHeaderBytes = 100_000_000;

/** Far more than the five of any known model; the format itself sets none. */
const maxDimensions = 16;

/** Bits per element of every type that the format has, used by the engine or not. */
const bitsOf: ReadonlyMap<string, number> = new Map([
  ['BOOL', 8],
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['U8', 8],
  ['I8', 8],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['I16', 16],
  ['U16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['I32', 32],
  ['U32', 32],
  ['F32', 32],
  ['C64', 64],
  ['F64', 64],
  ['I64', 64],
  ['U64', 64],
]);

const lengthBytes = 8;

/**
 * Reads and checks the header: every length, shape and offset is held against the limits and the
 * size of the source before it is used, and the tensors must fill the file without gap or overlap.
 * @throws KvError "format" if the file is damaged, "unsupported" for an unknown element type
 */
export async function readSafetensors(source: ByteSource): Promise<SafetensorsHeader> {
  const where = `safetensors: ${source.name}`;
  const header = await readHeader(source, where);
  const dataOffset = lengthBytes + header.sizeBytes;
  const rows = Object.entries(header.json).filter(([name]) => name !== metadataKey);
  ensure(
    rows.length <= maxTensorCount,
    'format',
    () => `${where} has ${rows.length} tensors; at most ${maxTensorCount} are allowed.`,
  );
  const tensors = new Map(
    rows.map(([name, row]) => [name, readRow(row, dataOffset, `${where}: tensor "${name}"`)]),
  );
  ensureWithoutGaps(tensors, dataOffset, source);
  return { tensors, metadata: readMetadata(header.json[metadataKey], where) };
}

const metadataKey = '__metadata__';

function readMetadata(value: unknown, where: string): Map<string, string> {
  const words =
    value === undefined || value === null ? {} : asObject(value, `${where}: the metadata`);
  return new Map(
    Object.entries(words).map(([key, word]) => {
      if (typeof word === 'string') return [key, word];
      throw new KvError(
        'format',
        `${where}: metadata "${key}" is ${describe(word)}; need a string. Fetch the file again.`,
      );
    }),
  );
}

async function readHeader(source: ByteSource, where: string) {
  ensure(
    source.sizeBytes > lengthBytes,
    'format',
    () => `${where} has ${source.sizeBytes} bytes, too few for a header. Fetch it again.`,
  );
  const prefix = new Uint8Array(lengthBytes);
  await source.read(0, prefix);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  const limit = Math.min(maxSafetensorsHeaderBytes, source.sizeBytes - lengthBytes);
  ensure(
    length <= limit,
    'format',
    () =>
      `${where} says that its header has ${length} bytes; at most ${limit} are possible. ` +
      `It is truncated or no safetensors file: fetch it again.`,
  );
  const bytes = new Uint8Array(Number(length));
  await source.read(lengthBytes, bytes);
  return { sizeBytes: bytes.length, json: parseHeader(bytes, where) };
}

function parseHeader(bytes: Uint8Array, where: string) {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (cause) {
    throw new KvError('format', `${where} has a header that is no JSON. Fetch the file again.`, {
      cause,
    });
  }
  return asObject(json, `${where}: the header`);
}

function readRow(value: unknown, dataOffset: number, what: string): SafetensorsEntry {
  const { dtype, shape, data_offsets: range } = asObject(value, what);
  const bits = typeof dtype === 'string' ? bitsOf.get(dtype) : undefined;
  if (typeof dtype !== 'string' || bits === undefined) {
    const known = [...bitsOf.keys()].join(' ');
    throw new KvError(
      'unsupported',
      `${what} has type ${describe(dtype)}; known: ${known}. Update this package.`,
    );
  }
  ensure(
    isSizes(shape) && shape.length <= maxDimensions,
    'format',
    () =>
      `${what} has shape ${describe(shape)}; need at most ${maxDimensions} whole numbers ` +
      `from 0 on. The file is damaged: fetch it again.`,
  );
  ensure(
    isSizes(range) && range.length === 2 && range[0] <= range[1],
    'format',
    () => `${what} has offsets ${describe(range)}; need [begin, end]. Fetch the file again.`,
  );
  const sizeBytes = (elementCount(shape) * bits) / 8;
  ensure(
    Number.isSafeInteger(sizeBytes) && sizeBytes === range[1] - range[0],
    'format',
    () =>
      `${what} is ${dtype} [${shape.join(', ')}], ${sizeBytes} bytes; its offsets say ` +
      `${range[1] - range[0]}. The file is damaged: fetch it again.`,
  );
  return { dtype, shape, offset: dataOffset + range[0], sizeBytes };
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((x) => Number.isSafeInteger(x) && x >= 0);
}

function ensureWithoutGaps(
  tensors: ReadonlyMap<string, SafetensorsEntry>,
  dataOffset: number,
  source: ByteSource,
): void {
  const where = `safetensors: ${source.name}`;
  // Empty tensors first, or they would seem to lie inside the one that begins at the same byte.
  const inOrder = [...tensors].sort(
    ([, a], [, b]) => a.offset - b.offset || a.sizeBytes - b.sizeBytes,
  );
  let end = dataOffset;
  for (const [name, { offset, sizeBytes }] of inOrder) {
    ensure(
      offset === end,
      'format',
      () =>
        `${where}: tensor "${name}" begins at byte ${offset}, but the one before it ends at ` +
        `${end}. Gaps and overlaps are not allowed: fetch the file again.`,
    );
    end += sizeBytes;
  }
  ensure(
    end === source.sizeBytes,
    'format',
    () =>
      `${where} has ${source.sizeBytes} bytes, but its tensors end at ${end}. ` +
      `It is truncated or damaged: fetch it again.`,
  );
}
