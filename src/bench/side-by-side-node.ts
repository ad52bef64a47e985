import type { Model } from '../model/model.ts';
import { ours, theirs, type Contestant } from './contestant-node.ts';
import { Peer, type PeerOptions } from './peer-node.ts';
import { splitOf, type TokenSplit } from './split.ts';
import { median } from './timing.ts';

export interface BenchRow {
  readonly engine: Contestant['engine'];
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
  /** what a decoded token's time is spent on; not of the peer, which shows only the whole */
  readonly split?: TokenSplit;
}

export interface SideBySideOptions {
  readonly model: Model;
  readonly modelPath: string;
  /** 10^9 bytes a second that the model's threads read from memory */
  readonly memoryGigabytes: number;
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
      const times = contestants.map(() => ({
        decode: [] as number[],
        prefill: [] as number[],
        attend: [] as number[],
      }));
      for (let round = 0; round < rounds; round++) {
        onStep?.(`depth ${depth}: round ${round + 1} of ${rounds}`);
        for (const [i, contestant] of contestants.entries()) {
          const turn = await contestant.decode(warmUpTokens + decodeTokens);
          times[i].decode.push(...turn.slice(warmUpTokens));
          const alone = await contestant.attend?.(warmUpTokens + decodeTokens);
          times[i].attend.push(...(alone ?? []).slice(warmUpTokens));
        }
        for (const [i, contestant] of contestants.entries()) {
          times[i].prefill.push(await contestant.prefill(prefillTokens));
        }
      }
      contestants.forEach((contestant, i) => {
        const { decode, prefill, attend } = times[i];
        const cacheBytes = contestant.cacheBytes();
        const measured = { tokenMs: median(decode), attendMs: median(attend), cacheBytes };
        results.push({
          engine: contestant.engine,
          kv: contestant.kv,
          model: model.name,
          depth,
          threads: model.kernels.threads,
          decode: 1000 / median(decode),
          prefill: (1000 * prefillTokens) / median(prefill),
          cacheBytes,
          ...(attend.length > 0 && { split: splitOf(measured, options.memoryGigabytes) }),
        });
      });
    }
  } finally {
    for (const contestant of contestants) await contestant.dispose();
  }
  return results;
}
