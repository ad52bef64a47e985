/** What the methods that sketch keys share: queries become sketches too, and scores have temperatures. */
import { KvError } from '../errors/errors.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import { allocTensor, tensor } from '../kernels/tensor.ts';
import { tensorSizeBytes } from '../math/dtype.ts';
import { contentsOf, fittedTemperatures, type Adapter, type Granularity } from './adapter.ts';
import type { LayerShape } from './cache.ts';
import type { CacheSpec } from './spec.ts';

/** Temperature where neither the spec nor an adapter gives one: about the embedded model's best at b = 256. */
export const defaultTemperature = 0.07;

/** Room for the sketches of one step's queries, u32 [nHeads, n, words], reused by every layer. */
export class QueryScratch {
  private readonly kernels: Kernels;
  private readonly words: number;
  private readonly maxHeads: number;
  private held: Tensor | undefined;

  constructor(kernels: Kernels, words: number, maxHeads: number) {
    this.kernels = kernels;
    this.words = words;
    this.maxHeads = maxHeads;
  }

  get sizeBytes(): number {
    return this.held?.buffer.sizeBytes ?? 0;
  }

  reserve(n: number): void {
    const shape = [this.maxHeads, n, this.words];
    if (this.sizeBytes >= tensorSizeBytes('u32', shape)) return;
    this.dispose();
    this.held = allocTensor(this.kernels, 'u32', shape);
  }

  get(n: number, nHeads: number): Tensor {
    if (!this.held) throw new KvError('usage', 'cache: attend was called outside a step.');
    return tensor(this.held.buffer, 'u32', [nHeads, n, this.words]);
  }

  dispose(): void {
    if (this.held) this.kernels.free(this.held.buffer);
    this.held = undefined;
  }
}

/** One temperature per layer and query head, and the word for them in the spec. */
export function chooseTemperatures(
  spec: CacheSpec,
  bits: number,
  shapes: readonly LayerShape[],
  adapter: Adapter | undefined,
): { label: string; temperatures: readonly (readonly number[])[] } {
  const uniform = (t: number) => shapes.map(({ nHeads }) => Array<number>(nHeads).fill(t));
  const wanted = spec.settings.get('t');
  if (wanted === undefined || ['head', 'layer', 'global'].includes(wanted)) {
    const granularity = (wanted ?? 'head') as Granularity;
    const fit = fittedTemperatures(adapter, bits, granularity, shapes);
    if (fit) return { label: granularity, temperatures: fit };
    if (wanted !== undefined) {
      throw new KvError(
        'usage',
        `cache "${spec.name}": t=${wanted} needs an adapter with temperatures for b=${bits}, and ${contentsOf(adapter)}. Run h1bkv calibrate --bits ${bits}, or give a number.`,
      );
    }
    return { label: String(defaultTemperature), temperatures: uniform(defaultTemperature) };
  }
  const t = Number(wanted);
  if (!(t >= 1e-3 && t <= 1e3)) {
    throw new KvError(
      'usage',
      `cache "${spec.name}": t is ${wanted}; it must be a number from 0.001 to 1000, or head, layer or global.`,
    );
  }
  return { label: String(t), temperatures: uniform(t) };
}
