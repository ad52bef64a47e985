import { ensure } from '../errors/errors.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import type { CacheBytes, CacheState, LayerShape } from './cache.ts';
import { WindowLaw } from './exact-positions.ts';
import type { StateLayout } from './saved-state.ts';
import { StepRows } from './step-rows.ts';
import { expectVisibleMemory, SteppedCache } from './stepped.ts';
import { WindowedLayer, type LayerContext } from './windowed-layer.ts';
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
  private readonly context: LayerContext;
  private readonly shapes: readonly LayerShape[];
  private readonly layers: readonly WindowedLayer[];
  private readonly step: StepRows;

  constructor(
    kernels: Kernels,
    shapes: readonly LayerShape[],
    method: WindowedMethod,
    origin?: WindowedCache,
  ) {
    expectVisibleMemory(kernels, method.spec);
    super(shapes.length, origin);
    this.context = origin?.context ?? { kernels, method, law: new WindowLaw(method) };
    this.shapes = shapes;
    this.step = new StepRows(kernels, shapes);
    const layers: WindowedLayer[] = [];
    this.layers = layers;
    try {
      shapes.forEach((shape, i) =>
        layers.push(new WindowedLayer(this.context, i, shape, origin?.layers[i])),
      );
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  get spec(): string {
    return this.context.method.spec;
  }

  protected reserve(n: number): void {
    this.context.method.reserveScratch(n);
    this.step.reserve(n);
    for (const layer of this.layers) layer.reserve(this.committed, this.committed + n);
  }

  protected store(layer: number, k: Tensor, v: Tensor): void {
    this.layers[layer].append(this.committed, this.step.take({ k, v }, this.shapes[layer]));
  }

  protected answer(layer: number, q: Tensor, out: Tensor): void {
    this.layers[layer].attend(q, out, this.committed, this.step);
  }

  override commit(): void {
    ensure(
      this.end < this.context.law.warmup || this.layers.every(({ isLearned }) => isLearned),
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
    const { law } = this.context;
    const firstSeen = law.paged(Math.max(0, length - law.window));
    const hasWindow =
      law.window === 0 || this.layers.every(({ firstExact }) => firstExact <= firstSeen);
    return length >= law.warmup && hasWindow ? length : 0;
  }

  protected copy(): WindowedCache {
    return new WindowedCache(this.context.kernels, this.shapes, this.context.method, this);
  }

  bytes(): CacheBytes {
    const { method } = this.context;
    const sums = { keys: 0, values: 0, scales: 0, windows: 0, codebooks: method.codebookBytes() };
    let scratch = method.scratchBytes() + this.step.sizeBytes;
    for (const layer of this.layers) {
      const bytes = layer.bytes(this.end);
      for (const kind of Object.keys(sums) as (keyof typeof sums)[]) sums[kind] += bytes[kind];
      scratch += bytes.scratch;
    }
    const total = Object.values(sums).reduce((a, b) => a + b);
    return { ...sums, total, scratch };
  }

  protected stateLayout(length: number): StateLayout {
    return {
      numbers: { first: this.context.law.firstExact(length) },
      blockCount: this.layers.reduce((sum, layer) => sum + layer.blockCount(length), 0),
      blockSizes: () => this.layers.flatMap((layer) => layer.blockSizes(length)),
    };
  }

  protected read(): Promise<Uint8Array>[] {
    return this.layers.flatMap((layer) => layer.read());
  }

  protected fill({ length, blocks }: CacheState): void {
    for (const layer of this.layers) layer.reserveAll(length);
    let at = 0;
    for (const layer of this.layers) {
      const count = layer.blockCount(length);
      layer.fill(blocks.slice(at, at + count), length);
      at += count;
    }
  }

  protected release(): void {
    for (const layer of this.layers) layer.release();
    this.step.dispose();
  }

  protected releaseShared(): void {
    this.context.method.dispose();
  }
}
