import type { Adapter } from '../cache/adapter.ts';
import type { CacheBytes, KvCache, LayerShape } from '../cache/cache.ts';
import { createCache } from '../cache/registry.ts';
import type { Kernels } from '../kernels/kernels.ts';

/** What a cache will hold; scratch depends on the size of the steps and is left out. */
export type PlannedBytes = Omit<CacheBytes, 'scratch'>;

/**
 * Exact bytes of a cache before it exists. It is the method itself that is asked, on kernels that
 * hand out buffers with nothing behind them, so that a plan cannot drift from the cache.
 */
export class Plan {
  /** Full form of the method's spec. */
  readonly spec: string;
  private readonly cache: KvCache;

  private constructor(cache: KvCache) {
    this.cache = cache;
    this.spec = cache.spec;
  }

  /** @throws KvError "usage" if the spec is not one of a method */
  static async create(
    spec: string,
    shapes: readonly LayerShape[],
    adapter?: Adapter,
  ): Promise<Plan> {
    return new Plan(await createCache(spec, shapes, countingKernels(), adapter));
  }

  /** Bytes held for this many positions. */
  bytesAt(positions: number): PlannedBytes {
    if (positions > 0) this.cache.begin(positions);
    const { scratch: _, ...bytes } = this.cache.bytes();
    this.cache.rollback();
    return bytes;
  }

  /** The most positions, up to `limit`, whose cache stays within `maxBytes`; 0 if none does. */
  longestWithin(maxBytes: number, limit = 2 ** 24): number {
    const fits = (positions: number) => this.bytesAt(positions).total <= maxBytes;
    if (!fits(1)) return 0;
    let [low, high] = [1, 2];
    while (high <= limit && fits(high)) [low, high] = [high, 2 * high];
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      if (fits(middle)) low = middle;
      else high = middle;
    }
    return Math.min(low, limit);
  }
}

/** Bytes that a cache holds for `positions` positions. */
export async function plannedBytes(
  spec: string,
  shapes: readonly LayerShape[],
  positions: number,
  adapter?: Adapter,
): Promise<PlannedBytes> {
  return (await Plan.create(spec, shapes, adapter)).bytesAt(positions);
}

function countingKernels(): Kernels {
  const counting: Pick<Kernels, 'alloc' | 'free' | 'write'> = {
    alloc: (sizeBytes) => ({ sizeBytes }),
    free: () => {},
    write: () => {},
  };
  return counting as Kernels;
}
