import { KvError } from '../errors/errors.ts';
import type { LayerShape } from './cache.ts';
import { fitsLayer, type Finetuned } from './finetuned.ts';
import type { CacheSpec } from './spec.ts';

/** `norm`: one per head, for scores that count by the norm of the query (`ChosenTemperatures.byNorm`). */
export type Granularity = 'global' | 'layer' | 'head' | 'norm';

/** Temperatures of `h1b` that were fitted at one sketch width. */
export interface TemperatureFit {
  readonly bits: number;
  readonly global: number;
  /** [layers] */
  readonly layer: readonly number[];
  /** [layers][nHeads] */
  readonly head: readonly (readonly number[])[];
  /** [layers][nHeads], absent in adapters made before there was such a law */
  readonly norm?: readonly (readonly number[])[];
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
  /** covariance, [nKvHeads, headDimV, headDimV] */
  readonly values: Float32Array;
  /**
   * what an error in the output of a KV head's queries does to the residual stream: sum over query heads of
   * W_o^T W_o, as a share of what values do there on the mean over KV heads, [nKvHeads, headDimV, headDimV]
   */
  readonly outputs: Float32Array;
}

/** Statistics with costs for caches that keep the newest positions exact, and for those that keep none. */
export interface CollectedStatistics extends LayerStatistics {
  /** as `queries`, where no position is exact */
  readonly bareQueries: Float32Array;
  /** as `valueCosts`, where no position is exact */
  readonly bareValueCosts: Float32Array;
}

/** Caches whose window is shorter are served as if they had none. */
export const leastWindow = 32;

/**
 * What was fitted for one model. Each field beyond the first two is a part that methods may ask for;
 * src/model/adapter-file.ts keeps them in a file.
 */
export interface Adapter {
  /** `Model.hash` of the model that it was fitted for */
  readonly model: string;
  /** what the fit ran on, for people */
  readonly text: string;
  readonly temperatures: readonly TemperatureFit[];
  /** by layer */
  readonly statistics?: readonly CollectedStatistics[];
  /** names differ */
  readonly finetuned?: readonly Finetuned[];
}

/** What there is in place of a part that is asked for in vain, as messages say it. */
export function contentsOf(adapter: Adapter | undefined): string {
  if (!adapter) return 'this model has no adapter';
  const { temperatures, statistics, finetuned } = adapter;
  const widths = (fits: readonly TemperatureFit[]) => fits.map(({ bits }) => bits).join(', ');
  const byNorm = widths(temperatures.filter(({ norm }) => norm));
  const parts = [
    ...(temperatures.length > 0 ? [`temperatures for b=${widths(temperatures)}`] : []),
    ...(byNorm ? [`t=norm for b=${byNorm}`] : []),
    ...(statistics ? ['statistics'] : []),
    ...(finetuned ?? []).map(({ name }) => `tuned=${name}`),
  ];
  return `this model's has ${parts.join('; ') || 'nothing'}`;
}

/**
 * The adapter's statistics, with the costs of a cache whose newest `window` positions are exact.
 * @throws KvError "shape" if they were collected for other layers
 */
export function statisticsOf(
  adapter: Adapter | undefined,
  shapes: readonly LayerShape[],
  window: number,
): readonly LayerStatistics[] | undefined {
  const statistics = adapter?.statistics;
  if (!statistics) return undefined;
  const fits =
    statistics.length === shapes.length &&
    shapes.every(({ nKvHeads, headDimK, headDimV }, i) => {
      const { keyMean, valueMean, keys, values, outputs, ...costs } = statistics[i];
      const square = nKvHeads * headDimK * headDimK;
      const squareV = nKvHeads * headDimV * headDimV;
      return (
        keyMean.length === nKvHeads * headDimK &&
        valueMean.length === nKvHeads * headDimV &&
        keys.length === square &&
        [values, outputs].every((of) => of.length === squareV) &&
        [costs.queries, costs.bareQueries].every((moments) => moments.length === square) &&
        [costs.valueCosts, costs.bareValueCosts].every((of) => of.length === nKvHeads)
      );
    });
  if (fits && window >= leastWindow) return statistics;
  if (fits) {
    return statistics.map((layer) => ({
      ...layer,
      queries: layer.bareQueries,
      valueCosts: layer.bareValueCosts,
    }));
  }
  throw new KvError(
    'shape',
    'adapter: its statistics are for other layers than the model has. Run h1bkv calibrate again.',
  );
}

/**
 * The adapter's temperatures as [layers][nHeads], or undefined if it has none for this width and kind.
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
  const sameShape = [fit.head, fit.norm ?? fit.head].every(
    (layers) =>
      layers.length === shapes.length && layers.every((h, i) => h.length === shapes[i].nHeads),
  );
  if (!sameShape) {
    throw new KvError(
      'shape',
      `adapter: its temperatures are for ${fit.head.length} layers of ${fit.head[0]?.length} heads; the model has ${shapes.length} of ${shapes[0]?.nHeads}.`,
    );
  }
  const everyHead = (pick: (layer: number) => number) =>
    fit.head.map((heads, layer) => heads.map(() => pick(layer)));
  const all = {
    global: () => everyHead(() => fit.global),
    layer: () => everyHead((layer) => fit.layer[layer]),
    head: () => fit.head,
    norm: () => fit.norm,
  };
  return all[granularity]()?.map((heads) => [...heads]);
}

/**
 * The part that a spec asks for, if it does.
 * @throws KvError "usage" if the adapter has none of that name; "shape" if it was made for other layers
 */
export function finetunedOf(
  spec: CacheSpec,
  shapes: readonly LayerShape[],
  adapter: Adapter | undefined,
): Finetuned | undefined {
  const name = spec.settings.get('tuned');
  return name === undefined
    ? undefined
    : finetunedNamed(name, `cache "${spec.name}": tuned=${name}`, shapes, adapter);
}

/**
 * The same for a method that has parts of its own.
 * @param settingsOf what such a part was made with: a spec may repeat it, and not contradict it
 * @throws KvError "usage" also if the part is of another method, or the spec contradicts it
 */
export function finetunedFor<M extends Finetuned['method']>(
  method: M,
  spec: CacheSpec,
  shapes: readonly LayerShape[],
  adapter: Adapter | undefined,
  settingsOf: (part: Extract<Finetuned, { method: M }>) => Iterable<readonly [string, string]>,
): Extract<Finetuned, { method: M }> | undefined {
  const found = finetunedOf(spec, shapes, adapter);
  if (!found) return undefined;
  const isOwn = (part: Finetuned): part is Extract<Finetuned, { method: M }> =>
    part.method === method;
  const refuse = (problem: string) =>
    new KvError('usage', `cache "${spec.name}": tuned=${found.name} ${problem}`);
  if (!isOwn(found)) {
    throw refuse(`was made for ${found.method}. Take ${found.method}:tuned=${found.name}.`);
  }
  for (const [key, value] of settingsOf(found)) {
    const wanted = spec.settings.get(key);
    if (wanted === undefined || wanted === value) continue;
    throw refuse(`was made with ${key}=${value}, not ${wanted}. Leave out ${key}.`);
  }
  return found;
}

/**
 * The part of this name.
 * @param asked who asks for what, as messages begin
 * @throws KvError "usage" if the adapter has none; "shape" if it was made for other layers
 */
export function finetunedNamed(
  name: string,
  asked: string,
  shapes: readonly LayerShape[],
  adapter: Adapter | undefined,
): Finetuned {
  const found = adapter?.finetuned?.find((candidate) => candidate.name === name);
  if (!found) {
    throw new KvError(
      'usage',
      `${asked} needs an adapter with what finetuning left under that name, and ${contentsOf(adapter)}. Run h1bkv finetune --name ${name}, or give an adapter that has it.`,
    );
  }
  const fits =
    found.layers.length === shapes.length &&
    shapes.every((shape, i) =>
      fitsLayer(found.layers[i], shape, found.method === 'h1b' ? found.bits : undefined),
    );
  if (fits) return found;
  throw new KvError(
    'shape',
    `${asked} is for other layers than the model has. Run h1bkv finetune.`,
  );
}
