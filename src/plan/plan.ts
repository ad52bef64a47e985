import type { Adapter } from '../cache/adapter.ts';
import type { CacheBytes, LayerShape } from '../cache/cache.ts';
import { createCache } from '../cache/registry.ts';
import type { Kernels } from '../kernels/kernels.ts';

/**
 * Bytes that a cache holds for `positions` positions. It is the method itself that is asked, on
 * kernels that hand out buffers with nothing behind them, so a plan cannot drift from the cache.
 * @throws KvError "usage" if the spec is not one of a method
 */
export async function plannedBytes(
  spec: string,
  shapes: readonly LayerShape[],
  positions: number,
  adapter?: Adapter,
): Promise<CacheBytes> {
  const cache = await createCache(spec, shapes, countingKernels(), adapter);
  if (positions > 0) cache.begin(positions);
  return cache.bytes();
}

function countingKernels(): Kernels {
  const counting: Pick<Kernels, 'alloc' | 'free' | 'write'> = {
    alloc: (sizeBytes) => ({ sizeBytes }),
    free: () => {},
    write: () => {},
  };
  return counting as Kernels;
}
