import type { Adapter } from '../cache/adapter.ts';
import type { KvCache, LayerShape } from '../cache/cache.ts';
import type {
  Finetuned,
  FinetunedSketches,
  FinetunedLayer,
  FinetunedMatrix,
} from '../cache/finetuned.ts';
import { createCache } from '../cache/registry.ts';
import { gaussianProjection } from '../cache/sketch.ts';
import { KvError } from '../errors/errors.ts';
import type { Tensor } from '../kernels/kernels.ts';
import { bytesOf } from '../kernels/tensor.ts';
import { dequantize } from '../math/blocks.ts';
import { symmetricEigen } from '../math/linalg.ts';
import type { DecoderLayer } from '../model/decoder.ts';
import type { Model } from '../model/model.ts';
import { ArrayKernels, transpose } from './array-kernels.ts';
import { LayerWalk, type OnProgress } from './layer-walk.ts';
import type { TuningStart } from './tuning.ts';

export interface RidgeOptions {
  /** positions of a window; default: the model's context, at most 2048 */
  readonly window?: number;
  readonly onProgress?: OnProgress;
}

/** A correction is held to none as if so many positions more had been seen that need none. */
const positionsWithout = 400;

/**
 * Corrects the attention of `h1b` without gradients. For each KV head, with o the exact output of its
 * query heads and p that of sketches, from the same queries, keys and values, C minimises over a text
 *
 *     sum |C p - o|^2 + 400 mean(p_c^2) |C - I|^2     over positions and query heads, p_c an element of p
 *
 * As p is a weighted mean of values v = W x + b, C - 1 times W is what is added to W: C applies to p - b and
 * o - b. Layer by layer: what a layer is fitted on has been through the corrected ones below it.
 * @param start temperatures that stay as they are, and what sketches they are for
 * @returns a part of an adapter, to be used as `h1b:tuned=<name>`
 */
export async function fitRidge(
  model: Model,
  ids: Int32Array,
  name: string,
  start: Omit<FinetunedSketches, 'name' | 'method' | 'layers'> & Pick<TuningStart, 'temperatures'>,
  { window = 2048, onProgress }: RidgeOptions = {},
): Promise<Finetuned> {
  const { bits, seed, byNorm } = start;
  const part = { method: 'h1b' as const, name, bits, seed, ...(byNorm && { byNorm }) };
  const arrays = new ArrayKernels(model.kernels);
  const walk = new LayerWalk(model, ids, { window });
  const layers: FinetunedLayer[] = [];
  try {
    for (const [layer, shape] of model.layers.entries()) {
      const temperatures = Float32Array.from(start.temperatures[layer]);
      const sketched = (values: readonly FinetunedMatrix[]) => {
        // A cache of this layer alone would take the R of the first.
        const projection = projectionOf(layer, shape, part);
        const only = { ...part, layers: [{ temperatures, values, projection }] };
        const adapter: Adapter = { model: '', text: '', temperatures: [], finetuned: [only] };
        return createCache(`h1b:tuned=${name}`, [shape], model.kernels, adapter);
      };
      const sums = new OutputSums(arrays, shape, biasOf(model, layer));
      const bothWays = async () => {
        const exact = await createCache('f32', [shape], model.kernels);
        return beside(
          await sketched([]),
          exact,
          (out) => model.kernels.view(out) as Float32Array,
          sums,
        );
      };
      await walk.peek(layer, bothWays, onProgress);
      const values = [updateOf(model, model.parts.layers[layer], shape, sums.corrections())];
      await walk.advance(layer, () => sketched(values));
      layers.push({ temperatures, values });
    }
  } finally {
    walk.dispose();
    arrays.dispose();
  }
  return { ...part, layers };
}

function projectionOf(
  layer: number,
  shape: LayerShape,
  { bits, seed }: { bits: number; seed: number },
) {
  const { nKvHeads, headDimK } = shape;
  return Float32Array.from(gaussianProjection(seed, layer, nKvHeads, bits, headDimK));
}

/** Of the values of a layer, [nKvHeads * headDimV]; undefined: there is none. */
function biasOf(model: Model, layer: number): Float32Array | undefined {
  const bias = model.parts.layers[layer].bias;
  return bias && (model.kernels.view(bias.v) as Float32Array).slice();
}

/** A cache that asks an exact one first, and tells of both answers. */
function beside(
  cache: KvCache,
  exact: KvCache,
  view: (out: Tensor) => Float32Array,
  sums: OutputSums,
): KvCache {
  const { append, attend, dispose } = cache;
  return Object.assign(cache, {
    append: (...[layer, k, v]: Parameters<KvCache['append']>) => {
      exact.begin(k.shape[0]);
      exact.append(layer, k, v);
      append.call(cache, layer, k, v);
    },
    attend: (...[layer, q, out]: Parameters<KvCache['attend']>) => {
      exact.attend(layer, q, out);
      exact.commit();
      const wanted = view(out).slice();
      attend.call(cache, layer, q, out);
      sums.add(wanted, view(out));
    },
    dispose: () => {
      exact.dispose();
      dispose.call(cache);
    },
  });
}

/** Second moments of the outputs of one layer, by KV head, less the bias of its values. */
class OutputSums {
  /** sums of p p^T, and of o p^T, f64 [nKvHeads][d, d] */
  private readonly own: Float64Array[];
  private readonly cross: Float64Array[];
  private positions = 0;

  constructor(
    private readonly arrays: ArrayKernels,
    private readonly shape: LayerShape,
    private readonly bias: Float32Array | undefined,
  ) {
    const square = shape.headDimV ** 2;
    const zeros = () => Array.from({ length: shape.nKvHeads }, () => new Float64Array(square));
    [this.own, this.cross] = [zeros(), zeros()];
  }

  /** @param exact o, and sketched p, [n, nHeads, headDimV] */
  add(exact: Float32Array, sketched: Float32Array): void {
    this.positions += exact.length / (this.shape.nHeads * this.shape.headDimV);
    this.own.forEach((own, group) => {
      const [o, p] = [exact, sketched].map((x) => this.columns(x, group));
      const n = o.length / this.shape.headDimV;
      this.arrays.product(p, p, n).forEach((x, i) => (own[i] += x));
      this.arrays.product(o, p, n).forEach((x, i) => (this.cross[group][i] += x));
    });
  }

  /** What the query heads of a KV head have, less the bias, [headDimV, rows]. */
  private columns(x: Float32Array, group: number): Float32Array {
    const { nHeads, nKvHeads, headDimV: d } = this.shape;
    const width = (nHeads / nKvHeads) * d;
    const rows = new Float32Array(x.length / nKvHeads);
    for (let i = 0; i < rows.length; i++) {
      const [row, c] = [Math.floor(i / width), i % width];
      const bias = this.bias?.[group * d + (c % d)] ?? 0;
      rows[i] = x[row * nHeads * d + group * width + c] - bias;
    }
    return transpose(rows, d);
  }

  /** C - I of every KV head, [nKvHeads][d, d]. */
  corrections(): Float64Array[] {
    const d = this.shape.headDimV;
    return this.own.map((own, group) => {
      let trace = 0;
      for (let i = 0; i < d; i++) trace += own[i * d + i];
      const pull = (positionsWithout * trace) / (d * this.positions);
      // C = (O + pull I) (P + pull I)^-1, so C - I = (O - P) (P + pull I)^-1.
      const { values, vectors } = symmetricEigen(own, d);
      const inverse = new Float64Array(d * d);
      for (let k = 0; k < d; k++) {
        const weight = 1 / (Math.max(0, values[k]) + pull || 1);
        for (let i = 0; i < d; i++) {
          const x = weight * vectors[k * d + i];
          for (let j = 0; j < d; j++) inverse[i * d + j] += x * vectors[k * d + j];
        }
      }
      return timesRows(
        this.cross[group].map((x, i) => x - own[i]),
        inverse,
        d,
      );
    });
  }
}

/** A product of a [rows, inner] and b [inner, columns]. */
function timesRows(a: Float64Array, b: Float64Array | Float32Array, inner: number): Float64Array {
  const columns = b.length / inner;
  const out = new Float64Array((a.length / inner) * columns);
  for (let at = 0; at < a.length; at++) {
    const [row, k] = [Math.floor(at / inner) * columns, (at % inner) * columns];
    for (let j = 0; j < columns; j++) out[row + j] += a[at] * b[k + j];
  }
  return out;
}

/** (C - I) W_v, head by head, [nKvHeads * headDimV, dModel]. */
function updateOf(
  model: Model,
  { wv }: DecoderLayer,
  { headDimV }: LayerShape,
  corrections: readonly Float64Array[],
): FinetunedMatrix {
  const [rows, dModel] = wv.shape;
  const bytes = model.kernels.view(bytesOf(wv)) as Uint8Array;
  const weights = dequantize(wv.dtype, bytes, rows * dModel);
  const numbers = new Float32Array(rows * dModel);
  corrections.forEach((correction, group) => {
    const at = group * headDimV * dModel;
    const own = weights.subarray(at, at + headDimV * dModel);
    numbers.set(timesRows(correction, own, headDimV), at);
  });
  if (numbers.every(Number.isFinite)) return { shape: [rows, dModel], numbers };
  throw new KvError(
    'not-finite',
    'calibrate: the correction of a layer is not finite. Give more text.',
  );
}
