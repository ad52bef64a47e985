import type { HostArray, Kernels, Segment, Tensor } from '../kernels/kernels.ts';
import { bytesOf, rows } from '../kernels/tensor.ts';
import { tensorSizeBytes } from '../math/dtype.ts';
import type { LayerShape } from './cache.ts';
import { allocTensors } from './constants.ts';
import { ExactPositions, sinkLayout, storeBehindSinks } from './exact-positions.ts';
import { LayerMeans, meansLayout } from './layer-means.ts';
import { addUpperMoments, mirrorMoments } from './moments.ts';
import { LayerPages, pageBytes } from './pages.ts';
import { placeOf, type Place } from './saved-state.ts';
import type { StepRows } from './step-rows.ts';
import type { WindowLaw } from './window-law.ts';
import type { LayerCodec, Rows, WindowedMethod } from './windowed-method.ts';

/** What the layers of one `WindowedCache` share. */
export interface LayerContext {
  readonly kernels: Kernels;
  readonly method: WindowedMethod;
  readonly step: StepRows;
}

const noMoments = new Float64Array(0);

/** One layer of a `WindowedCache`: every position quantized, some exact as well, and what it learns from. */
export class WindowedLayer {
  /** not all of its positions are exact: it quantizes */
  private learned: boolean;
  private readonly law: WindowLaw;
  private readonly codec: LayerCodec;
  private readonly means: LayerMeans;
  private readonly sinks: readonly Tensor[];
  /** what the layer holds whatever the length */
  private readonly fixed: readonly Tensor[];
  private readonly exact: ExactPositions;
  /** quantized positions behind the sinks */
  private readonly coded: LayerPages;
  /** as in Sample on and above the diagonals, until the layer has learnt */
  private moments: Float64Array;
  /** queries of the step under way, which its end adds to the moments; f32 [at most n, nHeads, headDimK] */
  private observed: Float32Array | undefined;

  constructor(
    private readonly context: LayerContext,
    private readonly index: number,
    private readonly shape: LayerShape,
    origin?: WindowedLayer,
  ) {
    const { kernels, method } = context;
    const { law } = method;
    this.law = law;
    this.codec = method.createCodec(index, origin !== undefined);
    try {
      const made = allocTensors(kernels, [...meansLayout(shape), ...sinkLayout(shape, law)]);
      this.means = new LayerMeans(kernels, made.slice(0, 3));
      this.sinks = made.slice(3);
      this.fixed = [...this.codec.tensors, ...made];
    } catch (error) {
      for (const { buffer } of this.codec.tensors) kernels.free(buffer);
      throw error;
    }
    this.exact = new ExactPositions(kernels, shape, law, this.sinks, origin?.exact);
    this.coded = origin?.coded.fork() ?? new LayerPages(kernels, method.layout(index));
    this.moments = origin?.moments.slice() ?? this.emptyMoments();
    this.learned = origin?.learned ?? law.warmup === 0;
    if (origin) this.fixed.forEach((t, i) => kernels.copy(bytesOf(origin.fixed[i]), bytesOf(t)));
    else if (this.codec.means) this.means.set(this.codec.means);
  }

  get isLearned(): boolean {
    return this.learned;
  }

  /** First position behind the sinks that is still exact, counted from there. */
  get firstExact(): number {
    return this.exact.pages.first;
  }

  // a step

  reserve(from: number, to: number): void {
    const { law } = this;
    const learns = from < law.warmup && to >= law.warmup;
    // Learning quantizes everything from the first position on.
    this.coded.reserve(learns ? 0 : law.paged(from), law.paged(to));
    if (this.keepsExact) this.exact.pages.reserve(law.paged(from), law.paged(to));
  }

  /** Takes the rows of a step; the first of them is position `from`. */
  append(from: number, rows: Rows): void {
    this.put(from, this.context.step.take(rows, this.shape));
  }

  /** @param own rows that may be overwritten */
  private put(from: number, own: Rows): void {
    if (this.learned) {
      this.means.subtract(own);
      this.codec.basis?.turn(own.v);
    }
    this.exact.store(from, own, this.keepsExact);
    if (this.learned) this.storeCoded(from, own);
  }

  /** @param start position of the first query */
  attend(q: Tensor, out: Tensor, start: number): void {
    const { warmup, window } = this.law;
    const n = q.shape[0];
    const early = this.learned ? 0 : Math.min(n, warmup - start);
    if (early > 0) {
      this.observed = everyOther(this.context.kernels.view(rows(q, 0, early)), start, early);
      this.attendRows(q, out, start, 0, early, Infinity);
    }
    if (!this.learned && start + n >= warmup) this.learn(start, start + n);
    if (early < n) this.attendRows(q, out, start, early, n, window - 1);
  }

  /** Ends a step at a length. */
  settle(length: number): void {
    if (this.learned) this.moments = noMoments;
    else if (this.observed) this.addObserved(this.moments, this.observed);
    this.observed = undefined;
    this.exact.settle(length);
  }

  /** Makes everything as it was at a length. */
  unwind(length: number): void {
    const { law } = this;
    this.exact.unwind(length);
    this.coded.trim(law.paged(length));
    this.observed = undefined;
    this.learned = length >= law.warmup;
    if (length === 0) this.moments = this.emptyMoments();
  }

  private get keepsExact(): boolean {
    return this.law.window > 0 || !this.learned;
  }

  private storeCoded(from: number, own: Rows): void {
    storeBehindSinks(this.coded, this.law, from, own, (page, slot, { k, v }) =>
      this.codec.store(page, slot, k, v),
    );
  }

  /** @param exactDistance how far back queries `from .. to - 1` see exact positions; beyond, quantized ones */
  private attendRows(
    q: Tensor,
    out: Tensor,
    start: number,
    from: number,
    to: number,
    exactDistance: number,
  ): void {
    const { kernels, method } = this.context;
    const n = to - from;
    const end = start + q.shape[0];
    const [query, target] = [q, out].map((t) => rows(t, from, n));
    const scale = method.scales[this.index];
    const segments: Segment[] = this.exact.segments(query, scale, end, exactDistance);
    if (exactDistance < Infinity) {
      const coded = this.codec.read(query);
      // Written out: spread into a literal of so many properties it took V8 4 us a layer and token.
      segments.push({
        keyForm: coded.keyForm,
        valueForm: coded.valueForm,
        fields: coded.fields,
        query: coded.query,
        queryScales: coded.queryScales,
        skip: coded.skip,
        pages: this.coded.pages,
        pageLength: this.coded.pageLength,
        first: this.law.sinks,
        length: this.law.paged(end),
        minDistance: this.law.window,
        maxDistance: Infinity,
        scale,
      });
    }
    const { nHeads, nKvHeads, headDimK, headDimV } = this.shape;
    const shape = { n, start: start + from, nHeads, nKvHeads, headDimK, headDimV };
    kernels.attend(segments, shape, target);
    if (!this.learned) return;
    this.codec.basis?.turnBack(target);
    this.means.restore(target);
  }

  // learning

  private emptyMoments(): Float64Array {
    const { nKvHeads, headDimK } = this.shape;
    return this.law.warmup === 0 ? noMoments : new Float64Array(nKvHeads * headDimK * headDimK);
  }

  private addObserved(moments: Float64Array, queries: Float32Array): void {
    const { nHeads, nKvHeads, headDimK } = this.shape;
    addUpperMoments(moments, queries, headDimK, nHeads, nKvHeads);
  }

  /** Learns from the first positions, writes all exact ones anew without means, and quantizes all so far. */
  private learn(start: number, end: number): void {
    const { kernels, step } = this.context;
    const { warmup } = this.law;
    const sample = this.exact.read(warmup);
    // Of its own: the step may be taken back.
    const queryMoments = this.moments.slice();
    if (this.observed) this.addObserved(queryMoments, this.observed);
    mirrorMoments(queryMoments, this.shape.headDimK);
    const asked = (Math.ceil(warmup / 2) * this.shape.nHeads) / this.shape.nKvHeads;
    try {
      this.exact.renew(end);
      const view = (t: Tensor) => (kernels.view(t) as Float32Array).slice();
      const means = this.codec.learn({
        positions: warmup,
        keys: view(sample.k),
        values: view(sample.v),
        queryMoments: queryMoments.map((sum) => sum / asked),
      });
      this.means.set(means);
      this.learned = true;
      this.put(0, sample);
    } finally {
      for (const { buffer } of Object.values(sample)) kernels.free(buffer);
    }
    if (end > warmup) this.put(warmup, step.rows(this.shape, warmup - start, end - warmup));
  }

  // all of it

  /** Bytes of buffers held. @param end positions with those of the step under way */
  bytes(end: number) {
    const { method } = this.context;
    const { pages, pageSizeBytes } = this.exact.pages;
    const page = pageBytes(method.layout(this.index));
    const count = this.coded.pages.length;
    // In mid-step there are more of them, until the commit: they are scratch.
    const lasting = Math.min(pages.length, this.law.exactPages(end));
    const sinks = sizeOf(this.sinks);
    return {
      keys: page.keys * count,
      values: page.values * count,
      scales: page.scales * count,
      windows: pageSizeBytes * lasting + sinks,
      codebooks: sizeOf(this.fixed) - sinks,
      scratch: pageSizeBytes * (pages.length - lasting) + this.exact.replacedBytes,
    };
  }

  /** What is saved at a length; written to after `reserveSaved`. */
  *places(length: number): Generator<Place> {
    const { law } = this;
    yield* this.coded.places(Math.ceil(law.paged(length) / this.coded.pageLength));
    yield* this.exact.pages.places(law.exactPages(length));
    for (const t of this.fixed) yield placeOf(this.context.kernels, t);
    yield {
      sizeBytes: length < law.warmup ? this.emptyMoments().byteLength : 0,
      read: () => new Uint8Array(this.moments.slice().buffer),
      write: (block) => (this.moments = new Float64Array(block.slice().buffer)),
    };
  }

  /** @throws KvError "memory"; `unwind` drops what was made */
  reserveSaved(length: number): void {
    const end = this.law.paged(length);
    this.coded.reserve(0, end);
    if (this.law.exactPages(length) > 0) {
      this.exact.pages.reserveFrom(this.law.firstExact(length), end);
    }
    this.learned = length >= this.law.warmup;
  }

  release(): void {
    this.unwind(0);
    for (const { buffer } of this.fixed) this.context.kernels.free(buffer);
  }
}

/** Rows of even positions: half as many say as much of their second moments, and they are slow. */
function everyOther(queries: HostArray, start: number, count: number): Float32Array {
  const width = queries.length / count;
  const first = start % 2;
  const some = new Float32Array(Math.ceil((count - first) / 2) * width);
  for (let at = 0; at < some.length; at += width) {
    const from = first * width + 2 * at;
    some.set((queries as Float32Array).subarray(from, from + width), at);
  }
  return some;
}

function sizeOf(tensors: readonly Tensor[]): number {
  return tensors.reduce((sum, t) => sum + tensorSizeBytes(t.dtype, t.shape), 0);
}
