import { ensure, KvError } from '../errors/errors.ts';
import { Scratch, StructWriter } from './call-memory.ts';
import { check, checkAttend } from './check.ts';
import type {
  AttendShape,
  Codec,
  FieldCounts,
  HostArray,
  KernelBuffer,
  Kernels,
  LinearPart,
  Page,
  RopeStyle,
  Segment,
  Tensor,
} from './kernels.ts';
import type { KernelExports, Machine } from './machine.ts';
import { bytesOf, hostView } from './tensor.ts';
import { elementCount, weightDTypes } from '../math/dtype.ts';

/** Weights are numbered as in native/elementwise.h, forms as in native/attend.c. */
const dtypeCodes = Object.fromEntries(weightDTypes.map((dtype, code) => [dtype, code]));
const keyFormCodes = { f32: 0, f16: 1, sketch: 2, codes: 3 } as const;
const valueFormCodes = { f32: 0, f16: 1, affine4: 2, fields: 3 } as const;
/** As in native/codes.c. */
const scaleRuleCodes = { unbiased: 0, 'least-squares': 1, norm: 2, none: 3 } as const;
const status = { notFinite: 1, outOfRange: 2, workerDied: 3 } as const;
const maxInt32 = 0x7fffffff;

class CompiledBuffer implements KernelBuffer {
  readonly owner: CompiledKernels;
  readonly address: number;
  readonly sizeBytes: number;
  readonly isFile: boolean;
  freed = false;

  constructor(owner: CompiledKernels, address: number, sizeBytes: number, isFile = false) {
    this.owner = owner;
    this.address = address;
    this.sizeBytes = sizeBytes;
    this.isFile = isFile;
  }
}

/** Checks the call, lays out pointers, calls the C kernel of the same name. */
export class CompiledKernels implements Kernels {
  readonly backend: Machine['backend'];
  readonly maxBytes: number;
  readonly description: string;
  readonly threads: number;
  private running: Machine | undefined;
  private allocated = 0;
  /** The structs of one call, and what a kernel needs to work in. */
  private readonly structs = new Scratch();
  private readonly scratch = new Scratch();
  private readonly pageTables = new WeakMap<
    readonly Page[],
    { readonly words: Uint32Array; readonly buffers: readonly CompiledBuffer[] }
  >();

  constructor(machine: Machine) {
    this.running = machine;
    this.backend = machine.backend;
    this.maxBytes = machine.maxBytes;
    this.description = machine.description;
    this.threads = machine.threads;
  }

  get allocatedBytes(): number {
    return this.allocated;
  }

  alloc(sizeBytes: number): KernelBuffer {
    const buffer = new CompiledBuffer(this, this.machine.allocate(sizeBytes), sizeBytes);
    this.allocated += sizeBytes;
    return buffer;
  }

  free(buffer: KernelBuffer): void {
    const own = this.own(buffer);
    this.machine.free(own.address);
    own.freed = true;
    if (!own.isFile) this.allocated -= own.sizeBytes;
  }

  mapFile(descriptor: number, offset: number, sizeBytes: number): KernelBuffer | undefined {
    const address = this.machine.mapFile?.(descriptor, offset, sizeBytes);
    if (address === undefined) return undefined;
    return new CompiledBuffer(this, address, sizeBytes, true);
  }

  view(t: Tensor): HostArray {
    const { buffer, start } = this.machine.memory(this.own(t.buffer).address);
    return hostView(t, buffer, start);
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
    const list = this.structWriter(ids.length);
    list.wordsOf(ids);
    const [tableAt, outAt] = [this.at(table), this.at(out)];
    const columns = table.shape[1];
    this.c.embed(tableAt, dtypeCodes[table.dtype], columns, list.start, ids.length, outAt);
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
    const scratch = this.work(this.c.linear_scratch_bytes(n, columns, this.threads));
    const list = this.structWriter(parts.length * 6);
    for (const { weight, out } of parts) {
      list.address(this.at(weight));
      list.address(this.at(out));
      list.word(weight.shape[0]);
      list.word(dtypeCodes[weight.dtype]);
    }
    const result = this.c.linear(this.at(x), n, columns, list.start, parts.length, scratch);
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
    const [n, heads, d] = x.shape;
    this.c.add_bias(this.at(x), this.at(bias), n, heads, d, bias.shape[0]);
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
    const codecAt = this.layOutCodec(codec, codec.project);
    const target = [this.at(keys), keys.shape[1], keyScales ? this.at(keyScales) : 0, slot];
    const source = [this.at(x), n, nKvHeads, d, codecAt, codec.gain];
    this.refuse('storeCodes', this.c.store_codes(...source, ...target), x);
  }

  queryTables(q: Tensor, codec: Codec, tables: Tensor, scales: Tensor): void {
    check.queryTables(q, codec, tables, scales);
    const [n, nHeads, d] = q.shape;
    const codecAt = this.layOutCodec(codec, codec.queryProject);
    const target = [this.at(tables), this.at(scales)];
    const result = this.c.query_tables(this.at(q), n, nHeads, d, codecAt, ...target);
    this.refuse('queryTables', result, q);
  }

  storeAffine(x: Tensor, codes: Tensor, params: Tensor, slot: number): void {
    check.storeAffine(x, codes, params, slot);
    const [n, heads, d] = x.shape;
    const target = [this.at(codes), this.at(params), codes.shape[1], slot];
    this.refuse('storeAffine', this.c.store_affine(this.at(x), n, heads, d, ...target), x);
  }

  turn(x: Tensor, matrices: Tensor): void {
    check.turn(x, matrices);
    const [n, heads, d] = x.shape;
    const of = [this.at(matrices), dtypeCodes[matrices.dtype], matrices.shape[0]];
    this.refuse('turn', this.c.turn(this.at(x), n, heads, d, ...of), x);
  }

  storeFields(
    x: Tensor,
    weights: Tensor,
    codes: Tensor,
    scales: Tensor,
    fields: FieldCounts,
    slot: number,
  ): void {
    check.storeFields(x, weights, codes, scales, fields, slot);
    const [n, heads, d] = x.shape;
    const source = [this.at(x), n, heads, d, this.at(weights)];
    const target = [this.at(codes), this.at(scales), codes.shape[1], slot];
    const counts = [fields.fours, fields.twos];
    this.refuse('storeFields', this.c.store_fields(...source, ...target, ...counts), x);
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
    this.running?.close();
    this.running = undefined;
    this.allocated = 0;
  }

  private get machine(): Machine {
    if (!this.running) {
      throw new KvError('backend', `${this.backend}: the backend was disposed of.`);
    }
    return this.running;
  }

  private get c(): KernelExports {
    return this.machine.exports;
  }

  private own(buffer: KernelBuffer): CompiledBuffer {
    ensure(
      buffer instanceof CompiledBuffer && buffer.owner === this,
      'shape',
      () => `${this.backend}: this buffer belongs to another backend.`,
    );
    ensure(!buffer.freed, 'shape', () => `${this.backend}: this buffer was freed before.`);
    return buffer;
  }

  private at(t: Tensor): number {
    return this.own(t.buffer).address + t.offset;
  }

  /** Address of memory that a kernel may use during its call. */
  private work(sizeBytes: number): number {
    return this.scratch.at(this.machine, sizeBytes);
  }

  private structWriter(words: number): StructWriter {
    return new StructWriter(this.machine, this.structs.at(this.machine, words * 4), words);
  }

  /** Writes the C struct Codec of native/codes.c. @param project which of its matrices is used */
  private layOutCodec({ levels, places, rows, rule }: Codec, project: Tensor): number {
    const struct = this.structWriter(4 * this.machine.addressWords + 6);
    for (const t of [project, levels, places, rows]) struct.address(this.at(t));
    struct.word(dtypeCodes[project.dtype]);
    struct.word(project.shape[0]);
    struct.word(dtypeCodes[levels.dtype]);
    struct.word(levels.shape[0]);
    struct.word(levels.shape[1]);
    struct.word(scaleRuleCodes[rule]);
    return struct.start;
  }

  /** Writes the C structs Shape, Segment[] and Page[] of native/attend.c, in this order. */
  private layOut(segments: readonly Segment[], shape: AttendShape) {
    const tables = segments.map(({ pages }) => this.pageTable(pages));
    const shapeWords = 6;
    const segmentWords = this.machine.addressWords === 1 ? 16 : 22;
    const pagesFrom = shapeWords + segments.length * segmentWords;
    const pagesWords = tables.reduce((sum, { length }) => sum + length, 0);
    const structs = this.structWriter(pagesFrom + pagesWords);
    const { n, start, nHeads, nKvHeads, headDimK, headDimV } = shape;
    for (const size of [n, start, nHeads, nKvHeads, headDimK, headDimV]) structs.word(size);
    let pagesAt = structs.start + pagesFrom * 4;
    segments.forEach((s, i) => {
      structs.address(this.at(s.query));
      structs.address(s.queryScales ? this.at(s.queryScales) : 0);
      structs.address(this.at(s.scale));
      structs.address(pagesAt);
      structs.word(keyFormCodes[s.keyForm]);
      structs.word(valueFormCodes[s.valueForm]);
      for (const size of [s.pageLength, s.first, s.length]) structs.word(size);
      structs.word(Math.min(s.minDistance, maxInt32));
      structs.word(Math.min(s.maxDistance, maxInt32));
      structs.word(s.keyForm === 'sketch' || s.keyForm === 'codes' ? s.query.shape[2] : 0);
      structs.float(s.skip ?? 0);
      structs.word(s.fields?.fours ?? 0);
      structs.word(s.fields?.twos ?? 0);
      structs.address(0);
      pagesAt += tables[i].byteLength;
    });
    for (const table of tables) structs.wordsOf(table);
    const [shapeAt, segmentsAt] = [structs.start, structs.start + shapeWords * 4];
    const layout = [segmentsAt, segments.length, shapeAt, this.threads];
    const scratch = this.work(this.c.attend_scratch_bytes(...layout));
    return { segmentsAt, shapeAt, scratch };
  }

  /** The C structs Page[] of native/attend.c, written once for each list of pages. */
  private pageTable(pages: readonly Page[]): Uint32Array {
    const known = this.pageTables.get(pages);
    if (known) {
      for (const buffer of known.buffers) if (buffer.freed) this.own(buffer);
      return known.words;
    }
    const { addressWords } = this.machine;
    const words = new Uint32Array(pages.length * 4 * addressWords);
    const buffers = new Set<CompiledBuffer>();
    let next = 0;
    for (const { keys, keyScales, values, valueParams } of pages) {
      for (const t of [keys, keyScales, values, valueParams]) {
        const address = t ? this.at(t) : 0;
        words[next] = address;
        if (addressWords === 2) words[next + 1] = address / 2 ** 32;
        next += addressWords;
        if (t) buffers.add(this.own(t.buffer));
      }
    }
    this.pageTables.set(pages, { words, buffers: [...buffers] });
    return words;
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
