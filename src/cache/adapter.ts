import { KvError } from '../errors/errors.ts';
import type { LayerShape } from './cache.ts';

export type Granularity = 'global' | 'layer' | 'head';

/** Temperatures of `h1b` that were fitted at one sketch width. */
export interface TemperatureFit {
  readonly bits: number;
  readonly global: number;
  /** [layers] */
  readonly layer: readonly number[];
  /** [layers][nHeads] */
  readonly head: readonly (readonly number[])[];
}

/** What keys, values and queries of one layer look like. Matrices are symmetric and whole. */
export interface LayerStatistics {
  /** [nKvHeads * headDimK] */
  readonly keyMean: Float32Array;
  /** [nKvHeads * headDimV] */
  readonly valueMean: Float32Array;
  /** covariance, [nKvHeads, headDimK, headDimK] */
  readonly keys: Float32Array;
  /**
   * second moment over all query heads of a KV head, each query weighted by what errors in its scores
   * cost (`collectStatistics` in src/train/statistics.ts), [nKvHeads, headDimK, headDimK]
   */
  readonly queries: Float32Array;
  /** what it costs to lose the values of a KV head, in the unit of these weights, [nKvHeads] */
  readonly valueCosts: Float32Array;
}

/** What was fitted for one model; kept as JSON beside it. */
export interface Adapter {
  readonly format: 'h1b-kv adapter';
  readonly version: 1;
  /** `Model.hash` of the model that it was fitted for */
  readonly model: string;
  /** what the fit ran on, for people */
  readonly text: string;
  readonly temperatures: readonly TemperatureFit[];
  /** by layer */
  readonly statistics?: readonly LayerStatistics[];
}

/**
 * Reads an adapter from JSON text and checks that it belongs to a model.
 * @throws KvError "format" if it is damaged, of another version or fitted for another model
 */
export function parseAdapter(json: string, name: string, modelHash: string): Adapter {
  let value: Partial<Adapter>;
  try {
    value = JSON.parse(json) as Partial<Adapter>;
  } catch (cause) {
    throw new KvError('format', `adapter ${name}: not JSON. Run h1bkv calibrate again.`, { cause });
  }
  const problem = adapterProblem(value, modelHash);
  if (problem)
    throw new KvError('format', `adapter ${name}: ${problem} Run h1bkv calibrate again.`);
  try {
    const statistics = (value.statistics as unknown as StoredStatistics[] | undefined)?.map(unpack);
    return { ...(value as Adapter), ...(statistics && { statistics }) };
  } catch (cause) {
    throw new KvError(
      'format',
      `adapter ${name}: its statistics are damaged. Run h1bkv calibrate again.`,
      { cause },
    );
  }
}

/** The adapter as JSON text, for `parseAdapter`. */
export function formatAdapter(adapter: Adapter): string {
  return JSON.stringify({ ...adapter, statistics: adapter.statistics?.map(pack) }, null, 1) + '\n';
}

/** Numbers as base64 of little-endian f32: a tenth of the digits, and exact. */
type StoredStatistics = Record<keyof LayerStatistics, string>;

const statisticsKeys = ['keyMean', 'valueMean', 'keys', 'queries', 'valueCosts'] as const;

function pack(layer: LayerStatistics): StoredStatistics {
  const text = ({ buffer, byteOffset, byteLength }: Float32Array) =>
    btoa(
      Array.from(new Uint8Array(buffer, byteOffset, byteLength), (b) =>
        String.fromCharCode(b),
      ).join(''),
    );
  return Object.fromEntries(
    statisticsKeys.map((key) => [key, text(layer[key])]),
  ) as StoredStatistics;
}

/** @throws if a field is no base64 of finite f32 */
function unpack(stored: StoredStatistics): LayerStatistics {
  const numbers = (text: string) => {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const all = new Float32Array(bytes.buffer);
    if (!all.every(Number.isFinite)) throw new Error('not finite');
    return all;
  };
  return Object.fromEntries(
    statisticsKeys.map((key) => [key, numbers(stored[key])]),
  ) as unknown as LayerStatistics;
}

/** @throws KvError "shape" if statistics were collected for other layers */
export function statisticsOf(
  adapter: Adapter | undefined,
  shapes: readonly LayerShape[],
): readonly LayerStatistics[] | undefined {
  const statistics = adapter?.statistics;
  if (!statistics) return undefined;
  const fits =
    statistics.length === shapes.length &&
    shapes.every(({ nKvHeads, headDimK, headDimV }, i) => {
      const { keyMean, valueMean, keys, queries, valueCosts } = statistics[i];
      const square = nKvHeads * headDimK * headDimK;
      return (
        keyMean.length === nKvHeads * headDimK &&
        valueMean.length === nKvHeads * headDimV &&
        keys.length === square &&
        queries.length === square &&
        valueCosts.length === nKvHeads
      );
    });
  if (fits) return statistics;
  throw new KvError(
    'shape',
    'adapter: its statistics are for other layers than the model has. Run h1bkv calibrate again.',
  );
}

/**
 * The adapter's temperatures as [layers][nHeads], or undefined if it has none for this width.
 * @throws KvError "shape" if they were fitted for other layers
 */
export function fittedTemperatures(
  adapter: Adapter | undefined,
  bits: number,
  granularity: Granularity,
  shapes: readonly LayerShape[],
): number[][] | undefined {
  const fit = adapter?.temperatures.find((candidate) => candidate.bits === bits);
  if (!fit) return undefined;
  const sameShape =
    fit.head.length === shapes.length && fit.head.every((h, i) => h.length === shapes[i].nHeads);
  if (!sameShape) {
    throw new KvError(
      'shape',
      `adapter: its temperatures are for ${fit.head.length} layers of ${fit.head[0]?.length} heads; the model has ${shapes.length} of ${shapes[0]?.nHeads}.`,
    );
  }
  const pick = {
    global: () => fit.global,
    layer: (layer: number) => fit.layer[layer],
    head: (layer: number, head: number) => fit.head[layer][head],
  }[granularity];
  return fit.head.map((heads, layer) => heads.map((_, head) => pick(layer, head)));
}

function adapterProblem(value: Partial<Adapter> | null, modelHash: string): string | undefined {
  if (value?.format !== 'h1b-kv adapter') return 'it is not an h1b-kv adapter.';
  if (value.version !== 1) return `its version is ${value.version}; this program reads version 1.`;
  if (value.model !== modelHash) return 'it was fitted for another model.';
  const positive = (t: unknown) => typeof t === 'number' && t > 0 && Number.isFinite(t);
  const wellFormed =
    Array.isArray(value.temperatures) &&
    value.temperatures.every(
      (fit: Partial<TemperatureFit> | null) =>
        fit &&
        Number.isInteger(fit.bits) &&
        positive(fit.global) &&
        Array.isArray(fit.layer) &&
        Array.isArray(fit.head) &&
        fit.layer.length === fit.head.length &&
        fit.layer.every(positive) &&
        fit.head.every((heads) => Array.isArray(heads) && heads.every(positive)),
    );
  return wellFormed ? undefined : 'its temperatures are damaged.';
}
