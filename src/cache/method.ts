import type { Kernels } from '../kernels/kernels.ts';
import type { Adapter } from './adapter.ts';
import type { KvCache, LayerShape } from './cache.ts';
import type { CacheSpec } from './spec.ts';

/** What the file of a method exports. */
export interface CacheMethod {
  /**
   * An empty cache for a model with these layers.
   * @param adapter what was fitted for this model, if anything was
   * @throws KvError "usage" if a setting is unknown or out of range
   */
  create(
    spec: CacheSpec,
    shapes: readonly LayerShape[],
    kernels: Kernels,
    adapter?: Adapter,
  ): KvCache;
}
