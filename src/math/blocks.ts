/** Numbers to and from the bytes that tensors hold, exactly as GGML's reference does it. */
import { KvError, ensure } from '../errors/errors.ts';
import { dtypeBlocks, weightDTypes, type DType, type WeightDType } from './dtype.ts';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from './f16.ts';

/** Types that weights can be written in. */
export type EncodableDType = Extract<WeightDType, 'f32' | 'f16' | 'bf16' | 'q8_0' | 'q4_0'>;

const q8 = dtypeBlocks.q8_0;

/**
 * Values of `count` elements.
 * @param bytes exactly those elements, at any alignment
 * @throws KvError "shape" if sizes do not fit, "not-finite" for NaN or infinity, "unsupported" for
 *   types that hold no weights
 */
export function dequantize(
  dtype: DType,
  bytes: Uint8Array,
  count: number,
): Float32Array<ArrayBuffer> {
  const out = decodeBlocks(dtype, bytes, count);
  ensureFinite(out, dtype);
  return out;
}

/** As `dequantize`, but NaN and infinity are let through. */
export function decodeBlocks(
  dtype: DType,
  bytes: Uint8Array,
  count: number,
): Float32Array<ArrayBuffer> {
  if (!isWeightDType(dtype)) {
    throw new KvError(
      'unsupported',
      `${dtype} holds no weights; supported: ${weightDTypes.join(' ')}.`,
    );
  }
  const block = dtypeBlocks[dtype];
  const needed = (count / block.elements) * block.bytes;
  ensure(
    needed === bytes.length,
    'shape',
    () => `${count} elements of ${dtype} take ${needed} bytes; found ${bytes.length}.`,
  );
  const out = new Float32Array(count);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const decode = decoders[dtype];
  for (let i = 0, at = 0; i < count; i += block.elements, at += block.bytes) {
    decode(view, at, out, i);
  }
  return out;
}

function isWeightDType(dtype: DType): dtype is WeightDType {
  return (weightDTypes as readonly DType[]).includes(dtype);
}

/** Writes the elements of the block at byte `at` to `out` from `to` on. */
type DecodeBlock = (view: DataView, at: number, out: Float32Array, to: number) => void;

const half = (view: DataView, at: number): number => f16ToF32(view.getUint16(at, true));

/** Element j of a 16-byte run of nibbles: the low ones first, then the high ones. */
const nibble = (view: DataView, at: number, j: number): number =>
  j < 16 ? view.getUint8(at + j) & 15 : view.getUint8(at + j - 16) >> 4;

/** Blocks of 32 codes: value = scale * (code - centre), or scale * code + minimum. */
function blocksOf32(bits: 4 | 5, centre?: number): DecodeBlock {
  const hasMinimum = centre === undefined;
  const fifthFrom = hasMinimum ? 4 : 2;
  const codesFrom = bits === 5 ? fifthFrom + 4 : fifthFrom;
  return (view, at, out, to) => {
    const scale = half(view, at);
    const minimum = hasMinimum ? half(view, at + 2) : 0;
    const fifth = bits === 5 ? view.getUint32(at + fifthFrom, true) : 0;
    for (let j = 0; j < 32; j++) {
      const code = nibble(view, at + codesFrom, j) | (((fifth >>> j) & 1) << 4);
      out[to + j] = hasMinimum ? scale * code + minimum : scale * (code - centre);
    }
  };
}

/** Scale and minimum j (of 8) of a Q4_K or Q5_K block: 6 bits each, packed into 12 bytes. */
function packedScale(view: DataView, at: number, j: number): { scale: number; minimum: number } {
  const byte = (i: number) => view.getUint8(at + i);
  if (j < 4) return { scale: byte(j) & 63, minimum: byte(j + 4) & 63 };
  return {
    scale: (byte(j + 4) & 15) | ((byte(j - 4) >> 6) << 4),
    minimum: (byte(j + 4) >> 4) | ((byte(j) >> 6) << 4),
  };
}

/** Q4_K and Q5_K: 8 runs of 32 codes; value = d * scale * code - dMin * minimum. */
function superBlocks(bits: 4 | 5): DecodeBlock {
  const codesFrom = bits === 5 ? 48 : 16;
  return (view, at, out, to) => {
    const [d, dMin] = [half(view, at), half(view, at + 2)];
    for (let run = 0; run < 8; run++) {
      const { scale, minimum } = packedScale(view, at + 4, run);
      const codesAt = at + codesFrom + (run >> 1) * 32;
      for (let j = 0; j < 32; j++) {
        const byte = view.getUint8(codesAt + j);
        const high = bits === 5 ? ((view.getUint8(at + 16 + j) >> run) & 1) << 4 : 0;
        const code = (run % 2 === 0 ? byte & 15 : byte >> 4) | high;
        out[to + run * 32 + j] = d * scale * code - dMin * minimum;
      }
    }
  };
}

/** Q6_K: 128 bytes of low nibbles, 64 of upper bits, 16 scales in i8, d; 16 codes share a scale. */
const decodeQ6K: DecodeBlock = (view, at, out, to) => {
  const d = half(view, at + 208);
  for (let run = 0; run < 8; run++) {
    const [part, quarter] = [run >> 2, run & 3];
    for (let j = 0; j < 32; j++) {
      const byte = view.getUint8(at + 64 * part + 32 * (quarter & 1) + j);
      const upper = (view.getUint8(at + 128 + 32 * part + j) >> (2 * quarter)) & 3;
      const code = ((quarter < 2 ? byte & 15 : byte >> 4) | (upper << 4)) - 32;
      const scale = view.getInt8(at + 192 + 8 * part + 2 * quarter + (j >> 4));
      out[to + run * 32 + j] = d * scale * code;
    }
  }
};

const decoders: Readonly<Record<WeightDType, DecodeBlock>> = {
  f32: (view, at, out, to) => (out[to] = view.getFloat32(at, true)),
  f16: (view, at, out, to) => (out[to] = half(view, at)),
  bf16: (view, at, out, to) => (out[to] = bf16ToF32(view.getUint16(at, true))),
  q8_0: (view, at, out, to) => {
    const scale = half(view, at);
    for (let j = 0; j < 32; j++) out[to + j] = scale * view.getInt8(at + 2 + j);
  },
  q4_0: blocksOf32(4, 8),
  q4_1: blocksOf32(4),
  q5_0: blocksOf32(5, 16),
  q5_1: blocksOf32(5),
  q4_k: superBlocks(4),
  q5_k: superBlocks(5),
  q6_k: decodeQ6K,
};

/**
 * Bytes of `values` in the given type, rounded to nearest.
 * @throws KvError "not-finite" for NaN, infinity, or a value that becomes infinite in `dtype`
 */
export function encode(dtype: EncodableDType, values: Float32Array): Uint8Array<ArrayBuffer> {
  if (dtype === 'q8_0') return quantizeQ8_0(values);
  if (dtype === 'q4_0') return quantizeQ4_0(values);
  ensureFinite(values, dtype);
  // The views below take the machine's byte order: JavaScript runs on little-endian machines.
  if (dtype === 'f32') return new Uint8Array(new Float32Array(values).buffer);
  const [toBits, infinity] = dtype === 'f16' ? [f32ToF16, 0x7c00] : [f32ToBf16, 0x7f80];
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    out[i] = toBits(values[i]);
    if ((out[i] & 0x7fff) === infinity) overflows(dtype, values[i], i);
  }
  return new Uint8Array(out.buffer);
}

/**
 * Blocks of 32: scale d = max |x| / 127 in f16, then 32 codes round(x / d) in i8. As in GGML, the
 * codes come from the scale before it is rounded to f16, with one f32 reciprocal per block, and
 * halves round away from zero.
 * @param values a multiple of 32
 * @throws KvError "shape", "not-finite"
 */
export function quantizeQ8_0(values: Float32Array): Uint8Array<ArrayBuffer> {
  ensure(
    values.length % q8.elements === 0,
    'shape',
    () => `q8_0: ${values.length} values; need a multiple of ${q8.elements}.`,
  );
  ensureFinite(values, 'q8_0');
  const bytes = new Uint8Array((values.length / q8.elements) * q8.bytes);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < values.length; i += q8.elements) {
    let largest = 0;
    for (let j = i; j < i + q8.elements; j++) largest = Math.max(largest, Math.abs(values[j]));
    const scale = Math.fround(largest / 127);
    const scaleBits = f32ToF16(scale);
    if (scaleBits === 0x7c00) overflows('q8_0', largest, i);
    // Infinite where the f16 scale is 0; the codes, which then do not matter, become 0 as well.
    const inverse = Math.fround(1 / scale);
    const at = (i / q8.elements) * q8.bytes;
    view.setUint16(at, scaleBits, true);
    for (let j = 0; j < q8.elements; j++) {
      const x = Math.fround(values[i + j] * inverse);
      view.setInt8(at + 2 + j, Math.sign(x) * Math.floor(Math.abs(x) + 0.5));
    }
  }
  return bytes;
}

/**
 * Blocks of 32 as GGML's reference makes them: d = (the value of largest magnitude) / -8 in f16, so
 * that this value gets code 0 exactly, then codes min(15, trunc(x / d + 8.5)).
 * @param values a multiple of 32
 * @throws KvError "shape", "not-finite"
 */
export function quantizeQ4_0(values: Float32Array): Uint8Array<ArrayBuffer> {
  const { elements, bytes: blockBytes } = dtypeBlocks.q4_0;
  ensure(
    values.length % elements === 0,
    'shape',
    () => `q4_0: ${values.length} values; need a multiple of ${elements}.`,
  );
  ensureFinite(values, 'q4_0');
  const bytes = new Uint8Array((values.length / elements) * blockBytes);
  const view = new DataView(bytes.buffer);
  for (let i = 0, at = 0; i < values.length; i += elements, at += blockBytes) {
    const block = values.subarray(i, i + elements);
    const extreme = block.reduce((m, v) => (Math.abs(v) > Math.abs(m) ? v : m), 0);
    const d = Math.fround(extreme / -8);
    const scaleBits = f32ToF16(d);
    if ((scaleBits & 0x7fff) === 0x7c00) overflows('q4_0', extreme, i);
    view.setUint16(at, scaleBits, true);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    const code = (v: number) =>
      Math.max(0, Math.min(15, Math.trunc(Math.fround(Math.fround(v * inverse) + 8.5))));
    for (let j = 0; j < 16; j++) bytes[at + 2 + j] = code(block[j]) | (code(block[j + 16]) << 4);
  }
  return bytes;
}

function ensureFinite(values: Float32Array, dtype: DType): void {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) {
      throw new KvError(
        'not-finite',
        `${dtype}: element ${i} is ${values[i]}; weights must be finite. The model is damaged.`,
      );
    }
  }
}

function overflows(dtype: DType, value: number, index: number): never {
  throw new KvError(
    'not-finite',
    `${dtype}: element ${index} is ${value}, which ${dtype} cannot hold. Use f32.`,
  );
}
