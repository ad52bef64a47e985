import type { DType } from '../math/dtype.ts';

/** One GGML tensor type: `bytes` hold `elements` consecutive elements of a row. */
export interface GgmlType {
  readonly id: number;
  readonly name: string;
  readonly elements: number;
  readonly bytes: number;
  /** What the engine calls it; undefined if the engine cannot compute with it. */
  readonly dtype: DType | undefined;
}

function row(id: number, name: string, elements: number, bytes: number, dtype?: DType): GgmlType {
  return { id, name, elements, bytes, dtype };
}

/**
 * Every type that a GGUF file is known to hold, so that files which the engine cannot run can
 * still be listed. Sizes are those of the block structures in GGML's `ggml-common.h`.
 */
export const ggmlTypes: readonly GgmlType[] = [
  row(0, 'F32', 1, 4, 'f32'),
  row(1, 'F16', 1, 2, 'f16'),
  row(2, 'Q4_0', 32, 18, 'q4_0'),
  row(3, 'Q4_1', 32, 20, 'q4_1'),
  row(6, 'Q5_0', 32, 22, 'q5_0'),
  row(7, 'Q5_1', 32, 24, 'q5_1'),
  row(8, 'Q8_0', 32, 34, 'q8_0'),
  row(9, 'Q8_1', 32, 36),
  row(10, 'Q2_K', 256, 84),
  row(11, 'Q3_K', 256, 110),
  row(12, 'Q4_K', 256, 144, 'q4_k'),
  row(13, 'Q5_K', 256, 176, 'q5_k'),
  row(14, 'Q6_K', 256, 210, 'q6_k'),
  row(15, 'Q8_K', 256, 292),
  row(16, 'IQ2_XXS', 256, 66),
  row(17, 'IQ2_XS', 256, 74),
  row(18, 'IQ3_XXS', 256, 98),
  row(19, 'IQ1_S', 256, 50),
  row(20, 'IQ4_NL', 32, 18),
  row(21, 'IQ3_S', 256, 110),
  row(22, 'IQ2_S', 256, 82),
  row(23, 'IQ4_XS', 256, 136),
  row(24, 'I8', 1, 1),
  row(25, 'I16', 1, 2),
  row(26, 'I32', 1, 4),
  row(27, 'I64', 1, 8),
  row(28, 'F64', 1, 8),
  row(29, 'IQ1_M', 256, 56),
  row(30, 'BF16', 1, 2, 'bf16'),
  row(31, 'Q4_0_4_4', 32, 18),
  row(32, 'Q4_0_4_8', 32, 18),
  row(33, 'Q4_0_8_8', 32, 18),
  row(34, 'TQ1_0', 256, 54),
  row(35, 'TQ2_0', 256, 66),
  row(39, 'MXFP4', 32, 17),
];

const byId = new Map(ggmlTypes.map((type) => [type.id, type]));
const byName = new Map(ggmlTypes.map((type) => [type.name, type]));

export function ggmlTypeById(id: number): GgmlType | undefined {
  return byId.get(id);
}

export function ggmlTypeByName(name: string): GgmlType | undefined {
  return byName.get(name);
}

/** The types that the engine computes with, for messages. */
export const supportedTypeNames = ggmlTypes
  .filter(({ dtype }) => dtype)
  .map(({ name }) => name)
  .join(' ');
