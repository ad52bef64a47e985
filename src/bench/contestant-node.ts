/** Those who take turns in a benchmark: the model with one of our caches, or the peer. */
import type { KvCache } from '../cache/cache.ts';
import type { Tensor } from '../kernels/kernels.ts';
import { allocTensor, rows } from '../kernels/tensor.ts';
import { Random } from '../math/random.ts';
import type { Model } from '../model/model.ts';
import type { Peer } from './peer-node.ts';

/** One engine with one kind of cache. */
export interface Contestant {
  readonly engine: 'h1b-kv' | 'node-llama-cpp';
  readonly kv: string;
  /** Brings the cache to `depth` positions. */
  prepare(depth: number): Promise<void>;
  /** Decodes `count` tokens and forgets them. @returns the time of each, milliseconds */
  decode(count: number): Promise<number[]>;
  /** Runs one chunk and forgets it. @returns milliseconds */
  prefill(count: number): Promise<number>;
  /** The attention of `count` tokens alone, in all layers; not of the peer. @returns ms of each */
  attend?(count: number): Promise<number[]>;
  cacheBytes(): number;
  dispose(): Promise<void>;
}

export function ours(model: Model, method: string, cache: KvCache): Contestant {
  const random = new Random(1);
  const ids = (n: number) =>
    Int32Array.from({ length: n }, () => anyToken(random, model.vocabSize));
  const step = async (on: KvCache, n: number) => {
    const began = performance.now();
    await model.kernels.read(await model.forward([{ ids: ids(n), cache: on }]));
    return performance.now() - began;
  };
  return {
    engine: 'h1b-kv',
    kv: method,
    prepare: async (depth) => fillCache(model, cache, depth, random),
    decode: async (count) => {
      const times = [];
      const fork = cache.fork();
      for (let i = 0; i < count; i++) times.push(await step(fork, 1));
      fork.dispose();
      return times;
    },
    prefill: async (count) => {
      const fork = cache.fork();
      const elapsedMs = await step(fork, count);
      fork.dispose();
      return elapsedMs;
    },
    attend: (count) => attentionAlone(model, cache, count, random),
    cacheBytes: () => cache.bytes().total,
    dispose: async () => cache.dispose(),
  };
}

/** Random numbers in the shape of so many positions' keys, queries or outputs. */
function draw(model: Model, random: Random, n: number, heads: number, headDim: number): Tensor {
  const t = allocTensor(model.kernels, 'f32', [n, heads, headDim]);
  const numbers = Float32Array.from({ length: n * heads * headDim }, () => random.normal());
  model.kernels.write(t, numbers);
  return t;
}

/** A step's keys, values, queries and outputs; the layers of a model are alike. */
function drawStep(model: Model, random: Random, n: number) {
  const [{ nHeads, nKvHeads, headDimK, headDimV }] = model.layers;
  return {
    k: draw(model, random, n, nKvHeads, headDimK),
    v: draw(model, random, n, nKvHeads, headDimV),
    q: draw(model, random, n, nHeads, headDimK),
    out: draw(model, random, n, nHeads, headDimV),
  };
}

/** Some methods learn from what they are asked first; after that, attention is left out. */
const positionsLearntFrom = 512;

/** Stores random keys and values up to `depth` positions, without running the model. */
export function fillCache(model: Model, cache: KvCache, depth: number, random: Random): void {
  const chunk = 256;
  const { k, v, q, out } = drawStep(model, random, chunk);
  while (cache.length < depth) {
    const n = Math.min(chunk, depth - cache.length);
    cache.begin(n);
    const attends = cache.length < positionsLearntFrom;
    model.layers.forEach((_, layer) => {
      cache.append(layer, rows(k, 0, n), rows(v, 0, n));
      if (attends) cache.attend(layer, rows(q, 0, n), rows(out, 0, n));
    });
    cache.commit();
  }
  for (const { buffer } of [k, v, q, out]) model.kernels.free(buffer);
}

/** What decoding asks of a cache and nothing else: each layer's key and value stored, and attention. */
async function attentionAlone(model: Model, cache: KvCache, count: number, random: Random) {
  const { k, v, q, out } = drawStep(model, random, 1);
  const fork = cache.fork();
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const began = performance.now();
    fork.begin(1);
    model.layers.forEach((_, layer) => {
      fork.append(layer, k, v);
      fork.attend(layer, q, out);
    });
    await model.kernels.read(out);
    fork.commit();
    times.push(performance.now() - began);
  }
  fork.dispose();
  for (const { buffer } of [k, v, q, out]) model.kernels.free(buffer);
  return times;
}

export function theirs(peer: Peer, kv: string, vocabSize: number): Contestant {
  const random = new Random(2);
  const ids = (n: number) => Array.from({ length: n }, () => anyToken(random, vocabSize));
  return {
    engine: 'node-llama-cpp',
    kv: kv.toLowerCase(),
    prepare: async (depth) => {
      if (depth > peer.length) await peer.prefill(ids(depth - peer.length));
    },
    decode: async (count) => {
      const depth = peer.length;
      const { times } = await peer.decode(ids(1)[0], count);
      await peer.truncate(depth);
      return times;
    },
    prefill: async (count) => {
      const depth = peer.length;
      const began = performance.now();
      await peer.prefill(ids(count));
      const elapsedMs = performance.now() - began;
      await peer.truncate(depth);
      return elapsedMs;
    },
    cacheBytes: () => peer.stateBytes,
    dispose: () => peer.dispose(),
  };
}

/** A token id in the upper part of the vocabulary, where ids are words and not control tokens. */
export function anyToken(random: Random, vocabSize: number): number {
  return Math.floor(vocabSize / 2 + (random.uniform() * vocabSize) / 2 - 1);
}
