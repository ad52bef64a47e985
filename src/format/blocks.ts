/** Numbers to and from the bytes that tensors hold, exactly as GGML's reference does it. */
import { KvError, ensure } from '../errors/errors.ts';
import { dtypeBlocks, type DType } from '../math/dtype.ts';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../math/f16.ts';

/** Types of weights: what the engine computes with. */
export type WeightDType = Extract<DType, 'f32' | 'f16' | 'bf16' | 'q8_0'>;

const q8 = dtypeBlocks.q8_0;

/** The value of every f16, made when first needed: a model has hundreds of millions of them. */
let f16Values: Float32Array | undefined;

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
  const block = dtypeBlocks[dtype];
  const needed = (count / block.elements) * block.bytes;
  ensure(
    needed === bytes.length,
    'shape',
    () => `${count} elements of ${dtype} take ${needed} bytes; found ${bytes.length}.`,
  );
  const out = new Float32Array(count);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  switch (dtype) {
    case 'f32':
      for (let i = 0; i < count; i++) out[i] = view.getFloat32(4 * i, true);
      break;
    case 'f16':
      f16Values ??= Float32Array.from({ length: 65536 }, (_, bits) => f16ToF32(bits));
      for (let i = 0; i < count; i++) out[i] = f16Values[view.getUint16(2 * i, true)];
      break;
    case 'bf16':
      for (let i = 0; i < count; i++) out[i] = bf16ToF32(view.getUint16(2 * i, true));
      break;
    case 'q8_0':
      for (let i = 0; i < count; i += q8.elements) {
        const at = (i / q8.elements) * q8.bytes;
        const scale = f16ToF32(view.getUint16(at, true));
        for (let j = 0; j < q8.elements; j++) out[i + j] = scale * view.getInt8(at + 2 + j);
      }
      break;
    default:
      throw new KvError('unsupported', `${dtype} holds no weights; supported: f32 f16 bf16 q8_0.`);
  }
  ensureFinite(out, dtype);
  return out;
}

/**
 * Bytes of `values` in the given type, rounded to nearest.
 * @throws KvError "not-finite" for NaN, infinity, or a value that becomes infinite in `dtype`
 */
export function encode(dtype: WeightDType, values: Float32Array): Uint8Array<ArrayBuffer> {
  if (dtype === 'q8_0') return quantizeQ8_0(values);
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
