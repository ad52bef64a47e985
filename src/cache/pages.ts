import { ensure } from '../errors/errors.ts';
import type { KernelBuffer, Kernels, Page } from '../kernels/kernels.ts';
import { bytesOf, tensor } from '../kernels/tensor.ts';
import { tensorSizeBytes, type DType } from '../math/dtype.ts';

/** Positions in a page, for every method. Small enough to waste little, large enough to scan fast. */
export const pageLength = 128;

type Field = { readonly dtype: DType; readonly shape: readonly number[] };

/** The tensors of one page of one layer; leading dimensions [nKvHeads, pageLength]. */
export interface PageLayout {
  readonly keys: Field;
  readonly values: Field;
  readonly valueParams?: Field;
}

/** Bytes of one page by kind. The planner and the caches both count with this. */
export function pageBytes(layout: PageLayout): { keys: number; values: number; scales: number } {
  const size = (field?: Field) => (field ? tensorSizeBytes(field.dtype, field.shape) : 0);
  return {
    keys: size(layout.keys),
    values: size(layout.values),
    scales: size(layout.valueParams),
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
  private readonly kernels: Kernels;
  private readonly layout: PageLayout;
  private held: HeldPage[] = [];
  private list: Page[] = [];

  constructor(kernels: Kernels, layout: PageLayout) {
    this.kernels = kernels;
    this.layout = layout;
  }

  get pages(): readonly Page[] {
    return this.list;
  }

  /**
   * Makes positions `from .. to - 1` writable: the page that holds `from` becomes ours alone, and
   * pages are added up to `to`.
   * @throws KvError "memory"; pages added so far stay and are dropped by `trim`
   */
  reserve(from: number, to: number): void {
    const open = Math.floor(from / pageLength);
    const shared = this.held[open];
    if (shared && shared.holders > 1) {
      const own = this.allocate();
      this.kernels.copy(bytesOf(wholePage(shared)), bytesOf(wholePage(own)));
      shared.holders--;
      this.held[open] = own;
    }
    while (this.held.length * pageLength < to) this.held.push(this.allocate());
    this.list = this.held.map(({ page }) => page);
  }

  /** Gives back the pages that hold no position below `length`. */
  trim(length: number): void {
    for (const page of this.held.splice(Math.ceil(length / pageLength))) this.release(page);
    this.list = this.held.map(({ page }) => page);
  }

  /** Pages for another cache with the same contents, shared until one side writes. */
  fork(): LayerPages {
    const copy = new LayerPages(this.kernels, this.layout);
    for (const page of this.held) page.holders++;
    copy.held = [...this.held];
    copy.list = this.list;
    return copy;
  }

  private allocate(): HeldPage {
    const sizes = pageBytes(this.layout);
    const buffer = this.kernels.alloc(sizes.keys + sizes.values + sizes.scales);
    const place = (field: Field, offset: number) =>
      tensor(buffer, field.dtype, field.shape, offset);
    const { keys, values, valueParams } = this.layout;
    const page: Page = {
      keys: place(keys, 0),
      values: place(values, sizes.keys),
      ...(valueParams && { valueParams: place(valueParams, sizes.keys + sizes.values) }),
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
