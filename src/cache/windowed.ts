import { ensure } from '../errors/errors.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import type { CacheBytes, CacheState, LayerShape } from './cache.ts';
import type { Place } from './saved-state.ts';
import { StepRows } from './step-rows.ts';
import { expectVisibleMemory, SteppedCache } from './stepped.ts';
import { WindowedLayer } from './windowed-layer.ts';
import type { WindowedMethod } from './windowed-method.ts';

/**
 * A cache in which a query sees the newest positions and the first ones exact, in f16, and all
 * others quantized. Positions are quantized as they come; their exact form goes once no query can
 * see it. A method that has something to learn sees the first `warmup` positions exact, learns from
 * them, and then quantizes them too.
 *
 * Means are subtracted from all keys, exact ones as well: that adds the same number to all scores of
 * a query, so its softmax stays. Values get theirs back in the output, as weights sum to one.
 *
 * Learning looks into the backend's memory, so it needs one that TypeScript can see.
 */
export class WindowedCache extends SteppedCache {
  private readonly step: StepRows;
  private readonly layers: WindowedLayer[] = [];

  constructor(
    private readonly kernels: Kernels,
    private readonly shapes: readonly LayerShape[],
    private readonly method: WindowedMethod,
    origin?: WindowedCache,
  ) {
    expectVisibleMemory(kernels, method.spec);
    super(shapes.length, origin);
    this.step = new StepRows(kernels, shapes);
    const context = { kernels, method, step: this.step };
    try {
      shapes.forEach((shape, i) =>
        this.layers.push(new WindowedLayer(context, i, shape, origin?.layers[i])),
      );
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  get spec(): string {
    return this.method.spec;
  }

  get valueUpdates(): WindowedMethod['valueUpdates'] {
    return this.method.valueUpdates;
  }

  protected reserve(n: number): void {
    this.method.reserveScratch(n);
    this.step.reserve(n);
    for (const layer of this.layers) layer.reserve(this.committed, this.committed + n);
  }

  protected store(layer: number, k: Tensor, v: Tensor): void {
    this.layers[layer].append(this.committed, { k, v });
  }

  protected answer(layer: number, q: Tensor, out: Tensor): void {
    this.layers[layer].attend(q, out, this.committed);
  }

  override commit(): void {
    ensure(
      this.end < this.method.law.warmup || this.layers.every(({ isLearned }) => isLearned),
      'usage',
      () =>
        `cache: ${this.end} positions were appended, and layers did not attend. Attend each step.`,
    );
    super.commit();
  }

  protected override settle(): void {
    for (const layer of this.layers) layer.settle(this.committed);
  }

  protected unwind(): void {
    for (const layer of this.layers) layer.unwind(this.committed);
  }

  /** What was learnt, and exact positions that are gone, cannot be had back: then nothing can be kept. */
  protected recallable(length: number): number {
    const { law } = this.method;
    const firstSeen = law.paged(Math.max(0, length - law.window));
    const hasWindow =
      law.window === 0 || this.layers.every(({ firstExact }) => firstExact <= firstSeen);
    return length >= law.warmup && hasWindow ? length : 0;
  }

  protected copy(): WindowedCache {
    return new WindowedCache(this.kernels, this.shapes, this.method, this);
  }

  bytes(): CacheBytes {
    const sums = {
      keys: 0,
      values: 0,
      scales: 0,
      windows: 0,
      codebooks: this.method.codebookBytes(),
    };
    let scratch = this.method.scratchBytes() + this.step.sizeBytes;
    for (const layer of this.layers) {
      const bytes = layer.bytes(this.end);
      for (const kind of Object.keys(sums) as (keyof typeof sums)[]) sums[kind] += bytes[kind];
      scratch += bytes.scratch;
    }
    const total = Object.values(sums).reduce((a, b) => a + b);
    return { ...sums, total, scratch };
  }

  protected *places(length: number): Generator<Place> {
    for (const layer of this.layers) yield* layer.places(length);
  }

  protected override numbersAt(length: number): CacheState['numbers'] {
    return { first: this.method.law.firstExact(length) };
  }

  protected reserveSaved(length: number): void {
    for (const layer of this.layers) layer.reserveSaved(length);
  }

  protected release(): void {
    for (const layer of this.layers) layer.release();
    this.step.dispose();
  }

  protected releaseShared(): void {
    this.method.dispose();
  }
}
