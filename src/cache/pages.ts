import { ensure } from '../errors/errors.ts';
import type { KernelBuffer, Kernels, Page } from '../kernels/kernels.ts';
import { bytesOf, tensor } from '../kernels/tensor.ts';
import { tensorSizeBytes, type DType } from '../math/dtype.ts';
import type { Place } from './saved-state.ts';

/** Positions in a page, for every method. Small enough to waste little, large enough to scan fast. */
export const pageLength = 128;

export type Field = { readonly dtype: DType; readonly shape: readonly number[] };

/** The tensors of one page of one layer; leading dimensions [nKvHeads, pageLength]. */
export interface PageLayout {
  readonly keys: Field;
  readonly keyScales?: Field;
  readonly values: Field;
  readonly valueParams?: Field;
}

/** Bytes of one page by kind. The planner and the caches both count with this. */
export function pageBytes(layout: PageLayout): { keys: number; values: number; scales: number } {
  const size = (field?: Field) => (field ? tensorSizeBytes(field.dtype, field.shape) : 0);
  return {
    keys: size(layout.keys),
    values: size(layout.values),
    scales: size(layout.keyScales) + size(layout.valueParams),
  };
}

interface HeldPage {
  readonly page: Page;
  readonly buffer: KernelBuffer;
  /** caches that hold this page; a page held by several is copied before one writes to it */
  holders: number;
}

/** The pages of one layer, in order of position. Grows by a page, shares pages between forks. */
export class LayerPages {
  /** positions in a page */
  readonly pageLength: number;
  private held: HeldPage[] = [];
  private list: Page[] = [];
  /** pages before the first one held */
  private dropped = 0;

  constructor(
    private readonly kernels: Kernels,
    private readonly layout: PageLayout,
  ) {
    this.pageLength = layout.values.shape[1];
  }

  get pages(): readonly Page[] {
    return this.list;
  }

  /** Position of slot 0 of the first page held. */
  get first(): number {
    return this.dropped * this.pageLength;
  }

  /** The page that holds a position. */
  pageOf(position: number): Page {
    return this.list[Math.floor(position / this.pageLength) - this.dropped];
  }

  /**
   * Cuts the positions `from .. from + n - 1` along the pages.
   * @param visit gets a page, the slot where its part begins, and which of the n positions go there
   */
  cut(
    from: number,
    n: number,
    visit: (page: Page, slot: number, first: number, count: number) => void,
  ): void {
    for (let done = 0; done < n;) {
      const slot = (from + done) % this.pageLength;
      const count = Math.min(this.pageLength - slot, n - done);
      visit(this.pageOf(from + done), slot, done, count);
      done += count;
    }
  }

  /**
   * Makes positions `from .. to - 1` writable: pages that hold them become ours alone, and pages are
   * added up to `to`.
   * @throws KvError "memory"; pages added so far stay and are dropped by `trim`
   */
  reserve(from: number, to: number): void {
    const firstWritten = Math.max(0, Math.floor(from / this.pageLength) - this.dropped);
    let changed = false;
    try {
      for (let i = firstWritten; i < this.held.length; i++) {
        const shared = this.held[i];
        if (shared.holders === 1) continue;
        const own = this.allocate();
        this.kernels.copy(bytesOf(wholePage(shared)), bytesOf(wholePage(own)));
        shared.holders--;
        this.held[i] = own;
        changed = true;
      }
      while ((this.dropped + this.held.length) * this.pageLength < to) {
        this.held.push(this.allocate());
        changed = true;
      }
    } finally {
      if (changed) this.listAnew();
    }
  }

  /** Gives back the pages that hold no position below `length`. */
  trim(length: number): void {
    const kept = Math.max(0, Math.ceil(length / this.pageLength) - this.dropped);
    if (this.held.length > 0 && kept >= this.held.length) return;
    for (const page of this.held.splice(kept)) this.release(page);
    if (this.held.length === 0) this.dropped = 0;
    this.listAnew();
  }

  /** Gives back the pages that hold only positions below `position`. */
  dropBefore(position: number): void {
    const pages = Math.max(0, Math.floor(position / this.pageLength) - this.dropped);
    const gone = this.held.splice(0, pages);
    for (const page of gone) this.release(page);
    this.dropped += gone.length;
    if (gone.length > 0) this.listAnew();
  }

  /** Pages for another cache with the same contents, shared until one side writes. */
  fork(): LayerPages {
    const copy = new LayerPages(this.kernels, this.layout);
    copy.dropped = this.dropped;
    for (const page of this.held) page.holders++;
    copy.held = [...this.held];
    copy.list = this.list;
    return copy;
  }

  /** The buffers of the first `count` pages held, as they are when a block is read or written. */
  *places(count: number): Generator<Place> {
    for (let i = 0; i < count; i++) {
      yield {
        sizeBytes: this.pageSizeBytes,
        read: () => this.kernels.read(wholePage(this.held[i])) as Promise<Uint8Array>,
        write: (block) => this.kernels.write(wholePage(this.held[i]), block),
      };
    }
  }

  /**
   * Pages for the positions `first .. end - 1`, the first of them in slot 0; there must be none so far.
   * @throws KvError "memory"; pages added so far stay and are dropped by `trim`
   */
  reserveFrom(first: number, end: number): void {
    this.dropped = first / this.pageLength;
    this.reserve(first, end);
  }

  /** Bytes of one page, all kinds together. */
  get pageSizeBytes(): number {
    const { keys, values, scales } = pageBytes(this.layout);
    return keys + values + scales;
  }

  /** A list is never changed: backends remember where its pages are. */
  private listAnew(): void {
    this.list = this.held.map(({ page }) => page);
  }

  private allocate(): HeldPage {
    const sizes = pageBytes(this.layout);
    const buffer = this.kernels.alloc(this.pageSizeBytes);
    const place = (field: Field, offset: number) =>
      tensor(buffer, field.dtype, field.shape, offset);
    const { keys, values, keyScales, valueParams } = this.layout;
    const scales = sizes.keys + sizes.values;
    const keyScaleBytes = keyScales ? tensorSizeBytes(keyScales.dtype, keyScales.shape) : 0;
    const page: Page = {
      keys: place(keys, 0),
      values: place(values, sizes.keys),
      ...(keyScales && { keyScales: place(keyScales, scales) }),
      ...(valueParams && { valueParams: place(valueParams, scales + keyScaleBytes) }),
    };
    return { page, buffer, holders: 1 };
  }

  private release(page: HeldPage): void {
    ensure(page.holders > 0, 'usage', () => 'cache: this page was released before.');
    if (--page.holders === 0) this.kernels.free(page.buffer);
  }
}

function wholePage({ buffer }: HeldPage) {
  return tensor(buffer, 'u8', [buffer.sizeBytes]);
}
