import { KvError, ensure } from '../errors/errors.ts';
import type { GgufType, GgufValue } from './gguf-value.ts';
import {
  asObject,
  describe,
  optionalObject,
  readCount,
  readFlag,
  readList,
  readPositive,
  readText,
  type JsonObject,
} from './hf-json.ts';

/** GGUF metadata as `readGguf` would give it, with the type of each value. */
export type HfMetadata = Map<string, { readonly type: GgufType; readonly value: GgufValue }>;

/** One value of `model_type`. */
interface HfFamily {
  readonly architecture: 'llama' | 'qwen2' | 'qwen3';
  /** The projections of queries, keys and values have biases. */
  readonly hasQkvBias: boolean;
  /** Queries and keys are normalized per head. */
  readonly hasHeadNorms: boolean;
}

const families: ReadonlyMap<string, HfFamily> = new Map([
  ['llama', { architecture: 'llama', hasQkvBias: false, hasHeadNorms: false }],
  ['mistral', { architecture: 'llama', hasQkvBias: false, hasHeadNorms: false }],
  ['qwen2', { architecture: 'qwen2', hasQkvBias: true, hasHeadNorms: false }],
  ['qwen3', { architecture: 'qwen3', hasQkvBias: false, hasHeadNorms: true }],
]);

/** What config.json and generation_config.json say, checked. */
export interface HfConfig extends HfFamily {
  readonly nLayers: number;
  readonly dModel: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly dFeedForward: number;
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly rmsEpsilon: number;
  readonly ropeTheta: number;
  /** Positions are divided by this; 1 for none. */
  readonly ropeLinearScale: number;
  /** Divisors of the RoPE frequencies (Llama 3's scaling), f32 [headDim / 2] */
  readonly ropeFactors: Float32Array<ArrayBuffer> | undefined;
  /** Logits come from the embedding. */
  readonly isTied: boolean;
  readonly bosId: number | undefined;
  /** Generation stops at any of these. */
  readonly eosIds: readonly number[];
}

const where = 'config.json';

/** Deeper than any model; keeps the list of wanted tensors short. */
const maxLayers = 1024;

/** Real ones have 256 at most; a table of half as many factors is made from it. */
const maxHeadDim = 4096;

/** Models list one to five ids that end a text. */
const maxEosIds = 64;

/**
 * Reads the shape of a model.
 * @throws KvError "format" if a key is missing or wrong, "unsupported" for what the engine cannot
 *   compute
 */
export function readHfConfig(config: unknown, generationConfig?: unknown): HfConfig {
  const json = asObject(config, where);
  const modelType = readText(json, 'model_type', where);
  const family = families.get(modelType);
  if (!family) throw unsupported('model_type', modelType, [...families.keys()].join(' '));
  refuseWhatIsNotComputed(json, modelType);

  const count = (key: string, fallback?: number) => readCount(json, key, where, fallback);
  const nHeads = count('num_attention_heads');
  const dModel = count('hidden_size');
  // Other families have other defaults in Python, so their configs must say it.
  const isLlama = modelType === 'llama';
  const headDim = count('head_dim', modelType === 'qwen3' ? undefined : dModel / nHeads);
  const nLayers = count('num_hidden_layers');
  ensure(
    nLayers <= maxLayers,
    'format',
    () => `${where}: "num_hidden_layers" is ${nLayers}; at most ${maxLayers} are allowed.`,
  );
  ensure(
    headDim <= maxHeadDim,
    'format',
    () => `${where}: "head_dim" is ${headDim}; at most ${maxHeadDim} is allowed.`,
  );
  const generation = asObject(generationConfig ?? {}, 'generation_config.json');
  return {
    ...family,
    nLayers,
    dModel,
    nHeads,
    nKvHeads: count('num_key_value_heads', isLlama ? nHeads : undefined),
    headDim,
    dFeedForward: count('intermediate_size'),
    vocabSize: count('vocab_size'),
    contextLength: count('max_position_embeddings'),
    rmsEpsilon: readPositive(json, 'rms_norm_eps', where),
    ...readRope(json, headDim),
    isTied: readFlag(json, 'tie_word_embeddings', where, false),
    bosId: tokenIds(generation, json, 'bos_token_id')[0],
    eosIds: tokenIds(generation, json, 'eos_token_id'),
  };
}

/** Keys that change the computation: each must be absent or have the one value that is computed. */
function refuseWhatIsNotComputed(json: JsonObject, modelType: string): void {
  const only: readonly [key: string, allowed: unknown][] = [
    ['hidden_act', 'silu'],
    ['mlp_bias', false],
    ['partial_rotary_factor', 1],
    ['rope_interleaved', false],
    ['use_mrope', false],
    ['use_sliding_window', false],
    ['quantization_config', undefined],
    // Qwen 2 has biases without saying so; elsewhere the output projection would have one too.
    ...(modelType === 'qwen2' ? [] : [['attention_bias', false] as [string, unknown]]),
  ];
  for (const [key, allowed] of only) {
    const found = json[key] ?? allowed;
    if (found !== allowed) throw unsupported(key, found, describe(allowed));
  }
  // Mistral has no switch for its window; Qwen's is `use_sliding_window`, refused above.
  if (modelType === 'mistral' && (json.sliding_window ?? undefined) !== undefined) {
    const window = readCount(json, 'sliding_window', where);
    const isInUse = window < readCount(json, 'max_position_embeddings', where);
    if (isInUse) throw unsupported('sliding_window', window, 'null');
  }
  for (const kind of readList(json, 'layer_types', where, maxLayers)) {
    if (kind !== 'full_attention') throw unsupported('layer_types', kind, 'full_attention');
  }
}

/** `rope_theta` with `rope_scaling`, or both in `rope_parameters`, as newer configs have it. */
function readRope(json: JsonObject, headDim: number) {
  const newer = optionalObject(json, 'rope_parameters', where);
  const scaling = newer ?? optionalObject(json, 'rope_scaling', where) ?? {};
  const ropeTheta = readPositive(newer ?? json, 'rope_theta', where, 10_000);
  const turning = scaling.partial_rotary_factor ?? 1;
  if (turning !== 1) throw unsupported('partial_rotary_factor', turning, '1');
  const kind = scaling.rope_type ?? scaling.type ?? 'default';
  const rope = { ropeTheta, ropeLinearScale: 1, ropeFactors: undefined };
  const number = (key: string) => readPositive(scaling, key, `${where}: RoPE scaling`);
  switch (kind) {
    case 'default':
      // One table per kind of layer has no number at its top; do not read it as "no scaling".
      if (newer) number('rope_theta');
      return rope;
    case 'linear':
      return { ...rope, ropeLinearScale: number('factor') };
    case 'llama3':
      return {
        ...rope,
        ropeFactors: llama3RopeFactors(headDim, ropeTheta, {
          factor: number('factor'),
          lowFreqFactor: number('low_freq_factor'),
          highFreqFactor: number('high_freq_factor'),
          originalContextLength: number('original_max_position_embeddings'),
        }),
      };
    default:
      throw unsupported('rope_type', kind, 'default linear llama3');
  }
}

/**
 * Divisors of the RoPE frequencies, f32 [headDim / 2]: wavelengths that fit into the original
 * context many times stay, those that hardly fit are stretched by `factor`, with a ramp between
 * (Llama 3.1's model card and code).
 */
export function llama3RopeFactors(
  headDim: number,
  ropeTheta: number,
  scaling: {
    factor: number;
    lowFreqFactor: number;
    highFreqFactor: number;
    originalContextLength: number;
  },
): Float32Array<ArrayBuffer> {
  const { factor, lowFreqFactor, highFreqFactor, originalContextLength } = scaling;
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * ropeTheta ** ((2 * i) / headDim);
    const turns = originalContextLength / wavelength;
    const smooth = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    const kept = Math.min(1, Math.max(0, smooth));
    return 1 / ((1 - kept) / factor + kept);
  });
}

/** One id or several, from generation_config.json if it says so, otherwise from config.json. */
function tokenIds(generation: JsonObject, json: JsonObject, key: string): number[] {
  const found = generation[key] ?? json[key] ?? [];
  const ids: readonly unknown[] = Array.isArray(found) ? found : [found];
  ensure(
    ids.length <= maxEosIds &&
      ids.every((id): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0),
    'format',
    () => `${where}: "${key}" is ${describe(found)}; need token ids. Fetch the file again.`,
  );
  return ids.map(Number);
}

function unsupported(key: string, found: unknown, allowed: string): KvError {
  return new KvError(
    'unsupported',
    `${where}: "${key}" is ${describe(found)}; supported: ${allowed}. Use another model.`,
  );
}

/**
 * The private key that says how heads are laid out where a file departs from GGUF's convention.
 * GGUF keeps rotating pairs of llama models side by side; Hugging Face keeps them half a head apart.
 */
export const ropeStyleKey = 'h1bkv.rope.style';

/** The same as GGUF metadata, without the tokenizer. */
export function ggufModelMetadata(config: HfConfig, name: string): HfMetadata {
  const { architecture } = config;
  const metadata: HfMetadata = new Map();
  const string = (key: string, value: string) => metadata.set(key, { type: 'string', value });
  const u32 = (key: string, value: number) =>
    metadata.set(`${architecture}.${key}`, { type: 'u32', value });
  const f32 = (key: string, value: number) =>
    metadata.set(`${architecture}.${key}`, { type: 'f32', value: Math.fround(value) });
  string('general.architecture', architecture);
  string('general.name', name);
  u32('vocab_size', config.vocabSize);
  u32('context_length', config.contextLength);
  u32('embedding_length', config.dModel);
  u32('block_count', config.nLayers);
  u32('feed_forward_length', config.dFeedForward);
  u32('attention.head_count', config.nHeads);
  u32('attention.head_count_kv', config.nKvHeads);
  u32('attention.key_length', config.headDim);
  u32('attention.value_length', config.headDim);
  f32('attention.layer_norm_rms_epsilon', config.rmsEpsilon);
  u32('rope.dimension_count', config.headDim);
  f32('rope.freq_base', config.ropeTheta);
  if (config.ropeLinearScale !== 1) {
    string(`${architecture}.rope.scaling.type`, 'linear');
    f32('rope.scaling.factor', config.ropeLinearScale);
  }
  if (architecture === 'llama') string(ropeStyleKey, 'halves');
  return metadata;
}
