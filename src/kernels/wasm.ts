import { ensure, KvError } from '../errors/errors.ts';
import { platform } from '#kernels-platform';
import { check, checkAttend } from './check.ts';
import type {
  AffineBits,
  AttendShape,
  Codec,
  HostArray,
  KernelBuffer,
  Kernels,
  LinearPart,
  RopeStyle,
  Segment,
  Tensor,
} from './kernels.ts';
import { bytesOf, hostView } from './tensor.ts';
import { elementCount, weightDTypes } from '../math/dtype.ts';
import { hasRelaxedSimd, instantiate, noSharedMemory, type NativeInstance } from './wasm-module.ts';

export interface WasmOptions {
  /** Threads that compute, this one included. Default: what the machine has, at most 16. */
  readonly threads?: number;
  /** Use relaxed SIMD. Default: if the engine has it. */
  readonly relaxed?: boolean;
  /** Use the build with shared memory. Default: if there is more than one thread. */
  readonly shared?: boolean;
  /** Why it is not more threads, for the description. */
  readonly reason?: string;
}

/** More threads than this only wait for memory; a caller may still ask for up to `maxThreads`. */
const maxDefaultThreads = 16;
const maxThreads = 64;

/** Weights are numbered as in native/elementwise.h, forms as in native/attend.c. */
const dtypeCodes = Object.fromEntries(weightDTypes.map((dtype, code) => [dtype, code]));
const keyFormCodes = { f32: 0, f16: 1, sketch: 2, codes: 3 } as const;
const valueFormCodes = { f32: 0, f16: 1, affine2: 2, affine3: 3, affine4: 4 } as const;
/** As in native/codes.c. */
const scaleRuleCodes = { unbiased: 0, 'least-squares': 1, norm: 2, none: 3 } as const;
const status = { notFinite: 1, outOfRange: 2, workerDied: 3 } as const;
const maxInt32 = 0x7fffffff;

/**
 * Starts the WebAssembly backend.
 * @throws KvError "backend" if it cannot run here, "usage" if the options contradict each other
 */
export async function createWasmKernels(options: WasmOptions = {}): Promise<Kernels> {
  const wanted = options.threads ?? Math.min(platform.hardwareThreads, maxDefaultThreads);
  ensure(
    Number.isInteger(wanted) && wanted >= 1 && wanted <= maxThreads,
    'range',
    () => `wasm: ${wanted} threads; it must be a whole number from 1 to ${maxThreads}.`,
  );
  ensure(
    !(options.shared === false && (options.threads ?? 1) > 1),
    'usage',
    () => `wasm: ${wanted} threads need shared memory. Leave out shared: false.`,
  );
  const obstacle = noSharedMemory();
  ensure(
    obstacle === undefined || options.shared !== true,
    'backend',
    () => `wasm: no shared memory: ${obstacle}. Leave out shared: true.`,
  );
  const relaxed = options.relaxed ?? hasRelaxedSimd();
  const shared = options.shared ?? (wanted > 1 && obstacle === undefined);
  const threads = shared ? wanted : 1;
  const instance = await instantiate(threads, shared, relaxed);
  const simd = relaxed ? 'relaxed SIMD' : 'SIMD128';
  const reason = options.reason ?? (wanted > threads ? obstacle : undefined);
  const count = threads === 1 ? '1 thread' : `${threads} threads`;
  const description = `wasm: ${simd}, ${count}${reason === undefined ? '' : ` (${reason})`}`;
  return new WasmKernels(instance, description);
}

class WasmBuffer implements KernelBuffer {
  readonly owner: WasmKernels;
  readonly address: number;
  readonly sizeBytes: number;
  freed = false;

  constructor(owner: WasmKernels, address: number, sizeBytes: number) {
    this.owner = owner;
    this.address = address;
    this.sizeBytes = sizeBytes;
  }
}

/** Checks the call, lays out pointers, calls the C kernel of the same name. */
class WasmKernels implements Kernels {
  readonly backend = 'wasm';
  readonly maxBytes = 2 ** 32;
  readonly description: string;
  readonly threads: number;
  private instance: NativeInstance | undefined;
  private allocated = 0;
  /** Tables of pointers for one call, and what a kernel needs to work in; both only grow. */
  private readonly tables = { address: 0, sizeBytes: 0 };
  private readonly scratch = { address: 0, sizeBytes: 0 };

  constructor(instance: NativeInstance, description: string) {
    this.instance = instance;
    this.description = description;
    this.threads = instance.threads.length + 1;
  }

  get allocatedBytes(): number {
    return this.allocated;
  }

  alloc(sizeBytes: number): KernelBuffer {
    const buffer = new WasmBuffer(this, this.native.heap.allocate(sizeBytes), sizeBytes);
    this.allocated += sizeBytes;
    return buffer;
  }

  free(buffer: KernelBuffer): void {
    const own = this.own(buffer);
    this.native.heap.free(own.address);
    own.freed = true;
    this.allocated -= own.sizeBytes;
  }

  view(t: Tensor): HostArray {
    return hostView(t, this.native.heap.memory.buffer, this.own(t.buffer).address);
  }

  read(t: Tensor): Promise<HostArray> {
    return Promise.resolve(this.view(t).slice());
  }

  write(t: Tensor, data: HostArray): void {
    const view = this.view(t);
    check.write(t, data, view);
    view.set(data);
  }

  copy(source: Tensor, target: Tensor): void {
    check.copy(source, target);
    this.view(bytesOf(target)).set(this.view(bytesOf(source)));
  }

  embed(table: Tensor, ids: Int32Array, out: Tensor): void {
    check.embed(table, ids, out);
    const list = this.table(ids.length);
    list.words.set(ids);
    const [tableAt, outAt] = [this.at(table), this.at(out)];
    const columns = table.shape[1];
    this.c.embed(tableAt, dtypeCodes[table.dtype], columns, list.address, ids.length, outAt);
  }

  rmsNorm(x: Tensor, weight: Tensor, eps: number, out: Tensor): void {
    check.rmsNorm(x, weight, out);
    const [n, d] = x.shape;
    const result = this.c.rms_norm(this.at(x), this.at(weight), eps, this.at(out), n, d);
    this.refuse('rmsNorm', result, x);
  }

  linear(x: Tensor, parts: readonly LinearPart[]): void {
    check.linear(x, parts);
    const [n, columns] = x.shape;
    const scratch = this.reserve(
      this.scratch,
      this.c.linear_scratch_bytes(n, columns, this.threads) >>> 0,
    );
    const { address, words } = this.table(parts.length * 4);
    parts.forEach(({ weight, out }, i) => {
      const rows = weight.shape[0];
      words.set([this.at(weight), this.at(out), rows, dtypeCodes[weight.dtype]], i * 4);
    });
    const result = this.c.linear(this.at(x), n, columns, address, parts.length, scratch);
    this.refuse('linear', result, x);
  }

  rope(x: Tensor, table: Tensor, style: RopeStyle): void {
    check.rope(x, table);
    const [n, heads, d] = x.shape;
    const adjacent = style === 'adjacent' ? 1 : 0;
    this.c.rope(this.at(x), this.at(table), n, heads, d, table.shape[1], adjacent);
  }

  add(x: Tensor, y: Tensor): void {
    check.sameShape('add', x, y);
    this.c.add(this.at(x), this.at(y), elementCount(x.shape));
  }

  addBias(x: Tensor, bias: Tensor): void {
    check.addBias(x, bias);
    this.c.add_bias(this.at(x), this.at(bias), x.shape[0], x.shape[1]);
  }

  swiglu(gate: Tensor, up: Tensor): void {
    check.sameShape('swiglu', gate, up);
    this.c.swiglu(this.at(gate), this.at(up), elementCount(gate.shape));
  }

  storeRows(x: Tensor, page: Tensor, slot: number): void {
    check.storeRows(x, page, slot);
    const [n, heads, d] = x.shape;
    const target = [this.at(page), dtypeCodes[page.dtype], page.shape[1], slot];
    this.refuse('storeRows', this.c.store_rows(this.at(x), n, heads, d, ...target), x);
  }

  storeSketch(x: Tensor, projection: Tensor, page: Tensor, slot: number): void {
    check.storeSketch(x, projection, page, slot);
    const [n, heads, d] = x.shape;
    const [nKvHeads, bits] = projection.shape;
    const source = [this.at(x), n, heads, d, this.at(projection), nKvHeads, bits];
    const result = this.c.store_sketch(...source, this.at(page), page.shape[1], slot);
    this.refuse('storeSketch', result, x);
  }

  storeCodes(
    x: Tensor,
    codec: Codec,
    keys: Tensor,
    keyScales: Tensor | undefined,
    slot: number,
  ): void {
    check.storeCodes(x, codec, keys, keyScales, slot);
    const [n, nKvHeads, d] = x.shape;
    const [, blocks, groups] = keys.shape;
    const codebook = [codec.project, codec.levels, codec.rows].map((t) => this.at(t));
    const scaling = [scaleRuleCodes[codec.rule], codec.gain];
    const target = [this.at(keys), blocks, keyScales ? this.at(keyScales) : 0, slot];
    const source = [this.at(x), n, nKvHeads, d, ...codebook, groups, ...scaling];
    this.refuse('storeCodes', this.c.store_codes(...source, ...target), x);
  }

  queryTables(q: Tensor, codec: Codec, tables: Tensor, scales: Tensor): void {
    check.queryTables(q, codec, tables, scales);
    const [n, nHeads, d] = q.shape;
    const [nKvHeads, groups] = codec.levels.shape;
    const codebook = [this.at(codec.queryProject), this.at(codec.levels), nKvHeads, groups];
    const source = [this.at(q), n, nHeads, d, ...codebook];
    const result = this.c.query_tables(...source, this.at(tables), this.at(scales));
    this.refuse('queryTables', result, q);
  }

  storeAffine(
    x: Tensor,
    codes: Tensor,
    params: Tensor,
    bits: AffineBits,
    slot: number,
    { clip }: { readonly clip: boolean },
  ): void {
    check.storeAffine(x, codes, params, bits, slot);
    const [n, heads, d] = x.shape;
    const target = [this.at(codes), this.at(params), codes.shape[1], bits, slot, clip ? 1 : 0];
    this.refuse('storeAffine', this.c.store_affine(this.at(x), n, heads, d, ...target), x);
  }

  attend(segments: readonly Segment[], shape: AttendShape, out: Tensor): void {
    checkAttend(segments, shape);
    check.attend(shape, out);
    const { segmentsAt, shapeAt, scratch } = this.layOut(segments, shape);
    const count = segments.length;
    const result = this.c.attend(segmentsAt, count, shapeAt, this.at(out), scratch, this.threads);
    this.refuse('attend', result, out);
  }

  scores(segment: Segment, shape: AttendShape, out: Tensor): void {
    checkAttend([segment], shape);
    check.scores(segment, shape, out);
    const { segmentsAt, shapeAt, scratch } = this.layOut([segment], shape);
    this.c.scores(segmentsAt, shapeAt, this.at(out), scratch);
  }

  dispose(): void {
    if (!this.instance) return;
    this.instance.exports.pool_stop();
    for (const thread of this.instance.threads) thread.stop();
    this.instance = undefined;
    this.allocated = 0;
  }

  private get native(): NativeInstance {
    if (!this.instance) throw new KvError('backend', 'wasm: the backend was disposed of.');
    return this.instance;
  }

  private get c() {
    return this.native.exports;
  }

  private own(buffer: KernelBuffer): WasmBuffer {
    ensure(
      buffer instanceof WasmBuffer && buffer.owner === this,
      'shape',
      () => 'wasm: this buffer belongs to another backend.',
    );
    ensure(!buffer.freed, 'shape', () => 'wasm: this buffer was freed before.');
    return buffer;
  }

  private at(t: Tensor): number {
    return this.own(t.buffer).address + t.offset;
  }

  /** Address of a region of at least this size; what was in it may be lost. */
  private reserve(region: { address: number; sizeBytes: number }, sizeBytes: number): number {
    if (region.sizeBytes >= sizeBytes) return region.address;
    const { heap } = this.native;
    const larger = Math.ceil(sizeBytes * 1.25);
    const address = heap.allocate(larger);
    if (region.sizeBytes > 0) heap.free(region.address);
    region.address = address;
    region.sizeBytes = larger;
    return address;
  }

  private table(length: number): { address: number; words: Uint32Array } {
    const address = this.reserve(this.tables, length * 4);
    return { address, words: new Uint32Array(this.native.heap.memory.buffer, address, length) };
  }

  /** Writes the C structs Shape, Segment[] and Page[] of native/attend.c, in this order. */
  private layOut(segments: readonly Segment[], shape: AttendShape) {
    const segmentsFrom = 6;
    const segmentWords = 14;
    const pagesFrom = segmentsFrom + segments.length * segmentWords;
    const nPages = segments.reduce((sum, { pages }) => sum + pages.length, 0);
    const { address, words } = this.table(pagesFrom + nPages * 4);
    const { n, start, nHeads, nKvHeads, headDimK, headDimV } = shape;
    words.set([n, start, nHeads, nKvHeads, headDimK, headDimV]);
    let to = pagesFrom;
    segments.forEach((s, i) => {
      const fields = [
        ...[this.at(s.query), s.queryScales ? this.at(s.queryScales) : 0, this.at(s.scale)],
        address + to * 4,
        ...[keyFormCodes[s.keyForm], valueFormCodes[s.valueForm], s.pageLength, s.first, s.length],
        ...[Math.min(s.minDistance, maxInt32), Math.min(s.maxDistance, maxInt32)],
        ...[s.keyForm === 'sketch' || s.keyForm === 'codes' ? s.query.shape[2] : 0],
        ...[f32Bits(s.skip ?? 0), 0],
      ];
      words.set(fields, segmentsFrom + i * segmentWords);
      for (const { keys, keyScales, values, valueParams } of s.pages) {
        words[to++] = this.at(keys);
        words[to++] = keyScales ? this.at(keyScales) : 0;
        words[to++] = this.at(values);
        words[to++] = valueParams ? this.at(valueParams) : 0;
      }
    });
    const segmentsAt = address + segmentsFrom * 4;
    const layout = [segmentsAt, segments.length, address, this.threads];
    const scratch = this.reserve(this.scratch, this.c.attend_scratch_bytes(...layout) >>> 0);
    return { segmentsAt, shapeAt: address, scratch };
  }

  /** Turns a kernel's status into an error about its input. */
  private refuse(kernel: string, result: number, input: Tensor): void {
    if (result === 0) return;
    ensure(
      result !== status.workerDied,
      'backend',
      () => `${kernel}: a worker thread died. Start the backend anew, with fewer threads.`,
    );
    const values = this.view(input);
    const isBad = (v: number) =>
      result === status.notFinite ? !Number.isFinite(v) : Math.abs(v) > 65504;
    const bad = values.findIndex(isBad);
    throw result === status.notFinite
      ? new KvError(
          'not-finite',
          `${kernel}: element ${bad} is ${values[bad]}. The model's weights or input are damaged.`,
        )
      : new KvError(
          'range',
          `${kernel}: a value is ${values[bad]}; f16 holds up to 65504. Use the f32 cache.`,
        );
  }
}

function f32Bits(x: number): number {
  return new Uint32Array(Float32Array.of(x).buffer)[0];
}
