import type { LayerShape } from '../cache/cache.ts';
import { ensure, KvError } from '../errors/errors.ts';
import { getNumber, getString } from '../format/gguf-access.ts';
import type { Gguf } from '../format/gguf.ts';

/** The shape of a decoder with rotary positions and grouped-query attention. */
export interface DecoderConfig {
  readonly architecture: string;
  readonly nLayers: number;
  readonly dModel: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDimK: number;
  readonly headDimV: number;
  readonly dFeedForward: number;
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly rmsEpsilon: number;
  /** dimensions of a head that rotate; the rest pass through */
  readonly ropeDims: number;
  readonly ropeTheta: number;
  /** positions are divided by this (linear scaling); 1 for none */
  readonly ropeLinearScale: number;
}

/** Why: a page of values packs two dimensions per byte, and SIMD kernels step by eight. */
const headDimStep = 8;

/**
 * Reads the shape from GGUF metadata.
 * @throws KvError "format" if a key is missing or values contradict each other, "unsupported" for
 *   rope scaling that this version does not know
 */
export function readConfig(gguf: Gguf, vocabSize: number): DecoderConfig {
  const architecture = getString(gguf, 'general.architecture');
  const number = (key: string, fallback?: number) =>
    getNumber(gguf, `${architecture}.${key}`, fallback);
  const dModel = number('embedding_length');
  const nHeads = number('attention.head_count');
  const headDimK = number('attention.key_length', dModel / nHeads);
  const config: DecoderConfig = {
    architecture,
    nLayers: number('block_count'),
    dModel,
    nHeads,
    nKvHeads: number('attention.head_count_kv', nHeads),
    headDimK,
    headDimV: number('attention.value_length', headDimK),
    dFeedForward: number('feed_forward_length'),
    vocabSize,
    contextLength: number('context_length'),
    rmsEpsilon: number('attention.layer_norm_rms_epsilon'),
    ropeDims: number('rope.dimension_count', headDimK),
    ropeTheta: number('rope.freq_base', 10000),
    ropeLinearScale: readLinearScale(gguf, architecture),
  };
  checkConfig(config);
  return config;
}

/** The layers as a cache sees them: all alike. */
export function layerShapes(config: DecoderConfig): LayerShape[] {
  const { nLayers, nHeads, nKvHeads, headDimK, headDimV } = config;
  const shape = { nHeads, nKvHeads, headDimK, headDimV, scale: 1 / Math.sqrt(headDimK) };
  return Array.from({ length: nLayers }, () => shape);
}

function readLinearScale(gguf: Gguf, architecture: string): number {
  const kind = getString(gguf, `${architecture}.rope.scaling.type`, 'none');
  // llama3 scaling comes as a tensor of factors, rope_freqs.weight, and needs no key.
  if (kind === 'none' || kind === 'llama3') return 1;
  if (kind === 'linear') return getNumber(gguf, `${architecture}.rope.scaling.factor`);
  throw new KvError(
    'unsupported',
    `model: rope scaling "${kind}"; supported: none, linear, llama3. Use a model file without it.`,
  );
}

function checkConfig(config: DecoderConfig): void {
  const counts = ['nLayers', 'dModel', 'nHeads', 'nKvHeads', 'headDimK', 'headDimV'] as const;
  for (const key of [...counts, 'dFeedForward', 'contextLength', 'ropeDims'] as const) {
    ensure(
      Number.isInteger(config[key]) && config[key] > 0,
      'format',
      () => `model: ${key} is ${config[key]}; it must be a whole number above 0.`,
    );
  }
  ensure(
    config.nHeads % config.nKvHeads === 0,
    'format',
    () =>
      `model: ${config.nHeads} query heads over ${config.nKvHeads} KV heads; the first must be a multiple of the second.`,
  );
  for (const headDim of [config.headDimK, config.headDimV]) {
    ensure(
      headDim % headDimStep === 0,
      'unsupported',
      () => `model: head dimension ${headDim}; supported: multiples of ${headDimStep}.`,
    );
  }
  ensure(
    config.ropeDims % 2 === 0 && config.ropeDims <= config.headDimK,
    'format',
    () =>
      `model: ${config.ropeDims} rotary dimensions in a head of ${config.headDimK}; they must be even and fit.`,
  );
  for (const key of ['rmsEpsilon', 'ropeTheta', 'ropeLinearScale'] as const) {
    ensure(
      Number.isFinite(config[key]) && config[key] > 0,
      'format',
      () => `model: ${key} is ${config[key]}; it must be a number above 0.`,
    );
  }
}
