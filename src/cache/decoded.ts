import { KvError } from '../errors/errors.ts';
import type { KernelBuffer, Kernels, Page, Segment, Tensor } from '../kernels/kernels.ts';
import { rows } from '../kernels/tensor.ts';
import { f32ToF16 } from '../math/f16.ts';
import { rangeSize, type Range } from './blocks.ts';
import type { CacheBytes, LayerShape } from './cache.ts';
import { allocConstants, perHead } from './constants.ts';
import { blockOf, blocksOf, DecodedBlocks } from './decoded-blocks.ts';
import { DecodedLayout, sum, type Kind, type Pair } from './decoded-layout.ts';
import { blockLength, type DecodedMethod, type Rows, type StateView } from './decoded-method.ts';
import { fromF16 } from './halves.ts';
import type { Place } from './saved-state.ts';
import { expectVisibleMemory, SteppedCache } from './stepped.ts';

/**
 * A cache that keeps positions in a method's own format and decodes them to f32 before attention:
 * for methods that others are compared with, where being plain matters more than being fast.
 *
 * Keys and values are rounded to f16 on their way in, as the f16 cache does. A position is exact
 * (f16) until `compressedAt` passes it; then its codec's form is all that is left. Which form of
 * key j the query at position i sees is a function of i and j alone: a step is cut into runs of
 * queries that agree on it. Blocks of `blockLength` positions of all layers are allocated together.
 *
 * Formats are written and read in TypeScript through `Kernels.view`, so this needs a CPU backend.
 */
export class DecodedCache extends SteppedCache {
  private readonly layout: DecodedLayout;
  private readonly blocks: DecodedBlocks;
  private readonly shared: {
    /** by layer, f32 [nHeads] */
    readonly scales: readonly Tensor[];
    /** decoded pages of the layer that attends */
    scratch: KernelBuffer | undefined;
  };

  /** @throws KvError "unsupported" if the backend's memory cannot be seen from here */
  constructor(
    private readonly kernels: Kernels,
    private readonly shapes: readonly LayerShape[],
    private readonly method: DecodedMethod,
    origin?: DecodedCache,
  ) {
    expectVisibleMemory(kernels, method.spec);
    super(shapes.length, origin);
    this.layout = origin?.layout ?? new DecodedLayout(kernels, shapes, method);
    this.blocks = new DecodedBlocks(kernels, method, this.layout, origin?.blocks);
    const factors = shapes.map(({ nHeads, scale }) => perHead(Array<number>(nHeads).fill(scale)));
    this.shared = origin?.shared ?? {
      scales: allocConstants(kernels, factors),
      scratch: undefined,
    };
  }

  get spec(): string {
    return this.method.spec;
  }

  protected reserve(n: number): void {
    const [from, to] = [this.committed, this.committed + n];
    const { compressed } = this.blocks.heldAt(to);
    const exact = this.blocks.exactDuring(from, to);
    this.blocks.reserve(from, to);
    this.reserveScratch(rangeSize(compressed) + rangeSize(exact));
  }

  protected store(layer: number, k: Tensor, v: Tensor): void {
    const fresh = { keys: this.freshPages(k), values: this.freshPages(v) };
    this.storeExact(layer, fresh);
    this.fit(layer, fresh);
    this.compress(layer, fresh);
  }

  protected answer(layer: number, q: Tensor, out: Tensor): void {
    const { compressed, exact } = this.decodedPages(layer);
    const firstExact = this.blocks.exactDuring(this.committed, this.end).first;
    if (!this.method.attend) {
      this.attendInRuns(layer, q, out, compressed, exact, firstExact);
      return;
    }
    const rows = this.method.attend({
      layer,
      start: this.committed,
      n: this.pending,
      q: (this.kernels.view(q) as Float32Array).slice(),
      compressed: this.rowsOf(layer, compressed, 0),
      exact: this.rowsOf(layer, exact, firstExact),
      state: () => this.stateAt(layer, this.committed),
      nextState: () => this.stateAt(layer, this.end),
    });
    this.kernels.write(out, rows);
  }

  protected unwind(): void {
    this.blocks.keep(this.committed);
  }

  protected recallable(length: number): number {
    let honest = length;
    while (honest > 0 && !this.blocks.remembers(honest, this.committed)) honest--;
    return honest;
  }

  protected copy(): DecodedCache {
    return new DecodedCache(this.kernels, this.shapes, this.method, this);
  }

  bytes(): CacheBytes {
    const { compressed, exact } = this.blocks.heldAt(this.end);
    const block = this.layout.compressedBytes();
    const state = this.layout.stateBytes(this.method.state?.version(this.end));
    const kinds = {
      keys: block.keys * rangeSize(compressed) + state.keys,
      values: block.values * rangeSize(compressed) + state.values,
      scales: block.scales * rangeSize(compressed) + state.scales,
      windows: this.layout.exactBytes() * rangeSize(exact),
      codebooks: state.codebooks,
    };
    const total = sum(Object.values(kinds));
    // What is held beyond that is there for the step under way.
    const scratch = this.blocks.sizeBytes - total + (this.shared.scratch?.sizeBytes ?? 0);
    return { ...kinds, total, scratch };
  }

  protected places(length: number): Iterable<Place> {
    return this.blocks.places(length);
  }

  protected reserveSaved(): void {
    // Blocks are made as they are written.
  }

  protected release(): void {
    this.blocks.dispose();
  }

  protected releaseShared(): void {
    for (const { buffer } of this.shared.scales) this.kernels.free(buffer);
    this.freeScratch();
  }

  // writing

  /**
   * The step's rows in pages, f16 bits [nKvHeads, blockLength, headDim], from the block of `committed` on.
   * @param t f32 [n, nKvHeads, headDim]
   * @throws KvError "not-finite", or "range" for more than f16 holds
   */
  private freshPages(t: Tensor): Uint16Array[] {
    const [, heads, d] = t.shape;
    const values = this.kernels.view(t) as Float32Array;
    const { first, end } = blocksOf(this.committed, this.end);
    const pages = Array.from(
      { length: end - first },
      () => new Uint16Array(heads * blockLength * d),
    );
    values.forEach((x, at) => {
      if (!(Math.abs(x) <= 65504)) throw unstorable(x, at);
      const position = this.committed + Math.floor(at / (heads * d));
      const head = Math.floor(at / d) % heads;
      const row = head * blockLength + (position % blockLength);
      pages[blockOf(position) - first][row * d + (at % d)] = f32ToF16(x);
    });
    return pages;
  }

  /** Copies the step's rows to the exact blocks, as far as there are any. */
  private storeExact(layer: number, fresh: Pair<readonly Uint16Array[]>): void {
    const { first, end } = blocksOf(this.committed, this.end);
    for (let b = first; b < end; b++) {
      const buffer = this.blocks.exact.get(b);
      if (!buffer) continue;
      const to = this.layout.exact(buffer, layer);
      this.copyFresh(layer, b, 'keys', fresh.keys[b - first], to.keys);
      this.copyFresh(layer, b, 'values', fresh.values[b - first], to.values);
    }
  }

  /** Copies the rows of the step from one page of a block to another. */
  private copyFresh<T extends Uint16Array | Float32Array>(
    layer: number,
    block: number,
    kind: Kind,
    from: T,
    to: T,
  ): void {
    const { nKvHeads, headDimK, headDimV } = this.shapes[layer];
    const d = kind === 'keys' ? headDimK : headDimV;
    const { first, end } = slotsOf(block, this.committed, this.end);
    for (let h = 0; h < nKvHeads; h++) {
      const at = (h * blockLength + first) * d;
      to.set(from.subarray(at, (h * blockLength + end) * d), at);
    }
  }

  /** Lets the method make its state if it is due with this step. */
  private fit(layer: number, fresh: Pair<readonly Uint16Array[]>): void {
    const { state } = this.method;
    const view = this.stateAt(layer, this.end);
    if (!state?.fit || !view) return;
    if (state.version(this.end) === state.version(this.committed)) return;
    const { positions, run } = state.fit;
    const { nKvHeads, headDimK, headDimV } = this.shapes[layer];
    const blocks = Array.from({ length: Math.ceil(positions / blockLength) }, (_, b) =>
      this.contents(layer, b, fresh),
    );
    const join = (kind: Kind, d: number) => {
      const all = new Float32Array(nKvHeads * positions * d);
      for (let j = 0; j < nKvHeads * positions; j++) {
        const [h, position] = [Math.floor(j / positions), j % positions];
        const at = (h * blockLength + (position % blockLength)) * d;
        all.set(blocks[blockOf(position)][kind].subarray(at, at + d), j * d);
      }
      return all;
    };
    run(layer, join('keys', headDimK), join('values', headDimV), view);
  }

  /** Writes the positions that this step compresses. */
  private compress(layer: number, fresh: Pair<readonly Uint16Array[]>): void {
    const { codecs, compressedAt } = this.method;
    if (!codecs) return;
    const [from, to] = [compressedAt(this.committed), compressedAt(this.end)];
    const { first, end } = blocksOf(from, to);
    for (let b = first; b < end; b++) {
      const page = this.contents(layer, b, fresh);
      const coded = this.coded(layer, b, this.end);
      codecs[layer].keys.encode(page.keys, slotsOf(b, from, to), coded.keys);
      codecs[layer].values.encode(page.values, slotsOf(b, from, to), coded.values);
    }
  }

  /** All that is known of a block while the step is appended, its own rows too. */
  private contents(
    layer: number,
    block: number,
    fresh: Pair<readonly Uint16Array[]>,
  ): Pair<Float32Array> {
    const exact = this.blocks.exact.get(block);
    if (exact) {
      const { keys, values } = this.layout.exact(exact, layer);
      return { keys: fromF16(keys), values: fromF16(values) };
    }
    const { nKvHeads, headDimK, headDimV } = this.shapes[layer];
    const page = {
      keys: new Float32Array(nKvHeads * blockLength * headDimK),
      values: new Float32Array(nKvHeads * blockLength * headDimV),
    };
    this.decode(layer, block, this.committed, page);
    const index = block - blockOf(this.committed);
    for (const kind of ['keys', 'values'] as const) {
      const own = fresh[kind][index];
      if (own) this.copyFresh(layer, block, kind, fromF16(own), page[kind]);
    }
    return page;
  }

  // reading

  /** Everything that the step's queries may see of a layer, decoded to pages in scratch. */
  private decodedPages(layer: number): { compressed: Page[]; exact: Page[] } {
    const { scratch } = this.shared;
    if (!scratch) throw new KvError('usage', 'cache: attend was called outside a step.');
    const compressed = rangeSize(this.blocks.heldAt(this.end).compressed);
    const exact = this.blocks.exactDuring(this.committed, this.end);
    const pages = this.layout.pages(scratch, layer, compressed + rangeSize(exact));
    const views = pages.map((page) => this.viewsOf(page));
    for (let b = 0; b < compressed; b++) this.decode(layer, b, this.end, views[b]);
    for (let b = exact.first; b < exact.end; b++) {
      const buffer = this.blocks.exact.get(b);
      if (!buffer) continue;
      const from = this.layout.exact(buffer, layer);
      const to = views[compressed + b - exact.first];
      to.keys.set(fromF16(from.keys));
      to.values.set(fromF16(from.values));
    }
    return { compressed: pages.slice(0, compressed), exact: pages.slice(compressed) };
  }

  /** Decodes the part of a block that a cache of this length has compressed; the rest is left as it is. */
  private decode(layer: number, block: number, length: number, page: Pair<Float32Array>): void {
    const count = Math.min(blockLength, this.method.compressedAt(length) - block * blockLength);
    const codecs = this.method.codecs?.[layer];
    if (count <= 0 || !codecs) return;
    const coded = this.coded(layer, block, length);
    codecs.keys.decode(coded.keys, count, page.keys);
    codecs.values.decode(coded.values, count, page.values);
  }

  private coded(layer: number, block: number, length: number) {
    const buffer = this.blocks.compressed.get(block);
    if (!buffer) throw new KvError('usage', `cache: block ${block} is not held.`);
    const codebooks = this.stateAt(layer, length)?.codebooks ?? new Uint16Array(0);
    return this.layout.coded(buffer, layer, codebooks);
  }

  /** The layer's state in a cache of this length. */
  private stateAt(layer: number, length: number): StateView | undefined {
    const version = this.method.state?.version(length);
    if (version === undefined) return undefined;
    const buffer = this.blocks.states.get(version);
    return buffer && this.layout.state(buffer, layer, version);
  }

  private viewsOf({ keys, values }: Page): Pair<Float32Array> {
    return {
      keys: this.kernels.view(keys) as Float32Array,
      values: this.kernels.view(values) as Float32Array,
    };
  }

  private rowsOf(layer: number, pages: readonly Page[], firstBlock: number): Rows {
    const { headDimK, headDimV } = this.shapes[layer];
    // Views are made anew for each row: an allocation in between would leave them behind.
    const row = (kind: Kind, d: number, kvHead: number, position: number) => {
      const at = (kvHead * blockLength + (position % blockLength)) * d;
      const page = this.kernels.view(pages[blockOf(position) - firstBlock][kind]) as Float32Array;
      return page.subarray(at, at + d);
    };
    return {
      key: (kvHead, position) => row('keys', headDimK, kvHead, position),
      value: (kvHead, position) => row('values', headDimV, kvHead, position),
    };
  }

  /** Softmax over everything before each query, in runs of queries that see the same positions compressed. */
  private attendInRuns(
    layer: number,
    q: Tensor,
    out: Tensor,
    compressedPages: readonly Page[],
    exactPages: readonly Page[],
    firstExact: number,
  ): void {
    const scale = this.shared.scales[layer];
    for (let i = 0; i < this.pending;) {
      const n = this.runLength(i);
      const start = this.committed + i;
      const segment = (first: number, length: number, pages: readonly Page[]): Segment => ({
        keyForm: 'f32',
        valueForm: 'f32',
        query: rows(q, i, n),
        pages,
        pageLength: blockLength,
        first,
        length,
        minDistance: 0,
        maxDistance: Infinity,
        scale,
      });
      const end = start + n;
      const compressed = this.method.compressedAt(end);
      const tail = exactPages.slice(blockOf(compressed) - firstExact);
      const segments = [
        segment(0, compressed, compressedPages),
        segment(compressed, end - compressed, tail),
      ].filter(({ length }) => length > 0);
      this.kernels.attend(segments, { ...this.shapes[layer], n, start }, rows(out, i, n));
      i += n;
    }
  }

  /** How many queries from the step's i-th on agree about which positions are compressed. */
  private runLength(i: number): number {
    const seen = (query: number) => {
      const count = this.committed + query + 1;
      const compressed = this.method.compressedAt(count);
      // Queries that see nothing exact agree: where they differ, they do not see.
      return compressed === count ? 'all' : compressed;
    };
    let end = i + 1;
    while (end < this.pending && seen(end) === seen(i)) end++;
    return end - i;
  }

  private reserveScratch(pages: number): void {
    const needed = pages * this.layout.pageBytes();
    if ((this.shared.scratch?.sizeBytes ?? -1) >= needed) return;
    this.freeScratch();
    this.shared.scratch = this.kernels.alloc(needed);
  }

  private freeScratch(): void {
    if (this.shared.scratch) this.kernels.free(this.shared.scratch);
    this.shared.scratch = undefined;
  }
}

/** The slots of a block that hold positions `from .. to - 1`. */
function slotsOf(block: number, from: number, to: number): Range {
  return {
    first: Math.max(0, from - block * blockLength),
    end: Math.min(blockLength, to - block * blockLength),
  };
}

function unstorable(x: number, at: number): KvError {
  return Number.isFinite(x)
    ? new KvError('range', `cache: a value is ${x}; f16 holds up to 65504. Use the f32 cache.`)
    : new KvError(
        'not-finite',
        `cache: element ${at} is ${x}. The model's weights or input are damaged.`,
      );
}
