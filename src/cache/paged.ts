import { ensure, KvError } from '../errors/errors.ts';
import type { Kernels, Page, Segment, Tensor } from '../kernels/kernels.ts';
import { rows } from '../kernels/tensor.ts';
import type { CacheBytes, CacheState, KvCache, LayerShape } from './cache.ts';
import { LayerPages, pageBytes, pageLength, type PageLayout } from './pages.ts';
import { expectBegin } from './step.ts';

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
  /** Bytes held for all positions together: projections and the like. */
  codebookBytes(): number;
  scratchBytes(): number;
  dispose(): void;
}

/**
 * A cache that stores every position once, in one form, in pages that grow on demand. The method
 * says how positions are written and read; this class does the book-keeping that all such methods
 * share: steps, truncation, forks, bytes.
 */
export class PagedCache implements KvCache {
  private readonly kernels: Kernels;
  private readonly shapes: readonly LayerShape[];
  private readonly method: PagedMethod;
  private readonly layers: readonly LayerPages[];
  /** caches that share `method`; the last one disposes of it */
  private readonly family: { size: number };
  private committed = 0;
  private pending = 0;
  private disposed = false;

  constructor(
    kernels: Kernels,
    shapes: readonly LayerShape[],
    method: PagedMethod,
    origin?: PagedCache,
  ) {
    this.kernels = kernels;
    this.shapes = shapes;
    this.method = method;
    this.layers = origin
      ? origin.layers.map((pages) => pages.fork())
      : shapes.map((shape) => new LayerPages(kernels, method.layout(shape)));
    this.family = origin?.family ?? { size: 0 };
    this.family.size++;
    this.committed = origin?.committed ?? 0;
  }

  get spec(): string {
    return this.method.spec;
  }

  get length(): number {
    return this.committed;
  }

  begin(n: number): void {
    expectBegin(this.disposed, this.pending, n);
    try {
      this.method.reserveScratch(n);
      for (const pages of this.layers) pages.reserve(this.committed, this.committed + n);
    } catch (error) {
      this.rollback();
      throw error;
    }
    this.pending = n;
  }

  append(layer: number, k: Tensor, v: Tensor): void {
    this.expectStep(layer, k);
    const { pages } = this.layers[layer];
    let done = 0;
    while (done < this.pending) {
      const position = this.committed + done;
      const slot = position % pageLength;
      const count = Math.min(pageLength - slot, this.pending - done);
      const page = pages[Math.floor(position / pageLength)];
      this.method.store(layer, page, slot, rows(k, done, count), rows(v, done, count));
      done += count;
    }
  }

  attend(layer: number, q: Tensor, out: Tensor): void {
    this.expectStep(layer, q);
    const segment: Segment = {
      ...this.method.read(layer, q),
      pages: this.layers[layer].pages,
      pageLength,
      first: 0,
      length: this.committed + this.pending,
      minDistance: 0,
      maxDistance: Infinity,
    };
    const queries = { n: this.pending, start: this.committed };
    this.kernels.attend([segment], { ...this.shapes[layer], ...queries }, out);
  }

  commit(): void {
    this.committed += this.pending;
    this.pending = 0;
  }

  rollback(): void {
    this.pending = 0;
    for (const pages of this.layers) pages.trim(this.committed);
  }

  truncate(length: number): number {
    ensure(
      Number.isInteger(length) && length >= 0,
      'usage',
      () => `cache: cannot truncate to ${length}; give a whole number from 0.`,
    );
    this.committed = Math.min(length, this.committed);
    this.rollback();
    return this.committed;
  }

  fork(): PagedCache {
    ensure(!this.disposed, 'usage', () => 'cache: it was disposed. Fork before dispose.');
    ensure(this.pending === 0, 'usage', () => 'cache: a step is under way. Commit it, then fork.');
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

  async save(): Promise<CacheState> {
    ensure(!this.disposed, 'usage', () => 'cache: it was disposed. Save before dispose.');
    ensure(this.pending === 0, 'usage', () => 'cache: a step is under way. Commit it, then save.');
    const length = this.committed;
    // All reads are enqueued before the first is waited for: a later step cannot get in between.
    const blocks = await Promise.all(this.layers.flatMap((pages) => pages.save()));
    return { length, numbers: {}, blocks };
  }

  restore(state: CacheState): void {
    ensure(!this.disposed, 'usage', () => 'cache: it was disposed. Create a new one.');
    ensure(
      this.pending === 0 && this.committed === 0,
      'usage',
      () => `cache: it holds ${this.committed} positions. Restore into an empty one.`,
    );
    const pagesPerLayer = this.expectState(state);
    try {
      this.layers.forEach((pages, layer) => {
        const first = layer * pagesPerLayer;
        pages.restore(state.blocks.slice(first, first + pagesPerLayer));
      });
    } catch (error) {
      this.rollback();
      throw error;
    }
    this.committed = state.length;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.pending = 0;
    for (const pages of this.layers) pages.trim(0);
    if (--this.family.size === 0) this.method.dispose();
  }

  /** @returns pages per layer @throws KvError "format" if the state is not one of this cache */
  private expectState({ length, numbers, blocks }: CacheState): number {
    const misfit = (found: string, allowed: string) =>
      new KvError(
        'format',
        `cache ${this.spec}: the saved state has ${found}; this cache takes ${allowed}. Restore what a cache of the same spec and model saved.`,
      );
    if (!(Number.isSafeInteger(length) && length >= 0)) {
      throw misfit(`length ${length}`, 'a whole number from 0');
    }
    const [number] = Object.keys(numbers);
    if (number !== undefined) throw misfit(`a number "${number}"`, 'none');
    const pagesPerLayer = Math.ceil(length / pageLength);
    const count = pagesPerLayer * this.layers.length;
    if (blocks.length !== count) {
      throw misfit(`${blocks.length} blocks for ${length} positions`, `${count}`);
    }
    blocks.forEach((block, i) => {
      const { pageSizeBytes } = this.layers[Math.floor(i / pagesPerLayer)];
      if (block.length === pageSizeBytes) return;
      throw misfit(`${block.length} bytes in block ${i}`, `${pageSizeBytes}`);
    });
    return pagesPerLayer;
  }

  private expectStep(layer: number, t: Tensor): void {
    if (this.pending > 0 && t.shape[0] === this.pending && this.layers[layer]) return;
    throw new KvError(
      'usage',
      `cache: layer ${layer} of ${this.layers.length} was given ${t.shape[0]} positions; begin() announced ${this.pending}.`,
    );
  }
}
