import { KvError } from '../errors/errors.ts';
import type { Kernels } from '../kernels/kernels.ts';
import type { Adapter } from './adapter.ts';
import type { KvCache, LayerShape } from './cache.ts';
import type { CacheMethod } from './method.ts';
import { parseSpec, type CacheSpec } from './spec.ts';

export interface CacheRow {
  readonly summary: string;
  /** the setting that a spec may give first and without its name, as in `kivi:2` */
  readonly bare?: string;
  /** settings that the name stands for; a spec may override them */
  readonly preset?: string;
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
  'h1b+': {
    summary: 'h1b with the norms of keys and a query that is not cut to bits',
    load: () => import('./h1b-plus.ts'),
  },
  bitplane: {
    summary: 'ours: bits per key channel by importance, 2 to 4 per value, a window in f16',
    load: () => import('./bitplane.ts'),
  },
  'bitplane-small': {
    summary: 'ours with the fewest bytes: 1.38 bits per key channel, 2 per value, a window of 32',
    preset: 'k=1.375,window=32',
    load: () => import('./bitplane.ts'),
  },
  q8_0: {
    summary: 'as llama.cpp: 8-bit codes, a scale for every 32',
    load: () => import('./quantized.ts'),
  },
  q4_0: {
    summary: 'as llama.cpp: 4-bit codes, a scale for every 32',
    load: () => import('./quantized.ts'),
  },
  kivi: {
    summary: '2- or 4-bit keys per channel and values per token, a 16-bit window (KIVI)',
    bare: 'bits',
    load: () => import('./kivi.ts'),
  },
  loki: {
    summary:
      '1-bit key sketches and 16-bit values; loki:pca: whole keys, exact attention to the best',
    bare: 'keys',
    load: () => import('./loki.ts'),
  },
  cq: {
    summary: 'groups of channels share a code, 1 bit per channel (coupled quantization)',
    load: () => import('./cq.ts'),
  },
  sparse: {
    summary: 'evicts all but the newest and the most attended fifth (H2O)',
    load: () => import('./sparse.ts'),
  },
  minicache: {
    summary: '4 bits, upper layers borrow directions from their neighbours (MiniCache)',
    load: () => import('./minicache.ts'),
  },
};

/**
 * Creates an empty cache from a spec such as `f16` or `h1b:b=128`.
 * @throws KvError "usage" if the method or a setting is unknown
 */
export async function createCache(
  text: string,
  shapes: readonly LayerShape[],
  kernels: Kernels,
  adapter?: Adapter,
): Promise<KvCache> {
  const { row, spec } = resolveSpec(text);
  return (await row.load()).create(spec, shapes, kernels, adapter);
}

/**
 * The method that a spec names, and the spec with the settings that its name stands for.
 * @throws KvError "usage" if the method is unknown
 */
export function resolveSpec(text: string): { readonly row: CacheRow; readonly spec: CacheSpec } {
  const rowOf = (name: string): CacheRow | undefined =>
    Object.hasOwn(cacheMethods, name) ? cacheMethods[name] : undefined;
  const parsed = parseSpec(text, (name) => rowOf(name)?.bare);
  const row = rowOf(parsed.name);
  if (!row) {
    throw new KvError(
      'usage',
      `cache "${parsed.name}" is unknown; there are ${Object.keys(cacheMethods).join(', ')}.`,
    );
  }
  const preset = row.preset ? parseSpec(`${parsed.name}:${row.preset}`).settings : [];
  const settings = new Map([...preset, ...parsed.settings]);
  return { row, spec: { ...parsed, settings } };
}
