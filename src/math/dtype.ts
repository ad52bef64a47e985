import { KvError } from '../errors/errors.ts';

/**
 * Element types of tensors. Those from `q8_0` on are GGUF's block formats: a run of elements shares
 * scales that stand beside their codes (`blocks.ts`).
 */
export type DType = keyof typeof dtypeBlocks;

/** Elements and bytes of one block; plain types are blocks of one element. */
export const dtypeBlocks = {
  f32: { elements: 1, bytes: 4 },
  f16: { elements: 1, bytes: 2 },
  bf16: { elements: 1, bytes: 2 },
  i32: { elements: 1, bytes: 4 },
  u32: { elements: 1, bytes: 4 },
  i8: { elements: 1, bytes: 1 },
  u8: { elements: 1, bytes: 1 },
  q8_0: { elements: 32, bytes: 34 },
  q4_0: { elements: 32, bytes: 18 },
  q4_1: { elements: 32, bytes: 20 },
  q5_0: { elements: 32, bytes: 22 },
  q5_1: { elements: 32, bytes: 24 },
  q4_k: { elements: 256, bytes: 144 },
  q5_k: { elements: 256, bytes: 176 },
  q6_k: { elements: 256, bytes: 210 },
} as const;

/** Types of weights: what the engine computes with. Their order is that of native/elementwise.h. */
export const weightDTypes = [
  ...(['f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_1', 'q5_0', 'q5_1'] as const),
  ...(['q4_k', 'q5_k', 'q6_k'] as const),
] as const;
export type WeightDType = (typeof weightDTypes)[number];

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
