import type { HostArray, Kernels, Page, Segment, Tensor } from '../kernels/kernels.ts';
import { reshape, rows } from '../kernels/tensor.ts';
import type { LayerShape } from './cache.ts';
import { allocTensors } from './constants.ts';
import { LayerPages } from './pages.ts';
import { exactPageLength, type WindowLaw } from './window-law.ts';
import { partOf, type Rows } from './windowed-method.ts';

/** The tensors that hold the sinks. */
export function sinkLayout({ nKvHeads, headDimK, headDimV }: LayerShape, { sinks }: WindowLaw) {
  if (sinks === 0) return [];
  const dtype = 'f16' as const;
  return [headDimK, headDimV].map((d) => ({ dtype, shape: [nKvHeads, sinks, d] }));
}

/**
 * The exact positions of one layer, f16: the sinks, and behind them, in pages, those that some later
 * query may still see. All can be written anew in one step, which can be taken back.
 */
export class ExactPositions {
  /** one page, or none */
  private readonly sinks: readonly Page[];
  private held: LayerPages;
  /** what was there before this step wrote all anew */
  private replaced:
    { readonly pages: LayerPages; readonly sinks: readonly HostArray[] } | undefined;

  /** @param sinks tensors of `sinkLayout` */
  constructor(
    private readonly kernels: Kernels,
    private readonly shape: LayerShape,
    private readonly law: WindowLaw,
    [keys, values]: readonly Tensor[],
    origin?: ExactPositions,
  ) {
    this.sinks = law.sinks > 0 ? [{ keys, values }] : [];
    this.held = origin?.held.fork() ?? this.noPages();
  }

  get pages(): LayerPages {
    return this.held;
  }

  /** Bytes of pages that are only there until the step ends. */
  get replacedBytes(): number {
    const { pages } = this.replaced ?? {};
    return pages ? pages.pageSizeBytes * pages.pages.length : 0;
  }

  /**
   * Stores rows; the first of them is position `from`.
   * @param isPaged false: only sinks are kept
   */
  store(from: number, own: Rows, isPaged: boolean): void {
    const write = (page: Page, slot: number, part: Rows) => {
      this.kernels.storeRows(part.k, page.keys, slot);
      this.kernels.storeRows(part.v, page.values, slot);
    };
    const inSinks = Math.min(this.law.sinks - from, own.k.shape[0]);
    if (inSinks > 0) for (const page of this.sinks) write(page, from, partOf(own, 0, inSinks));
    if (isPaged) storeBehindSinks(this.held, this.law, from, own, write);
  }

  /** Positions `0 .. to - 1` as f32 tensors of their own, to be freed by the caller. */
  read(to: number): Rows {
    const { nKvHeads, headDimK, headDimV } = this.shape;
    const [k, v] = allocTensors(
      this.kernels,
      [headDimK, headDimV].map((d) => ({ dtype: 'f32', shape: [to, nKvHeads, d] })),
    );
    const gather = (page: Page, slot: number, first: number, count: number) => {
      const slots = page.keys.shape[1];
      const ids = Int32Array.from(
        { length: count * nKvHeads },
        (_, row) => (row % nKvHeads) * slots + slot + Math.floor(row / nKvHeads),
      );
      const copy = (from: Tensor, all: Tensor) =>
        this.kernels.embed(
          reshape(from, [nKvHeads * slots, -1]),
          ids,
          reshape(rows(all, first, count), [ids.length, -1]),
        );
      copy(page.keys, k);
      copy(page.values, v);
    };
    const { sinks } = this.law;
    for (const page of this.sinks) gather(page, 0, 0, sinks);
    this.held.cut(0, to - sinks, (page, slot, first, count) =>
      gather(page, slot, sinks + first, count),
    );
    return { k, v };
  }

  /** @param maxDistance of those in pages; sinks are seen from everywhere */
  segments(query: Tensor, scale: Tensor, end: number, maxDistance: number): Segment[] {
    const segments: Segment[] = [];
    const add = (
      { pages, pageLength }: { pages: readonly Page[]; pageLength: number },
      first: number,
      length: number,
      maxDistance: number,
    ) =>
      // Written out, as V8 makes slow objects of spread ones; a token has dozens of them.
      segments.push({
        keyForm: 'f16',
        valueForm: 'f16',
        query,
        pages,
        pageLength,
        first,
        length,
        minDistance: 0,
        maxDistance,
        scale,
      });
    const { law, held } = this;
    if (this.sinks.length > 0) {
      const sinks = { pages: this.sinks, pageLength: law.sinks };
      add(sinks, 0, Math.min(law.sinks, end), Infinity);
    }
    if (maxDistance >= 0 && held.pages.length > 0)
      add(held, law.sinks + held.first, law.paged(end) - held.first, maxDistance);
    return segments;
  }

  /** Begins anew with room for positions `0 .. end - 1`; `unwind` brings back what was there. */
  renew(end: number): void {
    const sinks = this.sinkTensors().map((t) => this.kernels.view(t).slice());
    this.replaced = { pages: this.held, sinks };
    this.held = this.noPages();
    if (this.law.window > 0) this.held.reserve(0, this.law.paged(end));
  }

  /** Drops what no query can see any more at a length. */
  settle(length: number): void {
    this.replaced?.pages.trim(0);
    this.replaced = undefined;
    if (this.law.exactPages(length) === 0) this.held.trim(0);
    else this.held.dropBefore(this.law.firstExact(length));
  }

  /** Makes everything as it was at a length. */
  unwind(length: number): void {
    if (this.replaced) {
      const { pages, sinks } = this.replaced;
      this.held.trim(0);
      this.held = pages;
      this.sinkTensors().forEach((t, i) => this.kernels.write(t, sinks[i]));
      this.replaced = undefined;
    }
    this.held.trim(this.law.paged(length));
  }

  private sinkTensors(): Tensor[] {
    return this.sinks.flatMap(({ keys, values }) => [keys, values]);
  }

  private noPages(): LayerPages {
    const { nKvHeads, headDimK, headDimV } = this.shape;
    const place = (d: number) => ({ dtype: 'f16', shape: [nKvHeads, exactPageLength, d] }) as const;
    const layout = { keys: place(headDimK), values: place(headDimV) };
    return new LayerPages(this.kernels, layout);
  }
}

/** Cuts rows from position `from` on along pages; sinks are left out. */
export function storeBehindSinks(
  pages: LayerPages,
  law: WindowLaw,
  from: number,
  own: Rows,
  store: (page: Page, slot: number, part: Rows) => void,
): void {
  const n = own.k.shape[0];
  const skipped = Math.min(n, Math.max(0, law.sinks - from));
  pages.cut(law.paged(from + skipped), n - skipped, (page, slot, first, count) =>
    store(page, slot, partOf(own, skipped + first, count)),
  );
}
