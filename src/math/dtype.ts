import { KvError } from '../errors/errors.ts';

/** Element types of tensors. `q8_0` is GGUF's: blocks of 32, an f16 scale followed by 32 int8. */
export type DType = 'f32' | 'f16' | 'bf16' | 'q8_0' | 'i32' | 'u32' | 'i8' | 'u8';

/** Elements and bytes of one block; plain types are blocks of one element. */
export const dtypeBlocks: Readonly<Record<DType, { elements: number; bytes: number }>> = {
  f32: { elements: 1, bytes: 4 },
  f16: { elements: 1, bytes: 2 },
  bf16: { elements: 1, bytes: 2 },
  q8_0: { elements: 32, bytes: 34 },
  i32: { elements: 1, bytes: 4 },
  u32: { elements: 1, bytes: 4 },
  i8: { elements: 1, bytes: 1 },
  u8: { elements: 1, bytes: 1 },
};

/** Number of elements of a shape; 1 for the empty shape. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/**
 * Bytes that a tensor occupies. Blocks run along the last dimension.
 * @throws KvError "shape" if the last dimension is not a whole number of blocks
 */
export function tensorSizeBytes(dtype: DType, shape: readonly number[]): number {
  const block = dtypeBlocks[dtype];
  const last = shape.at(-1) ?? 1;
  if (last % block.elements !== 0) {
    throw new KvError(
      'shape',
      `tensor of type ${dtype}: last dimension is ${last}; it must be a multiple of ${block.elements}.`,
    );
  }
  return (elementCount(shape) / block.elements) * block.bytes;
}
