import { loadDecoder } from './decoder.ts';
import type { LoadNetwork } from './model.ts';

/** Qwen 3: every head's query and key is normalised before RoPE; no biases. */
export const load: LoadNetwork = (weights) =>
  loadDecoder(weights, { ropeStyle: 'halves', qkvBias: false, qkNorm: true });
