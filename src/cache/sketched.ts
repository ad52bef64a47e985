/** What the methods that sketch keys share: queries become sketches too, and scores have temperatures. */
import { KvError } from '../errors/errors.ts';
import type { Kernels, Segment, Tensor } from '../kernels/kernels.ts';
import { tensor } from '../kernels/tensor.ts';
import { tensorSizeBytes } from '../math/dtype.ts';
import { contentsOf, fittedTemperatures, type Adapter, type Granularity } from './adapter.ts';
import type { LayerShape } from './cache.ts';
import { allocTensors } from './constants.ts';
import type { CacheSpec } from './spec.ts';

/** Temperature where neither the spec nor an adapter gives one: about the embedded model's best at b = 256. */
export const defaultTemperature = 0.07;

/** Room for the sketches of one step's queries, reused by every layer. */
export class QueryScratch {
  private sketches: Tensor | undefined;
  private scales: Tensor | undefined;

  /** @param byNorm scores count by `rootMeanSquares` of the query: see `chooseTemperatures` */
  constructor(
    private readonly kernels: Kernels,
    private readonly words: number,
    private readonly maxHeads: number,
    private readonly byNorm: boolean,
  ) {}

  get sizeBytes(): number {
    return (this.sketches?.buffer.sizeBytes ?? 0) + (this.scales?.buffer.sizeBytes ?? 0);
  }

  reserve(n: number): void {
    const shape = [this.maxHeads, n, this.words];
    if ((this.sketches?.buffer.sizeBytes ?? 0) >= tensorSizeBytes('u32', shape)) return;
    this.dispose();
    [this.sketches, this.scales] = allocTensors(this.kernels, [
      { dtype: 'u32', shape },
      ...(this.byNorm ? [{ dtype: 'f32' as const, shape: [this.maxHeads, n] }] : []),
    ]);
  }

  /**
   * The query of a segment of sketches. With factors by norm, the backend's memory has to be visible.
   * @param q f32 [n, nHeads, headDimK]
   * @param projection i8 [nKvHeads, bits, headDimK]
   */
  sketch(q: Tensor, projection: Tensor): Pick<Segment, 'query' | 'queryScales'> {
    const { kernels, sketches, scales } = this;
    if (!sketches) throw new KvError('usage', 'cache: attend was called outside a step.');
    const [n, nHeads, headDim] = q.shape;
    const query = tensor(sketches.buffer, 'u32', [nHeads, n, this.words]);
    kernels.storeSketch(q, projection, query, 0);
    if (!scales) return { query };
    const queryScales = tensor(scales.buffer, 'f32', [nHeads, n]);
    const rows = kernels.view(q) as Float32Array;
    kernels.write(queryScales, rootMeanSquares(rows, nHeads, headDim));
    return { query, queryScales };
  }

  dispose(): void {
    for (const held of [this.sketches, this.scales]) if (held) this.kernels.free(held.buffer);
    this.sketches = this.scales = undefined;
  }
}

/**
 * The root mean square of every query, |q| / sqrt(headDim).
 * @param q [n, nHeads, headDim] @returns [nHeads, n]
 */
export function rootMeanSquares(q: Float32Array, nHeads: number, headDim: number): Float32Array {
  const n = q.length / (nHeads * headDim);
  const out = new Float32Array(nHeads * n);
  for (let row = 0; row < n * nHeads; row++) {
    let squares = 0;
    for (let c = row * headDim; c < (row + 1) * headDim; c++) squares += q[c] * q[c];
    out[(row % nHeads) * n + Math.floor(row / nHeads)] = Math.sqrt(squares / headDim);
  }
  return out;
}

export interface ChosenTemperatures {
  /** the word for them in the spec */
  readonly label: string;
  /** T, one per layer and query head */
  readonly temperatures: readonly (readonly number[])[];
  /**
   * The logit of a key of sketch score a is r a / T, r the query's root mean square, rather than a / T: a
   * query twice as long has half the temperature, as it has with exact scores.
   */
  readonly byNorm: boolean;
}

/** The temperatures that `t` of a spec asks for: a number, or what an adapter has. */
export function chooseTemperatures(
  spec: CacheSpec,
  bits: number,
  shapes: readonly LayerShape[],
  adapter: Adapter | undefined,
): ChosenTemperatures {
  const uniform = (t: number) => shapes.map(({ nHeads }) => Array<number>(nHeads).fill(t));
  const wanted = spec.settings.get('t');
  if (wanted === undefined || ['head', 'layer', 'global', 'norm'].includes(wanted)) {
    const label = (wanted ?? 'head') as Granularity;
    const fit = fittedTemperatures(adapter, bits, label, shapes);
    if (fit) return { label, temperatures: fit, byNorm: label === 'norm' };
    if (wanted !== undefined) {
      throw new KvError(
        'usage',
        `cache "${spec.name}": t=${wanted} needs an adapter with such temperatures for b=${bits}, and ${contentsOf(adapter)}. Run h1bkv calibrate --bits ${bits}, or give a number.`,
      );
    }
    const temperatures = uniform(defaultTemperature);
    return { label: String(defaultTemperature), temperatures, byNorm: false };
  }
  const t = Number(wanted);
  if (!(t >= 1e-3 && t <= 1e3)) {
    throw new KvError(
      'usage',
      `cache "${spec.name}": t is ${wanted}; it must be a number from 0.001 to 1000, or head, layer, global or norm.`,
    );
  }
  return { label: String(t), temperatures: uniform(t), byNorm: false };
}
