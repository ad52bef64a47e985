import type { HfConfig } from './hf-config.ts';

/** A tensor that the model needs, by both of its names. */
export interface WantedTensor {
  readonly hfName: string;
  readonly ggufName: string;
  /** row-major: [rows, columns], or [size] */
  readonly shape: readonly number[];
}

/** Every tensor of a model of this shape, in the order that GGUF files have. */
export function wantedTensors(config: HfConfig): WantedTensor[] {
  const { dModel, dFeedForward, vocabSize, headDim } = config;
  const dQuery = config.nHeads * headDim;
  const dKv = config.nKvHeads * headDim;
  const wanted: WantedTensor[] = [];
  const want = (hfName: string, ggufName: string, ...shape: number[]) =>
    wanted.push({ hfName, ggufName, shape });

  want('model.embed_tokens.weight', 'token_embd.weight', vocabSize, dModel);
  for (let layer = 0; layer < config.nLayers; layer++) {
    const inLayer = (hfPart: string, ggufPart: string, ...shape: number[]) =>
      want(`model.layers.${layer}.${hfPart}`, `blk.${layer}.${ggufPart}`, ...shape);
    inLayer('input_layernorm.weight', 'attn_norm.weight', dModel);
    inLayer('self_attn.q_proj.weight', 'attn_q.weight', dQuery, dModel);
    inLayer('self_attn.k_proj.weight', 'attn_k.weight', dKv, dModel);
    inLayer('self_attn.v_proj.weight', 'attn_v.weight', dKv, dModel);
    if (config.hasQkvBias) {
      inLayer('self_attn.q_proj.bias', 'attn_q.bias', dQuery);
      inLayer('self_attn.k_proj.bias', 'attn_k.bias', dKv);
      inLayer('self_attn.v_proj.bias', 'attn_v.bias', dKv);
    }
    if (config.hasHeadNorms) {
      inLayer('self_attn.q_norm.weight', 'attn_q_norm.weight', headDim);
      inLayer('self_attn.k_norm.weight', 'attn_k_norm.weight', headDim);
    }
    inLayer('self_attn.o_proj.weight', 'attn_output.weight', dModel, dQuery);
    inLayer('post_attention_layernorm.weight', 'ffn_norm.weight', dModel);
    inLayer('mlp.gate_proj.weight', 'ffn_gate.weight', dFeedForward, dModel);
    inLayer('mlp.up_proj.weight', 'ffn_up.weight', dFeedForward, dModel);
    inLayer('mlp.down_proj.weight', 'ffn_down.weight', dModel, dFeedForward);
  }
  want('model.norm.weight', 'output_norm.weight', dModel);
  if (!config.isTied) want('lm_head.weight', 'output.weight', vocabSize, dModel);
  return wanted;
}

/** Tensors that say nothing new: a second copy of a tied embedding, and tables that follow from the config. */
export function isRedundant(hfName: string, config: HfConfig): boolean {
  return (config.isTied && hfName === 'lm_head.weight') || hfName.endsWith('.rotary_emb.inv_freq');
}
