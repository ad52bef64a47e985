/** Positions in a page of exact entries: few, as a window holds few and pages are held whole. */
export const exactPageLength = 32;

/** Which positions are exact, and which of those are held at which length; the same for every layer. */
export class WindowLaw {
  constructor(
    /** newest positions that a query sees exact, its own included; 0: none */
    readonly window: number,
    /** first positions of all, which every query sees exact */
    readonly sinks: number,
    /** queries before this position see everything exact, and the method learns from them; 0: it has nothing to learn */
    readonly warmup: number,
  ) {}

  /** Position -> position among those behind the sinks, which lie in pages. */
  paged(position: number): number {
    return Math.max(0, position - this.sinks);
  }

  /** First paged position that is kept exact at a length: the start of a page. */
  firstExact(length: number): number {
    if (length < this.warmup || this.window === 0) return 0;
    return Math.floor(this.paged(length - this.window) / exactPageLength) * exactPageLength;
  }

  /** Pages of exact positions that a layer keeps at a length. */
  exactPages(length: number): number {
    if (length >= this.warmup && this.window === 0) return 0;
    const end = Math.ceil(this.paged(length) / exactPageLength);
    return end - this.firstExact(length) / exactPageLength;
  }
}
