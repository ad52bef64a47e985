import { KvError } from '../errors/errors.ts';
import type { Kernels } from '../kernels/kernels.ts';
import type { Adapter } from './adapter.ts';
import type { CacheMethod, KvCache, LayerShape } from './cache.ts';
import { parseSpec } from './spec.ts';

export interface CacheRow {
  readonly summary: string;
  readonly load: () => Promise<CacheMethod>;
}

/** Every cache method, by the name that a spec begins with. To add one: one file, one row. */
export const cacheMethods: Readonly<Record<string, CacheRow>> = {
  f16: { summary: 'uncompressed, 16 bits per element', load: () => import('./full.ts') },
  f32: { summary: 'uncompressed, 32 bits per element', load: () => import('./full.ts') },
  h1b: {
    summary: '1-bit key sketches and 4-bit values, as in the H1B-KV paper',
    load: () => import('./h1b.ts'),
  },
};

/**
 * Creates an empty cache from a spec such as `f16` or `h1b:b=128`.
 * @throws KvError "usage" if the method or a setting is unknown
 */
export async function createCache(
  spec: string,
  shapes: readonly LayerShape[],
  kernels: Kernels,
  adapter?: Adapter,
): Promise<KvCache> {
  const parsed = parseSpec(spec);
  const row = Object.hasOwn(cacheMethods, parsed.name) ? cacheMethods[parsed.name] : undefined;
  if (!row) {
    throw new KvError(
      'usage',
      `cache "${parsed.name}" is unknown; there are ${Object.keys(cacheMethods).join(', ')}.`,
    );
  }
  return (await row.load()).create(parsed, shapes, kernels, adapter);
}
