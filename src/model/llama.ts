import type { RopeStyle } from '../kernels/kernels.ts';
import { getString } from '../format/gguf-access.ts';
import { ropeStyleKey } from '../format/hf-config.ts';
import { loadDecoder } from './decoder.ts';
import type { LoadNetwork } from './model.ts';

/** Llama 2 and 3, Mistral, SmolLM2. GGUF permutes queries and keys so that RoPE pairs are adjacent. */
export const load: LoadNetwork = (weights) =>
  loadDecoder(weights, {
    ropeStyle: getString(weights.gguf, ropeStyleKey, 'adjacent') as RopeStyle,
    qkvBias: weights.has('blk.0.attn_q.bias'),
    qkNorm: false,
  });
