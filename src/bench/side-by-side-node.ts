import type { KvCache } from '../cache/cache.ts';
import { allocTensor, rows } from '../kernels/tensor.ts';
import { Random } from '../math/random.ts';
import type { Model } from '../model/model.ts';
import { median } from './attention.ts';
import { Peer, type PeerOptions } from './peer-node.ts';

export interface BenchRow {
  readonly engine: 'h1b-kv' | 'node-llama-cpp';
  /** cache method, or the peer's type of KV cache */
  readonly kv: string;
  readonly model: string;
  /** positions in the cache when the measurement begins */
  readonly depth: number;
  readonly threads: number;
  /** tokens per second, one at a time, median */
  readonly decode: number;
  /** tokens per second of one chunk, median */
  readonly prefill: number;
  readonly cacheBytes: number;
}

export interface SideBySideOptions {
  readonly model: Model;
  readonly modelPath: string;
  readonly methods: readonly string[];
  readonly depths: readonly number[];
  /** folder of package.json, and types of KV cache, to measure the peer too */
  readonly peer?: { readonly packageRoot: string; readonly kvs: readonly PeerOptions['kv'][] };
  /** turns that each contestant gets; default 5 */
  readonly rounds?: number;
  /** tokens decoded in a turn; default 24 */
  readonly decodeTokens?: number;
  /** positions of the prefill chunk; default 128 */
  readonly prefillTokens?: number;
  readonly onStep?: (what: string) => void;
}

/**
 * Tokens of a turn that do not count: threads wake up, weights come back into the processor's
 * caches, and the threads of whoever was before stop polling for work.
 */
const warmUpTokens = 4;

/** One engine with one kind of cache. */
interface Contestant {
  readonly engine: BenchRow['engine'];
  readonly kv: string;
  /** Brings the cache to `depth` positions. */
  prepare(depth: number): Promise<void>;
  /** Decodes `count` tokens and forgets them. @returns the time of each, milliseconds */
  decode(count: number): Promise<number[]>;
  /** Runs one chunk and forgets it. @returns milliseconds */
  prefill(count: number): Promise<number>;
  cacheBytes(): number;
  dispose(): Promise<void>;
}

/**
 * Decode and prefill speed of several caches, and of the peer, on one model at several depths. The
 * contestants take turns, so that all meet the same load of the machine; medians are reported.
 * Our caches reach a depth by storing random keys and values, the peer by running random tokens:
 * the time of a step depends on how much is stored, not on what.
 */
export async function benchSideBySide(options: SideBySideOptions): Promise<BenchRow[]> {
  const { model, rounds = 5, decodeTokens = 24, prefillTokens = 128, onStep } = options;
  const depths = [...options.depths].sort((a, b) => a - b);
  const contestants: Contestant[] = [];
  const results: BenchRow[] = [];
  try {
    for (const method of options.methods) {
      contestants.push(ours(model, method, await model.createCache(method)));
    }
    for (const kv of options.peer?.kvs ?? []) {
      const contextLength = (depths.at(-1) ?? 0) + prefillTokens + warmUpTokens + decodeTokens + 64;
      const { threads } = model.kernels;
      const root = options.peer?.packageRoot ?? '';
      const peer = await Peer.open(root, options.modelPath, { kv, contextLength, threads });
      contestants.push(theirs(peer, kv, model.vocabSize));
    }
    for (const depth of depths) {
      for (const contestant of contestants) {
        onStep?.(`${contestant.engine} ${contestant.kv}: to depth ${depth}`);
        await contestant.prepare(depth);
      }
      const times = contestants.map(() => ({ decode: [] as number[], prefill: [] as number[] }));
      for (let round = 0; round < rounds; round++) {
        onStep?.(`depth ${depth}: round ${round + 1} of ${rounds}`);
        for (const [i, contestant] of contestants.entries()) {
          const turn = await contestant.decode(warmUpTokens + decodeTokens);
          times[i].decode.push(...turn.slice(warmUpTokens));
        }
        for (const [i, contestant] of contestants.entries()) {
          times[i].prefill.push(await contestant.prefill(prefillTokens));
        }
      }
      contestants.forEach((contestant, i) => {
        results.push({
          engine: contestant.engine,
          kv: contestant.kv,
          model: model.name,
          depth,
          threads: model.kernels.threads,
          decode: 1000 / median(times[i].decode),
          prefill: (1000 * prefillTokens) / median(times[i].prefill),
          cacheBytes: contestant.cacheBytes(),
        });
      });
    }
  } finally {
    for (const contestant of contestants) await contestant.dispose();
  }
  return results;
}

function ours(model: Model, method: string, cache: KvCache): Contestant {
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
    cacheBytes: () => cache.bytes().total,
    dispose: async () => cache.dispose(),
  };
}

/** Some methods learn from what they are asked first; after that, attention is left out. */
const positionsLearntFrom = 512;

/** Stores random keys and values up to `depth` positions, without running the model. */
function fillCache(model: Model, cache: KvCache, depth: number, random: Random): void {
  const { kernels, layers } = model;
  const chunk = 256;
  const draw = (heads: number, headDim: number) => {
    const t = allocTensor(kernels, 'f32', [chunk, heads, headDim]);
    kernels.write(
      t,
      Float32Array.from({ length: chunk * heads * headDim }, () => random.normal()),
    );
    return t;
  };
  const [{ nHeads, nKvHeads, headDimK, headDimV }] = layers;
  const [k, v] = [draw(nKvHeads, headDimK), draw(nKvHeads, headDimV)];
  const [q, out] = [draw(nHeads, headDimK), draw(nHeads, headDimV)];
  while (cache.length < depth) {
    const n = Math.min(chunk, depth - cache.length);
    cache.begin(n);
    const attends = cache.length < positionsLearntFrom;
    layers.forEach((_, layer) => {
      cache.append(layer, rows(k, 0, n), rows(v, 0, n));
      if (attends) cache.attend(layer, rows(q, 0, n), rows(out, 0, n));
    });
    cache.commit();
  }
  for (const { buffer } of [k, v, q, out]) kernels.free(buffer);
}

function theirs(peer: Peer, kv: string, vocabSize: number): Contestant {
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
function anyToken(random: Random, vocabSize: number): number {
  return Math.floor(vocabSize / 2 + (random.uniform() * vocabSize) / 2 - 1);
}
