import type { Kernels, Page, Segment, Tensor } from '../kernels/kernels.ts';
import { rows } from '../kernels/tensor.ts';
import type { CacheBytes, LayerShape } from './cache.ts';
import { LayerPages, pageBytes, pageLength, type PageLayout } from './pages.ts';
import type { Place } from './saved-state.ts';
import { SteppedCache } from './stepped.ts';

/** What a method that keeps every position in one form adds to `PagedCache`. */
export interface PagedMethod {
  readonly spec: string;
  /** Tensors of one page of this layer. */
  layout(shape: LayerShape): PageLayout;
  /** Room for n queries; called before each step, must change nothing that a failed step would miss. */
  reserveScratch(n: number): void;
  /** Writes k, v f32 [n, nKvHeads, headDim] to slots `slot ..` of a page. Enqueues. */
  store(layer: number, page: Page, slot: number, k: Tensor, v: Tensor): void;
  /** Prepares q f32 [n, nHeads, headDimK] and says how pages are to be read. Enqueues. */
  read(
    layer: number,
    q: Tensor,
  ): Pick<Segment, 'keyForm' | 'valueForm' | 'query' | 'queryScales' | 'scale'>;
  /** as in `KvCache` */
  readonly valueUpdates?: readonly (readonly Tensor[])[];
  /** Bytes held for all positions together: projections and the like. */
  codebookBytes(): number;
  scratchBytes(): number;
  dispose(): void;
}

/**
 * A cache that stores every position once, in one form, in pages that grow on demand. The method
 * says how positions are written and read.
 */
export class PagedCache extends SteppedCache {
  private readonly layers: readonly LayerPages[];

  constructor(
    private readonly kernels: Kernels,
    private readonly shapes: readonly LayerShape[],
    private readonly method: PagedMethod,
    origin?: PagedCache,
  ) {
    super(shapes.length, origin);
    this.layers = origin
      ? origin.layers.map((pages) => pages.fork())
      : shapes.map((shape) => new LayerPages(kernels, method.layout(shape)));
  }

  get spec(): string {
    return this.method.spec;
  }

  get valueUpdates(): PagedMethod['valueUpdates'] {
    return this.method.valueUpdates;
  }

  protected reserve(n: number): void {
    this.method.reserveScratch(n);
    for (const pages of this.layers) pages.reserve(this.committed, this.committed + n);
  }

  protected store(layer: number, k: Tensor, v: Tensor): void {
    this.layers[layer].cut(this.committed, this.pending, (page, slot, first, count) =>
      this.method.store(layer, page, slot, rows(k, first, count), rows(v, first, count)),
    );
  }

  protected answer(layer: number, q: Tensor, out: Tensor): void {
    const segment: Segment = {
      ...this.method.read(layer, q),
      pages: this.layers[layer].pages,
      pageLength,
      first: 0,
      length: this.end,
      minDistance: 0,
      maxDistance: Infinity,
    };
    const queries = { n: this.pending, start: this.committed };
    this.kernels.attend([segment], { ...this.shapes[layer], ...queries }, out);
  }

  protected unwind(): void {
    for (const pages of this.layers) pages.trim(this.committed);
  }

  protected recallable(length: number): number {
    return length;
  }

  protected copy(): PagedCache {
    return new PagedCache(this.kernels, this.shapes, this.method, this);
  }

  bytes(): CacheBytes {
    const sums = { keys: 0, values: 0, scales: 0 };
    this.layers.forEach(({ pages }, i) => {
      const page = pageBytes(this.method.layout(this.shapes[i]));
      sums.keys += page.keys * pages.length;
      sums.values += page.values * pages.length;
      sums.scales += page.scales * pages.length;
    });
    const codebooks = this.method.codebookBytes();
    return {
      ...sums,
      windows: 0,
      codebooks,
      total: sums.keys + sums.values + sums.scales + codebooks,
      scratch: this.method.scratchBytes(),
    };
  }

  protected *places(length: number): Generator<Place> {
    for (const pages of this.layers) yield* pages.places(Math.ceil(length / pageLength));
  }

  protected reserveSaved(length: number): void {
    for (const pages of this.layers) pages.reserve(0, length);
  }

  protected release(): void {
    for (const pages of this.layers) pages.trim(0);
  }

  protected releaseShared(): void {
    this.method.dispose();
  }
}
