import { ensure, KvError } from '../errors/errors.ts';
import { elementCount, tensorSizeBytes, type DType } from '../math/dtype.ts';
import type { HostArray, KernelBuffer, Kernels, Tensor } from './kernels.ts';

/** A tensor at `offset` bytes into a buffer. @throws KvError "shape" if it does not fit */
export function tensor(
  buffer: KernelBuffer,
  dtype: DType,
  shape: readonly number[],
  offset = 0,
): Tensor {
  const end = offset + tensorSizeBytes(dtype, shape);
  ensure(
    offset >= 0 && end <= buffer.sizeBytes,
    'shape',
    () =>
      `tensor ${dtype} [${shape.join(', ')}] at byte ${offset} needs ${end} bytes; the buffer holds ${buffer.sizeBytes}.`,
  );
  return { dtype, shape, buffer, offset };
}

/** Allocates a tensor in a buffer of its own, zeroed. */
export function allocTensor(kernels: Kernels, dtype: DType, shape: readonly number[]): Tensor {
  return tensor(kernels.alloc(tensorSizeBytes(dtype, shape)), dtype, shape);
}

/** The rows `start .. start + count - 1` along the first dimension; no copy. */
export function rows(t: Tensor, start: number, count: number): Tensor {
  const shape = [count, ...t.shape.slice(1)];
  const rowBytes = tensorSizeBytes(t.dtype, [1, ...t.shape.slice(1)]);
  return tensor(t.buffer, t.dtype, shape, t.offset + start * rowBytes);
}

/** The same numbers under another shape of the same size; no copy. One size may be -1: what is left. */
export function reshape(t: Tensor, wanted: readonly number[]): Tensor {
  const known = wanted.reduce((product, size) => (size === -1 ? product : product * size), 1);
  const shape = wanted.map((size) => (size === -1 ? elementCount(t.shape) / known : size));
  ensure(
    elementCount(shape) === elementCount(t.shape),
    'shape',
    () => `cannot see [${t.shape.join(', ')}] as [${shape.join(', ')}]: the sizes differ.`,
  );
  return { dtype: t.dtype, shape, buffer: t.buffer, offset: t.offset };
}

/** The host view that `Kernels.view` promises for a dtype, over `bytes` of an array buffer. */
export function hostView(t: Tensor, memory: ArrayBufferLike, base: number): HostArray {
  const start = base + t.offset;
  const length = elementCount(t.shape);
  switch (t.dtype) {
    case 'f32':
      return new Float32Array(memory, start, length);
    case 'f16':
    case 'bf16':
      return new Uint16Array(memory, start, length);
    case 'i32':
      return new Int32Array(memory, start, length);
    case 'u32':
      return new Uint32Array(memory, start, length);
    case 'i8':
      return new Int8Array(memory, start, length);
    case 'u8':
      return new Uint8Array(memory, start, length);
    default:
      return new Uint8Array(memory, start, tensorSizeBytes(t.dtype, t.shape));
  }
}

/** The tensor's bytes as a flat `u8` tensor; no copy. */
export function bytesOf(t: Tensor): Tensor {
  const sizeBytes = tensorSizeBytes(t.dtype, t.shape);
  return { dtype: 'u8', shape: [sizeBytes], buffer: t.buffer, offset: t.offset };
}

/** @throws KvError "shape" naming the kernel unless the tensor has this dtype and shape (-1: any size) */
export function expectTensor(
  kernel: string,
  name: string,
  t: Tensor,
  dtypes: DType | readonly DType[],
  shape: readonly number[],
): void {
  const allowed = typeof dtypes === 'string' ? [dtypes] : dtypes;
  const fits =
    allowed.includes(t.dtype) &&
    t.shape.length === shape.length &&
    shape.every((size, i) => size === -1 || size === t.shape[i]);
  if (fits) return;
  const wanted = shape.map((size) => (size === -1 ? 'any' : size)).join(', ');
  throw new KvError(
    'shape',
    `${kernel}: ${name} is ${t.dtype} [${t.shape.join(', ')}]; it must be ${allowed.join(' or ')} [${wanted}].`,
  );
}
