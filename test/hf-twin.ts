/** The Hugging Face twin of a forged GGUF model, written without the code under test. */
import { readGguf, readTensorInto, type GgufTensor } from '../src/format/gguf.ts';
import { getNumber, getStrings } from '../src/format/gguf-access.ts';
import { memorySource, type ByteSource } from '../src/format/source.ts';

export interface SafetensorsPart {
  name: string;
  dtype: string;
  shape: readonly number[];
  bytes: Uint8Array;
}

/** A safetensors file: header length, header, data in the order of `parts`. */
export function safetensorsBytes(parts: readonly SafetensorsPart[]): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let end = 0;
  for (const { name, dtype, shape, bytes } of parts) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  return withHeader(
    JSON.stringify(header),
    parts.map(({ bytes }) => bytes),
  );
}

/** Any header in front of any data, so that it can lie. */
export function withHeader(header: string, data: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(header);
  const length = new Uint8Array(BigUint64Array.of(BigInt(json.length)).buffer);
  return new Uint8Array(Buffer.concat([length, json, ...data]));
}

const layerParts: Record<string, string> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

function hfName(ggufName: string): string {
  const [, layer, part] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(ggufName) ?? [];
  if (part) return `model.layers.${layer}.${layerParts[part]}.weight`;
  const outside: Record<string, string> = {
    'token_embd.weight': 'model.embed_tokens.weight',
    'output_norm.weight': 'model.norm.weight',
    'output.weight': 'lm_head.weight',
  };
  return outside[ggufName];
}

/** Row 2i + h of each head goes back to row h * d/2 + i. */
function unpaired(tensor: GgufTensor, bytes: Uint8Array, headDim: number): Uint8Array {
  const rowBytes = bytes.length / tensor.shape[0];
  const halves = new Uint8Array(bytes.length);
  for (let head = 0; head < tensor.shape[0]; head += headDim) {
    for (let i = 0; i < headDim / 2; i++) {
      for (const h of [0, 1]) {
        const from = (head + 2 * i + h) * rowBytes;
        halves.set(
          bytes.subarray(from, from + rowBytes),
          (head + (h * headDim) / 2 + i) * rowBytes,
        );
      }
    }
  }
  return halves;
}

/** The tensors of a GGUF llama model under their Hugging Face names. */
export async function hfTensors(source: ByteSource): Promise<SafetensorsPart[]> {
  const gguf = await readGguf(source);
  const headDim = getNumber(gguf, 'llama.attention.key_length');
  const parts: SafetensorsPart[] = [];
  for (const tensor of gguf.tensors.values()) {
    if (tensor.name === 'rope_freqs.weight') continue;
    const stored = new Uint8Array(tensor.sizeBytes);
    await readTensorInto(source, tensor, stored);
    const bytes = /attn_[qk]\.weight$/.test(tensor.name)
      ? unpaired(tensor, stored, headDim)
      : stored;
    parts.push({ name: hfName(tensor.name), dtype: tensor.type, shape: tensor.shape, bytes });
  }
  return parts.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The JSON files of a forged byte-level model, as a folder has them. */
export async function hfJson(bytes: Uint8Array) {
  const gguf = await readGguf(memorySource(bytes, 'forged'));
  const number = (key: string) => getNumber(gguf, `llama.${key}`);
  const tokens = getStrings(gguf, 'tokenizer.ggml.tokens');
  const end = '<|endoftext|>';
  return {
    config: {
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      hidden_act: 'silu',
      hidden_size: number('embedding_length'),
      num_hidden_layers: number('block_count'),
      intermediate_size: number('feed_forward_length'),
      num_attention_heads: number('attention.head_count'),
      num_key_value_heads: number('attention.head_count_kv'),
      head_dim: number('attention.key_length'),
      vocab_size: number('vocab_size'),
      max_position_embeddings: number('context_length'),
      rms_norm_eps: 1e-5,
      rope_theta: number('rope.freq_base'),
      rope_scaling: null as unknown,
      attention_bias: false,
      tie_word_embeddings: !gguf.tensors.has('output.weight'),
    },
    tokenizerJson: {
      added_tokens: [{ id: tokens.indexOf(end), content: end, special: true }],
      normalizer: null,
      pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
      post_processor: null,
      decoder: null,
      model: {
        type: 'BPE',
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: getStrings(gguf, 'tokenizer.ggml.merges').map((merge) => merge.split(' ')),
      },
    },
    tokenizerConfig: { bos_token: end, eos_token: { content: end } },
  };
}

/** The files of the twin's folder by name. */
export async function hfTwin(bytes: Uint8Array): Promise<Record<string, Uint8Array>> {
  const { config, tokenizerJson, tokenizerConfig } = await hfJson(bytes);
  const parts = await hfTensors(memorySource(bytes, 'forged'));
  const json = (value: object) => new TextEncoder().encode(JSON.stringify(value));
  return {
    'config.json': json(config),
    'tokenizer.json': json(tokenizerJson),
    'tokenizer_config.json': json(tokenizerConfig),
    'model.safetensors': safetensorsBytes(parts),
  };
}
