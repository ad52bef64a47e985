import { loadDecoder } from './decoder.ts';
import type { LoadNetwork } from './model.ts';

/** Qwen 2 and 2.5: biases on queries, keys and values; RoPE pairs lie half a head apart. */
export const load: LoadNetwork = (weights) =>
  loadDecoder(weights, { ropeStyle: 'halves', qkvBias: true, qkNorm: false });
