import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { forgeBytes, type ForgeOptions } from '../bench/forge-node.ts';
import { hfJson, hfTensors, safetensorsBytes, type SafetensorsPart } from '../../test/hf-twin.ts';
import { KvError } from '../errors/errors.ts';
import { dequantize, encode } from '../math/blocks.ts';
import { getNumber, getString, requireTensor } from './gguf-access.ts';
import { readGguf, readTensorInto, type Gguf } from './gguf.ts';
import { readHfConfig } from './hf-config.ts';
import { readHfModel, type HfFiles } from './hf-model.ts';
import { modelHash } from './model-hash.ts';
import { memorySource, type ByteSource } from './source.ts';

const options: ForgeOptions = {
  nLayers: 2,
  dModel: 40,
  nHeads: 4,
  nKvHeads: 2,
  headDim: 16,
  dFeedForward: 64,
  vocab: 300,
  type: 'BF16',
  tied: false,
  contextLength: 64,
  seed: 3,
  tokenizer: 'bpe',
};

const scaling = { factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContextLength: 16 };
const llama3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 16,
};

const forged = memorySource(await forgeBytes({ ...options, ropeScaling: scaling }), 'forged');
const json = await hfJson(await forgeBytes(options));
const parts = await hfTensors(forged);

const filesOf = (tensors: readonly SafetensorsPart[], config: object = {}): HfFiles => ({
  name: 'twin',
  ...json,
  config: { ...json.config, ...config },
  shards: [{ source: memorySource(safetensorsBytes(tensors), 'model.safetensors') }],
});

const open = (config: object = {}, tensors = parts) => readHfModel(filesOf(tensors, config));

async function tensorBytes(gguf: Gguf, source: ByteSource, name: string): Promise<Uint8Array> {
  const tensor = requireTensor(gguf, name);
  const bytes = new Uint8Array(tensor.sizeBytes);
  await readTensorInto(source, tensor, bytes);
  return bytes;
}

describe('readHfModel', () => {
  test('has the tensors and metadata of the GGUF twin, in its order', async () => {
    const twin = await readGguf(forged);
    const { gguf, source } = await open({ rope_scaling: llama3 });
    const row = ({ name, type, shape }: { name: string; type: string; shape: unknown }) =>
      JSON.stringify([name, type, shape]);
    expect([...gguf.tensors.values()].map(row)).toEqual([...twin.tensors.values()].map(row));
    for (const name of gguf.tensors.keys()) {
      if (/attn_[qk]\./.test(name)) continue;
      expect(await tensorBytes(gguf, source, name), name).toEqual(
        await tensorBytes(twin, forged, name),
      );
    }
    const ours = ['general.name', 'h1bkv.rope.style'];
    for (const [key, value] of gguf.metadata) {
      if (ours.includes(key) || key.endsWith('add_eos_token')) continue;
      expect([key, gguf.metadataTypes.get(key), value]).toEqual([
        key,
        twin.metadataTypes.get(key),
        twin.metadata.get(key),
      ]);
    }
    expect(getString(gguf, 'h1bkv.rope.style')).toBe('halves');
    const file = ['general.file_type', 'general.quantization_version'];
    for (const key of twin.metadata.keys()) {
      expect(gguf.metadata.has(key) || file.includes(key), key).toBe(true);
    }
  });

  test('the first query row of the second half is where Hugging Face has it', async () => {
    const twin = await readGguf(forged);
    const { gguf, source } = await open();
    const name = 'blk.1.attn_q.weight';
    const [ours, theirs] = [
      await tensorBytes(gguf, source, name),
      await tensorBytes(twin, forged, name),
    ];
    const row = (bytes: Uint8Array, i: number) => [...bytes.subarray(80 * i, 80 * (i + 1))];
    expect(row(ours, 8)).toEqual(row(theirs, 1));
    expect(row(ours, 1)).toEqual(row(theirs, 2));
  });

  test('vectors in 16 bits become f32, at the value that they have', async () => {
    const halved = parts.map((part) =>
      part.shape.length === 1
        ? {
            ...part,
            dtype: 'F16',
            bytes: encode('f16', dequantize('f32', part.bytes, part.shape[0])),
          }
        : part,
    );
    const { gguf, source } = await open({ rope_scaling: llama3 }, halved);
    const stored = halved.find(({ name }) => name === 'model.norm.weight');
    const norm = requireTensor(gguf, 'output_norm.weight', [40]);
    expect(norm.dtype).toBe('f32');
    expect(dequantize('f32', await tensorBytes(gguf, source, norm.name), 40)).toEqual(
      dequantize('f16', stored?.bytes ?? new Uint8Array(), 40),
    );
    expect(requireTensor(gguf, 'rope_freqs.weight', [8]).dtype).toBe('f32');
  });

  test('shards are one model, and an index that lists more is refused', async () => {
    const shards = [parts.slice(0, 9), parts.slice(9)].map((some, i) => ({
      source: memorySource(safetensorsBytes(some), `shard ${i}`),
    }));
    const weightMap = Object.fromEntries(parts.map(({ name }) => [name, 'some file']));
    const files = { ...filesOf(parts), shards, index: { weight_map: weightMap } };
    const [whole, split] = [await open(), await readHfModel(files)];
    for (const name of whole.gguf.tensors.keys()) {
      expect(await tensorBytes(split.gguf, split.source, name), name).toEqual(
        await tensorBytes(whole.gguf, whole.source, name),
      );
    }
    const index = { weight_map: { ...weightMap, 'model.layers.9.x': 'lost' } };
    await expect(readHfModel({ ...files, index })).rejects.toThrow(
      /lists tensor "model.layers.9.x"; no shard has it/,
    );
    const twice = { ...files, shards: [...shards, shards[0]] };
    await expect(readHfModel(twice)).rejects.toThrow(/is in two shards/);
  });

  test('the hash covers the config as well as the weights', async () => {
    const hash = async (config: object) => {
      const { gguf, source } = await open(config);
      return modelHash(gguf, source);
    };
    expect(await hash({})).toBe(await hash({}));
    expect(await hash({})).not.toBe(await hash({ rope_theta: 20_000 }));
  });

  test('what follows from the rest is skipped: inv_freq, and a tied embedding stored twice', async () => {
    const more = [
      ...parts,
      {
        name: 'model.layers.0.self_attn.rotary_emb.inv_freq',
        dtype: 'F32',
        shape: [8],
        bytes: new Uint8Array(32),
      },
    ];
    const { gguf } = await open({ tie_word_embeddings: true }, more);
    expect(gguf.tensors.has('output.weight')).toBe(false);
    expect([...gguf.tensors.keys()].join()).not.toContain('inv_freq');
  });

  test('Qwen 2 has biases, Qwen 3 head norms, and neither the private key', async () => {
    const biases = ['q', 'k', 'v'].flatMap((p) =>
      [0, 1].map((layer) => {
        const size = p === 'q' ? 64 : 32;
        const name = `model.layers.${layer}.self_attn.${p}_proj.bias`;
        return { name, dtype: 'BF16', shape: [size], bytes: new Uint8Array(2 * size) };
      }),
    );
    const qwen2 = await readHfModel({
      ...filesOf([...parts, ...biases], { model_type: 'qwen2', use_sliding_window: false }),
      tokenizerJson: undefined,
    });
    expect(getString(qwen2.gguf, 'general.architecture')).toBe('qwen2');
    expect(getNumber(qwen2.gguf, 'qwen2.attention.head_count_kv')).toBe(2);
    expect(requireTensor(qwen2.gguf, 'blk.1.attn_k.bias', [32]).dtype).toBe('f32');
    expect(qwen2.gguf.metadata.has('h1bkv.rope.style')).toBe(false);

    const norms = ['q', 'k'].flatMap((p) =>
      [0, 1].map((layer) => {
        const name = `model.layers.${layer}.self_attn.${p}_norm.weight`;
        return { name, dtype: 'F32', shape: [16], bytes: new Uint8Array(64) };
      }),
    );
    const qwen3 = await open({ model_type: 'qwen3' }, [...parts, ...norms]);
    expect(requireTensor(qwen3.gguf, 'blk.0.attn_q_norm.weight', [16]).dtype).toBe('f32');
    await expect(open({ model_type: 'qwen3' })).rejects.toThrow(/q_norm.weight" is missing/);
  });

  test('linear scaling, and theta in rope_parameters', async () => {
    const rope = { rope_type: 'linear', factor: 4, rope_theta: 50_000 };
    const { gguf } = await open({ rope_theta: undefined, rope_parameters: rope });
    expect(getString(gguf, 'llama.rope.scaling.type')).toBe('linear');
    expect(getNumber(gguf, 'llama.rope.scaling.factor')).toBe(4);
    expect(getNumber(gguf, 'llama.rope.freq_base')).toBe(50_000);
    const perKind = { full_attention: rope };
    await expect(open({ rope_parameters: perKind })).rejects.toThrow(/"rope_theta"/);
  });

  test('several ends, the tokenizer config first', async () => {
    const files = { ...filesOf(parts), generationConfig: { eos_token_id: [7, 256, 9] } };
    const { gguf } = await readHfModel(files);
    const ends = ['eos', 'eot', 'eom'].map((end) =>
      getNumber(gguf, `tokenizer.ggml.${end}_token_id`),
    );
    expect(ends).toEqual([256, 7, 9]);
  });

  test.each<[string, object, string, RegExp]>([
    ['another model', { model_type: 'gemma' }, 'unsupported', /"model_type" is "gemma"; supp/],
    ['no model type', { model_type: null }, 'format', /"model_type" is missing; need a string/],
    ['no size', { hidden_size: undefined }, 'format', /"hidden_size" is missing; need a whole/],
    ['a size of text', { hidden_size: '40' }, 'format', /"hidden_size" is "40"/],
    ['a huge head', { head_dim: 2 ** 20 }, 'format', /"head_dim" is 1048576; at most 4096/],
    ['huge depth', { num_hidden_layers: 2 ** 20 }, 'format', /at most 1024/],
    [
      'biases',
      { attention_bias: true },
      'unsupported',
      /"attention_bias" is true; supported: false/,
    ],
    ['yarn', { rope_scaling: { type: 'yarn' } }, 'unsupported', /"rope_type" is "yarn"/],
    [
      'half a head that turns',
      { rope_parameters: { rope_theta: 1e4, partial_rotary_factor: 0.5 } },
      'unsupported',
      /"partial_rotary_factor" is 0.5; supported: 1/,
    ],
    ['half a llama3', { rope_scaling: { type: 'llama3' } }, 'format', /"factor" is missing/],
    ['gelu', { hidden_act: 'gelu' }, 'unsupported', /"hidden_act" is "gelu"; supported: "silu"/],
    ['a window', { use_sliding_window: true }, 'unsupported', /"use_sliding_window" is true/],
    [
      'a Mistral window',
      { model_type: 'mistral', sliding_window: 32 },
      'unsupported',
      /"sliding_window" is 32/,
    ],
    ['window layers', { layer_types: ['sliding_attention'] }, 'unsupported', /"layer_types"/],
    ['quantized weights', { quantization_config: {} }, 'unsupported', /"quantization_config"/],
    ['another shape', { intermediate_size: 65 }, 'format', /is \[64, 40\]; config.json needs \[65/],
    ['fewer layers', { num_hidden_layers: 1 }, 'unsupported', /"model.layers.1.input_layernorm/],
    ['an id too large', { eos_token_id: 300, bos_token_id: 1 }, 'format', /below vocab_size 300/],
    ['an id of text', { eos_token_id: 'x' }, 'format', /"eos_token_id" is "x"/],
  ])('refuses %s', async (_, config, code, message) => {
    const opening = open(config);
    await expect(opening).rejects.toMatchObject({ name: 'KvError', code });
    await expect(opening).rejects.toThrow(message);
  });

  test('a Mistral window that no context can leave is none', async () => {
    const { gguf } = await open({ model_type: 'mistral', sliding_window: 64 });
    expect(getString(gguf, 'general.architecture')).toBe('llama');
  });

  test('a missing, a quantized and an unknown tensor are named', async () => {
    await expect(open({}, parts.slice(1))).rejects.toThrow(/"lm_head.weight" is missing/);
    const int8 = parts.map((part) =>
      part.name === 'model.layers.0.mlp.up_proj.weight'
        ? { ...part, dtype: 'I8', bytes: part.bytes.subarray(part.bytes.length / 2) }
        : part,
    );
    await expect(open({}, int8)).rejects.toThrow(/up_proj.weight" is I8; supported: F32 F16 BF16/);
    const extra = {
      name: 'model.layers.0.extra',
      dtype: 'F32',
      shape: [1],
      bytes: new Uint8Array(4),
    };
    await expect(open({}, [...parts, extra])).rejects.toThrow(
      /"model.layers.0.extra" is none that llama models have/,
    );
  });

  test('closing the model closes its shards', async () => {
    let closed = 0;
    const files = filesOf(parts);
    const [{ source }] = files.shards;
    const watched = { ...source, close: async () => void closed++ };
    await (await readHfModel({ ...files, shards: [{ source: watched }] })).source.close();
    expect(closed).toBe(1);
  });

  test('a config with any value in any place is read or refused', () => {
    const keys = [
      ...Object.keys(json.config),
      ...['rope_parameters', 'sliding_window', 'layer_types', 'eos_token_id', 'generation'],
    ];
    const values = fc.oneof(
      fc.jsonValue({ maxDepth: 2 }),
      fc.constantFrom({ toString: 1, valueOf: 1 }, -1, 1e300, 'llama', 'mistral', 'qwen3'),
    );
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...keys), values, { maxKeys: 3 }), (change) => {
        try {
          readHfConfig({ ...json.config, ...change }, change.generation);
        } catch (error) {
          expect(error).toBeInstanceOf(KvError);
        }
      }),
      { numRuns: 1000 },
    );
  });
});
