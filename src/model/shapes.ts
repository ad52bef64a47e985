import type { LayerShape } from '../cache/cache.ts';

/** The sizes of a model that the size of its cache, and its speed, depend on. */
export interface ModelShape {
  readonly nLayers: number;
  readonly dModel: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly dFeedForward: number;
  readonly vocabSize: number;
}

const row = (
  nLayers: number,
  dModel: number,
  nHeads: number,
  nKvHeads: number,
  headDim: number,
  dFeedForward: number,
  vocabSize: number,
): ModelShape => ({ nLayers, dModel, nHeads, nKvHeads, headDim, dFeedForward, vocabSize });

/** Known models by name, from their published config.json. */
export const namedShapes = {
  'llama-2-7b': row(32, 4096, 32, 32, 128, 11008, 32000),
  'llama-3.1-8b': row(32, 4096, 32, 8, 128, 14336, 128256),
  'llama-3.2-1b': row(16, 2048, 32, 8, 64, 8192, 128256),
  'llama-3.2-3b': row(28, 3072, 24, 8, 128, 8192, 128256),
  'mistral-7b': row(32, 4096, 32, 8, 128, 14336, 32000),
  'qwen2.5-7b': row(28, 3584, 28, 4, 128, 18944, 152064),
  'qwen3-8b': row(36, 4096, 32, 8, 128, 12288, 151936),
  'smollm2-135m': row(30, 576, 9, 3, 64, 1536, 49152),
  'smollm2-360m': row(32, 960, 15, 5, 64, 2560, 49152),
  'smollm2-1.7b': row(24, 2048, 32, 32, 64, 8192, 49152),
} as const satisfies Record<string, ModelShape>;

export type ShapeName = keyof typeof namedShapes;

/** The layers as a cache sees them: all alike. */
export function layersOf({ nLayers, nHeads, nKvHeads, headDim }: ModelShape): LayerShape[] {
  const scale = 1 / Math.sqrt(headDim);
  const layer = { nHeads, nKvHeads, headDimK: headDim, headDimV: headDim, scale };
  return Array.from({ length: nLayers }, () => layer);
}
