import { ensure, KvError } from '../errors/errors.ts';
import type { Kernels, Page, Segment, Tensor } from '../kernels/kernels.ts';
import { allocTensor, bytesOf, reshape, rows, tensor } from '../kernels/tensor.ts';
import { tensorSizeBytes } from '../math/dtype.ts';
import type { CacheBytes, CacheState, KvCache, LayerShape } from './cache.ts';
import { allocTensors } from './constants.ts';
import { addMoments } from './moments.ts';
import { LayerPages, pageBytes, type PageLayout } from './pages.ts';
import { expectBegin } from './step.ts';

/** Positions in a page of exact entries: few, as a window holds few and pages are held whole. */
export const windowPageLength = 32;

/** The first positions of one layer. */
export interface Sample {
  readonly positions: number;
  /** [positions, nKvHeads, headDimK] */
  readonly keys: Float32Array;
  /** [positions, nKvHeads, headDimV] */
  readonly values: Float32Array;
  /** sum over these positions and the query heads of each KV head of q q^T, [nKvHeads, headDimK, headDimK] */
  readonly queryMoments: Float64Array;
}

/** What is subtracted before anything is stored; softmax does not see it, see docs/method.md. */
export interface Means {
  /** [nKvHeads * headDimK] */
  readonly keys: Float32Array;
  /** [nKvHeads * headDimV] */
  readonly values: Float32Array;
}

/** The quantizer of one layer in one cache. Keys and values come with their means subtracted. */
export interface LayerCodec {
  /** Everything that it holds, for saving and forking. */
  readonly tensors: readonly Tensor[];
  /** what it knows without learning, if anything */
  readonly means: Means | undefined;
  learn(sample: Sample): Means;
  store(page: Page, slot: number, k: Tensor, v: Tensor): void;
  /** @param q f32 [n, nHeads, headDimK] */
  read(q: Tensor): Asked;
}

/** What a method that quantizes all but a window adds to `WindowedCache`. */
export interface WindowedMethod {
  readonly spec: string;
  /** newest positions that a query sees exact, its own included; 0: none */
  readonly window: number;
  /** first positions of all, which every query sees exact */
  readonly sinks: number;
  /** queries before this position see everything exact, and the method learns from them; 0: it has nothing to learn */
  readonly warmup: number;
  /** f32 [nHeads] by layer: what multiplies <q, k> */
  readonly scales: readonly Tensor[];
  /** Tensors of one page of quantized positions. */
  layout(layer: number): PageLayout;
  /**
   * A quantizer that has not learnt yet, with its memory.
   * @param isCopy its tensors will be overwritten with those of another one
   */
  createCodec(layer: number, isCopy: boolean): LayerCodec;
  /** Bytes held for all layers together. */
  codebookBytes(): number;
  /** Room for n queries; called before each step. */
  reserveScratch(n: number): void;
  scratchBytes(): number;
  dispose(): void;
}

interface Layer {
  readonly codec: LayerCodec;
  /** quantized positions from `sinks` on; page slot 0 is position `sinks` */
  readonly coded: LayerPages;
  /** exact positions from `sinks` on, those that some later query may still see */
  exact: LayerPages;
  /** f16, `sinks` positions */
  readonly sinks: Page | undefined;
  /** f32 [nKvHeads * headDimK] and [nKvHeads * headDimV], negative, and the latter as it is */
  readonly means: { readonly keys: Tensor; readonly values: Tensor; readonly restored: Tensor };
  /** as in Sample, on the host, until the layer is learned */
  moments: Float64Array;
  isLearned: boolean;
}

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
export class WindowedCache implements KvCache {
  private readonly kernels: Kernels;
  private readonly shapes: readonly LayerShape[];
  private readonly method: WindowedMethod;
  private readonly layers: readonly Layer[];
  /** caches that share `method`; the last one disposes of it */
  private readonly family: { size: number };
  /** this step's keys and values, f32 [n, nKvHeads, headDim], and room for a bias */
  private scratch: { k: Tensor; v: Tensor; bias: Tensor } | undefined;
  /** what takes back this step's changes, beside those of pages */
  private undo: (() => void)[] = [];
  /** what this step leaves behind */
  private leftovers: LayerPages[] = [];
  private committed = 0;
  private pending = 0;
  private disposed = false;

  constructor(
    kernels: Kernels,
    shapes: readonly LayerShape[],
    method: WindowedMethod,
    origin?: WindowedCache,
  ) {
    ensure(
      kernels.backend !== 'webgpu',
      'unsupported',
      () =>
        `cache ${method.spec}: the backend is webgpu; it runs on wasm, native and reference. Use one of those, or another cache.`,
    );
    this.kernels = kernels;
    this.shapes = shapes;
    this.method = method;
    const layers: Layer[] = [];
    this.layers = layers;
    try {
      shapes.forEach((_, i) => {
        layers.push(this.createLayer(i, origin?.layers[i]));
        const { means } = layers[i].codec;
        if (means && !origin) this.setMeans(i, means);
      });
    } catch (error) {
      this.release();
      if (!origin) method.dispose();
      throw error;
    }
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
    const [from, to] = [this.committed, this.committed + n].map((at) => this.paged(at));
    try {
      this.method.reserveScratch(n);
      this.reserveScratch(n);
      const learns =
        this.committed < this.method.warmup && this.committed + n >= this.method.warmup;
      for (const layer of this.layers) {
        // Learning quantizes everything from the first position on.
        layer.coded.reserve(learns ? 0 : from, to);
        if (this.keepsExact(layer)) layer.exact.reserve(from, to);
      }
    } catch (error) {
      this.rollback();
      throw error;
    }
    this.pending = n;
  }

  append(layer: number, k: Tensor, v: Tensor): void {
    this.expectStep(layer, k);
    const held = this.layers[layer];
    const own = this.scratchRows(layer, 0, this.pending);
    this.kernels.copy(bytesOf(k), bytesOf(own.k));
    this.kernels.copy(bytesOf(v), bytesOf(own.v));
    if (held.isLearned) this.subtractMeans(held, own);
    this.storeExact(held, held.exact, this.committed, own);
    if (held.isLearned) this.storeCoded(held, this.committed, own);
  }

  attend(layer: number, q: Tensor, out: Tensor): void {
    this.expectStep(layer, q);
    const held = this.layers[layer];
    const { committed: start, pending: n } = this;
    const early = held.isLearned ? 0 : Math.min(n, this.method.warmup - start);
    if (early > 0) {
      this.observe(layer, rows(q, 0, early));
      this.attendRows(layer, q, out, 0, early, Infinity);
    }
    if (!held.isLearned && start + n >= this.method.warmup) this.learn(layer);
    if (early < n) this.attendRows(layer, q, out, early, n, this.method.window - 1);
  }

  commit(): void {
    const length = this.committed + this.pending;
    ensure(
      length < this.method.warmup || this.layers.every(({ isLearned }) => isLearned),
      'usage',
      () =>
        `cache: ${length} positions were appended, and layers did not attend. Attend each step.`,
    );
    this.committed = length;
    this.pending = 0;
    for (const pages of this.leftovers.splice(0)) pages.trim(0);
    this.undo = [];
    if (this.committed < this.method.warmup) return;
    for (const layer of this.layers) {
      layer.moments = noMoments;
      if (this.method.window > 0) layer.exact.dropBefore(this.firstExact(this.committed));
      else layer.exact.trim(0);
    }
  }

  rollback(): void {
    this.pending = 0;
    for (const step of this.undo.splice(0).reverse()) step();
    this.leftovers = [];
    for (const { coded, exact } of this.layers) {
      coded.trim(this.paged(this.committed));
      exact.trim(this.paged(this.committed));
    }
  }

  /**
   * What was learnt, and exact positions that are gone, cannot be had back: then there is nothing to
   * be kept but an empty cache.
   */
  truncate(length: number): number {
    ensure(
      Number.isInteger(length) && length >= 0,
      'usage',
      () => `cache: cannot truncate to ${length}; give a whole number from 0.`,
    );
    this.rollback();
    if (length >= this.committed) return this.committed;
    const { window, warmup } = this.method;
    const isAfterLearning = length >= warmup;
    const hasWindow =
      window === 0 ||
      this.layers.every(({ exact }) => exact.first <= this.paged(Math.max(0, length - window)));
    this.committed = isAfterLearning && hasWindow ? length : 0;
    if (this.committed === 0) {
      this.layers.forEach((layer, i) => {
        layer.moments = this.emptyMoments(i);
        layer.isLearned = warmup === 0;
      });
    }
    this.rollback();
    return this.committed;
  }

  fork(): WindowedCache {
    ensure(!this.disposed, 'usage', () => 'cache: it was disposed. Fork before dispose.');
    ensure(this.pending === 0, 'usage', () => 'cache: a step is under way. Commit it, then fork.');
    return new WindowedCache(this.kernels, this.shapes, this.method, this);
  }

  bytes(): CacheBytes {
    const codebooks = this.method.codebookBytes();
    const sums = { keys: 0, values: 0, scales: 0, windows: 0, codebooks };
    // In mid-step there are more of them, until the commit: they are scratch.
    const exactPages = this.exactPageCount(this.committed + this.pending);
    this.layers.forEach((layer, i) => {
      const page = pageBytes(this.method.layout(i));
      sums.keys += page.keys * layer.coded.pages.length;
      sums.values += page.values * layer.coded.pages.length;
      sums.scales += page.scales * layer.coded.pages.length;
      sums.windows += layer.exact.pageSizeBytes * Math.min(layer.exact.pages.length, exactPages);
      sums.windows += sizeOf(sinkTensors(layer));
      sums.codebooks += sizeOf([...layer.codec.tensors, ...Object.values(layer.means)]);
    });
    const total = Object.values(sums).reduce((a, b) => a + b);
    let scratch = this.method.scratchBytes();
    if (this.scratch) scratch += sizeOf(Object.values(this.scratch));
    for (const { exact } of this.layers) {
      scratch += exact.pageSizeBytes * Math.max(0, exact.pages.length - exactPages);
    }
    for (const pages of this.leftovers) scratch += pages.pageSizeBytes * pages.pages.length;
    return { ...sums, total, scratch };
  }

  async save(): Promise<CacheState> {
    ensure(!this.disposed, 'usage', () => 'cache: it was disposed. Save before dispose.');
    ensure(this.pending === 0, 'usage', () => 'cache: a step is under way. Commit it, then save.');
    const { committed: length, kernels } = this;
    const first = this.layers[0]?.exact.first ?? 0;
    const blocks = await Promise.all(
      this.layers.flatMap((layer) => [
        ...layer.coded.save(),
        ...layer.exact.save(),
        ...fixedTensors(layer).map((t) => kernels.read(bytesOf(t)) as Promise<Uint8Array>),
        new Uint8Array(layer.moments.slice().buffer),
      ]),
    );
    return { length, numbers: { first }, blocks };
  }

  restore(state: CacheState): void {
    ensure(!this.disposed, 'usage', () => 'cache: it was disposed. Create a new one.');
    ensure(
      this.pending === 0 && this.committed === 0,
      'usage',
      () => `cache: it holds ${this.committed} positions. Restore into an empty one.`,
    );
    const plan = this.expectState(state);
    try {
      for (const layer of this.layers) {
        layer.coded.reserveFrom(0, plan.coded);
        layer.exact.reserveFrom(state.numbers.first, plan.exact);
      }
    } catch (error) {
      this.rollback();
      throw error;
    }
    const blocks = [...state.blocks];
    for (const layer of this.layers) {
      layer.coded.fill(blocks.splice(0, plan.coded));
      layer.exact.fill(blocks.splice(0, plan.exact));
      for (const t of fixedTensors(layer)) this.kernels.write(bytesOf(t), blocks.shift() ?? none);
      layer.moments = new Float64Array((blocks.shift() ?? none).slice().buffer);
      layer.isLearned = state.length >= this.method.warmup;
    }
    this.committed = state.length;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.committed = 0;
    this.rollback();
    this.release();
    if (--this.family.size === 0) this.method.dispose();
  }

  // --- parts of a step

  /** Position -> position among those that are paged. */
  private paged(position: number): number {
    return Math.max(0, position - this.method.sinks);
  }

  /** Sums of queries, where there is something to learn from them. */
  private emptyMoments(layer: number): Float64Array {
    if (this.method.warmup === 0) return noMoments;
    const { nKvHeads, headDimK } = this.shapes[layer];
    return new Float64Array(nKvHeads * headDimK * headDimK);
  }

  /** First paged position that is kept exact at a length: the start of a page. */
  private firstExact(length: number): number {
    const { window, warmup } = this.method;
    if (length < warmup || window === 0) return 0;
    return Math.floor(this.paged(length - window) / windowPageLength) * windowPageLength;
  }

  /** Pages of exact positions that a layer keeps at a length. */
  private exactPageCount(length: number): number {
    const { window, warmup } = this.method;
    const end = Math.ceil(this.paged(length) / windowPageLength);
    if (length < warmup) return end;
    return window === 0 ? 0 : end - this.firstExact(length) / windowPageLength;
  }

  private keepsExact(layer: Layer): boolean {
    return this.method.window > 0 || !layer.isLearned;
  }

  private subtractMeans({ means }: Layer, { k, v }: { k: Tensor; v: Tensor }): void {
    this.kernels.addBias(reshape(k, [k.shape[0], -1]), means.keys);
    this.kernels.addBias(reshape(v, [v.shape[0], -1]), means.values);
  }

  /** Stores rows as f16; the first of them is position `from`. */
  private storeExact(layer: Layer, exact: LayerPages, from: number, own: Rows): void {
    const store = (page: Page, slot: number, part: Rows) => {
      this.kernels.storeRows(part.k, page.keys, slot);
      this.kernels.storeRows(part.v, page.values, slot);
    };
    const inSinks = Math.min(Math.max(0, this.method.sinks - from), own.k.shape[0]);
    if (inSinks > 0 && layer.sinks) store(layer.sinks, from, partOf(own, 0, inSinks));
    if (this.keepsExact(layer)) this.storePaged(exact, from, own, store);
  }

  private storeCoded(layer: Layer, from: number, own: Rows): void {
    this.storePaged(layer.coded, from, own, (page, slot, part) =>
      layer.codec.store(page, slot, part.k, part.v),
    );
  }

  /** Cuts rows from position `from` on along the pages; sinks are left out. */
  private storePaged(
    pages: LayerPages,
    from: number,
    own: Rows,
    store: (page: Page, slot: number, part: Rows) => void,
  ): void {
    const n = own.k.shape[0];
    let done = Math.min(n, Math.max(0, this.method.sinks - from));
    while (done < n) {
      const at = this.paged(from + done);
      const slot = at % pages.pageLength;
      const count = Math.min(pages.pageLength - slot, n - done);
      store(pages.pageOf(at), slot, partOf(own, done, count));
      done += count;
    }
  }

  /** Adds q q^T of some rows to the moments of a layer. @param q f32 [n, nHeads, headDimK] */
  private observe(layer: number, q: Tensor): void {
    const held = this.layers[layer];
    const { nHeads, nKvHeads, headDimK: d } = this.shapes[layer];
    const before = held.moments;
    this.undo.push(() => (held.moments = before));
    held.moments = before.slice();
    addMoments(held.moments, this.kernels.view(q) as Float32Array, d, nHeads, nKvHeads);
  }

  /** Learns a layer, writes its exact entries anew without means, and quantizes all so far. */
  private learn(layer: number): void {
    const held = this.layers[layer];
    const { warmup } = this.method;
    const before = held.exact;
    const sinks = sinkTensors(held).map((t) => ({ t, data: this.kernels.view(t).slice() }));
    this.undo.push(() => {
      held.exact.trim(0);
      held.exact = before;
      held.isLearned = false;
      for (const { t, data } of sinks) this.kernels.write(t, data);
    });
    held.exact = this.exactPages(this.shapes[layer]);
    const end = this.committed + this.pending;
    held.exact.reserve(0, this.paged(end));

    const sample = this.decode(layer, before, 0, warmup);
    try {
      const view = (t: Tensor) => (this.kernels.view(t) as Float32Array).slice();
      const means = held.codec.learn({
        positions: warmup,
        keys: view(sample.k),
        values: view(sample.v),
        queryMoments: held.moments,
      });
      this.setMeans(layer, means);
      held.isLearned = true;
      this.subtractMeans(held, sample);
      this.storeExact(held, held.exact, 0, sample);
      this.storeCoded(held, 0, sample);
    } finally {
      for (const { buffer } of Object.values(sample)) this.kernels.free(buffer);
    }
    if (end > warmup) {
      const own = this.scratchRows(layer, warmup - this.committed, end - warmup);
      this.subtractMeans(held, own);
      this.storeExact(held, held.exact, warmup, own);
      this.storeCoded(held, warmup, own);
    }
    this.leftovers.push(before);
  }

  /** Exact positions `from .. to - 1` as f32 tensors of their own, to be freed by the caller. */
  private decode(layer: number, exact: LayerPages, from: number, to: number): Rows {
    const { nKvHeads, headDimK, headDimV } = this.shapes[layer];
    const { sinks } = this.layers[layer];
    const gather = (field: 'keys' | 'values', width: number) => {
      const out = allocTensor(this.kernels, 'f32', [to - from, nKvHeads, width]);
      for (let position = from; position < to; position++) {
        const isSink = position < this.method.sinks;
        const page = isSink ? sinks : exact.pageOf(this.paged(position));
        if (!page) throw new KvError('usage', `cache: position ${position} is not exact any more.`);
        const slots = page[field].shape[1];
        const slot = isSink ? position : this.paged(position) % slots;
        const ids = Int32Array.from({ length: nKvHeads }, (_, head) => head * slots + slot);
        const target = reshape(rows(out, position - from, 1), [nKvHeads, width]);
        this.kernels.embed(reshape(page[field], [nKvHeads * slots, width]), ids, target);
      }
      return out;
    };
    return { k: gather('keys', headDimK), v: gather('values', headDimV) };
  }

  private setMeans(layer: number, means: Means): void {
    const { keys, values, restored } = this.layers[layer].means;
    const negative = (numbers: Float32Array) => numbers.map((x) => -x);
    this.kernels.write(keys, negative(means.keys));
    this.kernels.write(values, negative(means.values));
    this.kernels.write(restored, means.values);
  }

  /** Adds the mean value of its KV head to the output of every query head. @param out f32 [n, nHeads, headDimV] */
  private restoreMeans(layer: number, out: Tensor): void {
    const { nHeads, nKvHeads, headDimV } = this.shapes[layer];
    const heads = reshape(this.layers[layer].means.restored, [nKvHeads, headDimV]);
    const bias = tensor(this.expectScratch().bias.buffer, 'f32', [nHeads, headDimV]);
    for (let head = 0; head < nHeads; head++) {
      const mean = rows(heads, Math.floor((head * nKvHeads) / nHeads), 1);
      this.kernels.copy(bytesOf(mean), bytesOf(rows(bias, head, 1)));
    }
    this.kernels.addBias(reshape(out, [out.shape[0], -1]), reshape(bias, [-1]));
  }

  /** @param maxDistance of the paged ones; sinks are seen from everywhere */
  private exactSegments(layer: number, maxDistance: number): Unasked[] {
    const { sinks, exact } = this.layers[layer];
    const end = this.committed + this.pending;
    const segments: Unasked[] = [];
    if (sinks) {
      segments.push({
        pages: [sinks],
        pageLength: this.method.sinks,
        first: 0,
        length: Math.min(this.method.sinks, end),
        minDistance: 0,
        maxDistance: Infinity,
      });
    }
    if (maxDistance >= 0 && exact.pages.length > 0) {
      segments.push({
        pages: exact.pages,
        pageLength: windowPageLength,
        first: this.method.sinks + exact.first,
        length: this.paged(end) - exact.first,
        minDistance: 0,
        maxDistance,
      });
    }
    return segments;
  }

  private codedSegment(layer: number): Unasked {
    const { coded } = this.layers[layer];
    return {
      pages: coded.pages,
      pageLength: coded.pageLength,
      first: this.method.sinks,
      length: this.paged(this.committed + this.pending),
      minDistance: this.method.window,
      maxDistance: Infinity,
    };
  }

  /** @param exactDistance how far back queries `from .. to - 1` see exact positions; beyond, quantized ones */
  private attendRows(
    layer: number,
    q: Tensor,
    out: Tensor,
    from: number,
    to: number,
    exactDistance: number,
  ): void {
    const held = this.layers[layer];
    const [query, target] = [q, out].map((t) => rows(t, from, to - from));
    const scale = this.method.scales[layer];
    const segments: Segment[] = this.exactSegments(layer, exactDistance).map((segment) => ({
      ...segment,
      keyForm: 'f16',
      valueForm: 'f16',
      query,
      scale,
    }));
    if (exactDistance < Infinity) {
      segments.push({ ...this.codedSegment(layer), ...held.codec.read(query), scale });
    }
    const shape = { ...this.shapes[layer], n: to - from, start: this.committed + from };
    this.kernels.attend(segments, shape, target);
    if (held.isLearned) this.restoreMeans(layer, target);
  }

  // --- memory

  private exactPages(shape: LayerShape): LayerPages {
    const { nKvHeads, headDimK, headDimV } = shape;
    const layout: PageLayout = {
      keys: { dtype: 'f16', shape: [nKvHeads, windowPageLength, headDimK] },
      values: { dtype: 'f16', shape: [nKvHeads, windowPageLength, headDimV] },
    };
    return new LayerPages(this.kernels, layout, windowPageLength);
  }

  private createLayer(i: number, origin?: Layer): Layer {
    const { kernels, method } = this;
    const { nKvHeads, headDimK, headDimV } = this.shapes[i];
    const made: Tensor[] = [];
    const alloc = (dtype: 'f32' | 'f16', shape: readonly number[]) => {
      made.push(allocTensor(kernels, dtype, shape));
      return made[made.length - 1];
    };
    try {
      const codec = method.createCodec(i, origin !== undefined);
      made.push(...codec.tensors);
      const layer: Layer = {
        codec,
        means: {
          keys: alloc('f32', [nKvHeads * headDimK]),
          values: alloc('f32', [nKvHeads * headDimV]),
          restored: alloc('f32', [nKvHeads * headDimV]),
        },
        sinks:
          method.sinks > 0
            ? {
                keys: alloc('f16', [nKvHeads, method.sinks, headDimK]),
                values: alloc('f16', [nKvHeads, method.sinks, headDimV]),
              }
            : undefined,
        coded: origin?.coded.fork() ?? new LayerPages(kernels, method.layout(i)),
        exact: origin?.exact.fork() ?? this.exactPages(this.shapes[i]),
        moments: origin?.moments.slice() ?? this.emptyMoments(i),
        isLearned: origin?.isLearned ?? method.warmup === 0,
      };
      if (origin) {
        const from = fixedTensors(origin);
        fixedTensors(layer).forEach((t, k) => kernels.copy(bytesOf(from[k]), bytesOf(t)));
      }
      return layer;
    } catch (error) {
      for (const { buffer } of made) kernels.free(buffer);
      throw error;
    }
  }

  private reserveScratch(n: number): void {
    if (this.scratch && this.scratch.k.shape[0] >= n) return;
    const widest = (of: (shape: LayerShape) => number) => Math.max(...this.shapes.map(of));
    const [k, v, bias] = allocTensors(this.kernels, [
      { dtype: 'f32', shape: [n, widest((s) => s.nKvHeads * s.headDimK)] },
      { dtype: 'f32', shape: [n, widest((s) => s.nKvHeads * s.headDimV)] },
      { dtype: 'f32', shape: [widest((s) => s.nHeads * s.headDimV)] },
    ]);
    this.freeScratch();
    this.scratch = { k, v, bias };
  }

  private freeScratch(): void {
    for (const { buffer } of Object.values(this.scratch ?? {})) this.kernels.free(buffer);
    this.scratch = undefined;
  }

  /** This step's rows from `from` on, in the layer's shape. */
  private scratchRows(layer: number, from: number, count: number): Rows {
    const scratch = this.expectScratch();
    const { nKvHeads, headDimK, headDimV } = this.shapes[layer];
    const of = (t: Tensor, width: number) =>
      rows(tensor(t.buffer, 'f32', [from + count, nKvHeads, width]), from, count);
    return { k: of(scratch.k, headDimK), v: of(scratch.v, headDimV) };
  }

  private expectScratch() {
    if (!this.scratch) throw new KvError('usage', 'cache: it was asked outside a step.');
    return this.scratch;
  }

  private release(): void {
    for (const layer of this.layers) {
      layer.coded.trim(0);
      layer.exact.trim(0);
      for (const { buffer } of fixedTensors(layer)) this.kernels.free(buffer);
    }
    this.freeScratch();
  }

  // --- checks

  /** How many pages each layer has. @throws KvError "format" if the state is not one of this cache */
  private expectState({ length, numbers, blocks }: CacheState): { coded: number; exact: number } {
    const expectThat = (fits: boolean, found: string, allowed: string) =>
      ensure(
        fits,
        'format',
        () =>
          `cache ${this.spec}: the saved state has ${found}; this cache takes ${allowed}. Restore what a cache of the same spec and model saved.`,
      );
    expectThat(
      Number.isSafeInteger(length) && length >= 0,
      `length ${length}`,
      'a whole number from 0',
    );
    const first = this.firstExact(length);
    expectThat(
      numbers.first === first,
      `exact positions from ${numbers.first} on`,
      `those from ${first} on at this length`,
    );
    const codedLength = this.layers[0]?.coded.pageLength ?? 1;
    const counts = {
      coded: Math.ceil(this.paged(length) / codedLength),
      exact: this.exactPageCount(length),
    };
    const perLayer = counts.coded + counts.exact + 1;
    const count = this.layers.reduce(
      (sum, layer) => sum + perLayer + fixedTensors(layer).length,
      0,
    );
    expectThat(
      blocks.length === count,
      `${blocks.length} blocks for ${length} positions`,
      String(count),
    );
    const momentBytes = (i: number) =>
      length < this.method.warmup ? this.emptyMoments(i).byteLength : 0;
    const sizes = this.layers.flatMap((layer, i) => [
      ...Array<number>(counts.coded).fill(layer.coded.pageSizeBytes),
      ...Array<number>(counts.exact).fill(layer.exact.pageSizeBytes),
      ...fixedTensors(layer).map((t) => sizeOf([t])),
      momentBytes(i),
    ]);
    blocks.forEach((block, i) =>
      expectThat(block.length === sizes[i], `${block.length} bytes in block ${i}`, `${sizes[i]}`),
    );
    return counts;
  }

  private expectStep(layer: number, t: Tensor): void {
    if (this.pending > 0 && t.shape[0] === this.pending && this.layers[layer]) return;
    throw new KvError(
      'usage',
      `cache: layer ${layer} of ${this.layers.length} was given ${t.shape[0]} positions; begin() announced ${this.pending}.`,
    );
  }
}

/** Keys and values of neighbouring positions, f32 [n, nKvHeads, headDim]. */
interface Rows {
  readonly k: Tensor;
  readonly v: Tensor;
}

/** What a codec's `read` and an exact segment's form say of how a segment is asked. */
type Asked = Pick<Segment, 'keyForm' | 'valueForm' | 'query' | 'queryScales'>;
type Unasked = Omit<Segment, keyof Asked | 'scale'>;

const none = new Uint8Array(0);
const noMoments = new Float64Array(0);

function partOf({ k, v }: Rows, from: number, count: number): Rows {
  return { k: rows(k, from, count), v: rows(v, from, count) };
}

function sinkTensors({ sinks }: Layer): Tensor[] {
  return sinks ? [sinks.keys, sinks.values] : [];
}

/** What a layer holds whatever the length. */
function fixedTensors(layer: Layer): Tensor[] {
  return [...layer.codec.tensors, ...Object.values(layer.means), ...sinkTensors(layer)];
}

function sizeOf(tensors: readonly Tensor[]): number {
  return tensors.reduce((sum, t) => sum + tensorSizeBytes(t.dtype, t.shape), 0);
}
