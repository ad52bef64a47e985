import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { Adapter } from '../cache/adapter.ts';
import type { LayerShape } from '../cache/cache.ts';
import { ensure, KvError } from '../errors/errors.ts';
import { modelHash } from '../format/model-hash.ts';
import { readAdapter } from '../model/adapter-file.ts';
import { layerShapes, readConfig } from '../model/config.ts';
import { layersOf, namedShapes, type ShapeName } from '../model/shapes.ts';
import { adapterFileOf, modelPath, openFromFlags } from './options.ts';

/** What a plan has to know of a model. */
export interface ModelSizes {
  readonly name: string;
  readonly layers: readonly LayerShape[];
  readonly contextLength: number;
  readonly adapter?: Adapter;
}

/** The context of a named shape, which has none of its own here. */
const defaultContext = 8192;

/**
 * Sizes from a named shape, a GGUF header or a config.json; no weights are read, but what was fitted for a model is.
 * @param adapter as `--adapter` has it
 * @throws KvError "usage" if it is none of them, or an adapter is named for what is no model
 */
export async function readModelSizes(name: string, adapter?: string): Promise<ModelSizes> {
  const path = modelPath(name);
  const isNamed = Object.hasOwn(namedShapes, name);
  if (isNamed || path.endsWith('.json')) {
    ensure(
      adapter === undefined || adapter === 'none',
      'usage',
      () => `plan: --adapter ${adapter} is of a model, and ${name} is only a shape. Leave it out.`,
    );
    if (!isNamed) return fromConfigJson(path);
    const layers = layersOf(namedShapes[name as ShapeName]);
    return { name, layers, contextLength: defaultContext };
  }
  if (/^(hf|https?|file):/.test(path) || existsSync(path)) return fromModel(name, adapter);
  throw new KvError(
    'usage',
    `plan: "${name}" is no model, no config.json and no named shape; there are ${Object.keys(namedShapes).join(', ')}.`,
  );
}

async function fromModel(name: string, named: string | undefined): Promise<ModelSizes> {
  const opened = await openFromFlags(name);
  const { gguf, source } = opened;
  try {
    const file = await adapterFileOf(opened, named);
    const adapter = file && (await readAdapter(file, await modelHash(gguf, source)));
    const config = readConfig(gguf, gguf.tensors.get('token_embd.weight')?.shape[0] ?? 0);
    const { contextLength } = config;
    const sizes = { name: source.name, layers: layerShapes(config), contextLength };
    return adapter ? { ...sizes, adapter } : sizes;
  } finally {
    await source.close();
  }
}

async function fromConfigJson(path: string): Promise<ModelSizes> {
  let config: Record<string, unknown>;
  try {
    config = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  } catch (cause) {
    throw new KvError('io', `plan: ${path} cannot be read as JSON. Give a config.json.`, { cause });
  }
  const number = (key: string, fallback?: number) => {
    const value = config[key] ?? fallback;
    if (typeof value === 'number' && Number.isInteger(value) && value > 0) return value;
    throw new KvError(
      'format',
      `plan: ${path}: ${key} is ${JSON.stringify(value)}; it must be a whole number above 0.`,
    );
  };
  const nHeads = number('num_attention_heads');
  const dModel = number('hidden_size');
  const shape = {
    nLayers: number('num_hidden_layers'),
    dModel,
    nHeads,
    nKvHeads: number('num_key_value_heads', nHeads),
    headDim: number('head_dim', dModel / nHeads),
    dFeedForward: number('intermediate_size'),
    vocabSize: number('vocab_size'),
  };
  const contextLength = number('max_position_embeddings', defaultContext);
  return { name: path, layers: layersOf(shape), contextLength };
}
