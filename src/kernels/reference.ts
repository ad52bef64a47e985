import { ensure, KvError } from '../errors/errors.ts';
import { f16ToF32, f32ToF16 } from '../math/f16.ts';
import { decodeBlocks } from '../math/blocks.ts';
import { dtypeBlocks, elementCount, type DType } from '../math/dtype.ts';
import { packAffine, quantizeAffine, unpackAffine } from './affine.ts';
import { encodeFields, fieldBytes, fieldLevels } from './fields.ts';
import { checkAttend, check } from './check.ts';
import { codePlace, encodeKey, tableOf } from './codes.ts';
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
import { bytesOf, hostView, rows } from './tensor.ts';

class HostBuffer implements KernelBuffer {
  readonly memory: ArrayBuffer;
  readonly sizeBytes: number;
  freed = false;

  constructor(sizeBytes: number) {
    this.memory = new ArrayBuffer(sizeBytes);
    this.sizeBytes = sizeBytes;
  }
}

/**
 * The oracle: every kernel as plainly as it can be written, sums in f64. Use it to check another
 * backend or to read what a kernel means; it is some hundred times slower than they are.
 */
export class ReferenceKernels implements Kernels {
  readonly backend = 'reference';
  readonly description: string;
  readonly threads = 1;
  readonly maxBytes = Infinity;
  private allocated = 0;

  /** @param reason why this backend was chosen, for the description */
  constructor(reason?: string) {
    this.description = `reference: plain TypeScript, one thread${reason ? ` (${reason})` : ''}`;
  }

  get allocatedBytes(): number {
    return this.allocated;
  }

  alloc(sizeBytes: number): KernelBuffer {
    try {
      const buffer = new HostBuffer(sizeBytes);
      this.allocated += sizeBytes;
      return buffer;
    } catch (cause) {
      throw new KvError(
        'memory',
        `reference: cannot allocate ${sizeBytes} bytes beside the ${this.allocated} in use. Use a smaller context or a smaller model.`,
        { cause },
      );
    }
  }

  free(buffer: KernelBuffer): void {
    const host = own(buffer);
    ensure(!host.freed, 'shape', () => 'reference: this buffer was freed before.');
    host.freed = true;
    this.allocated -= host.sizeBytes;
  }

  view(t: Tensor): HostArray {
    const host = own(t.buffer);
    ensure(!host.freed, 'shape', () => 'reference: this buffer was freed.');
    return hostView(t, host.memory, 0);
  }

  read(t: Tensor): Promise<HostArray> {
    return Promise.resolve(this.view(t).slice());
  }

  write(t: Tensor, data: HostArray): void {
    check.write(t, data, this.view(t));
    this.view(t).set(data);
  }

  copy(source: Tensor, target: Tensor): void {
    check.copy(source, target);
    this.view(bytesOf(target)).set(this.view(bytesOf(source)));
  }

  embed(table: Tensor, ids: Int32Array, out: Tensor): void {
    check.embed(table, ids, out);
    const y = this.f32(out);
    const columns = table.shape[1];
    ids.forEach((id, i) => y.set(this.dequantize(rows(table, id, 1)), i * columns));
  }

  rmsNorm(x: Tensor, weight: Tensor, eps: number, out: Tensor): void {
    check.rmsNorm(x, weight, out);
    const [n, d] = x.shape;
    const w = this.f32(weight);
    for (let i = 0; i < n; i++) {
      const row = this.f32(rows(x, i, 1));
      refuseNonFinite('rmsNorm', row);
      const meanSquare = row.reduce((sum, v) => sum + v * v, 0) / d;
      const factor = 1 / Math.sqrt(meanSquare + eps);
      this.f32(rows(out, i, 1)).set(row.map((v, c) => v * factor * w[c]));
    }
  }

  linear(x: Tensor, parts: readonly LinearPart[]): void {
    check.linear(x, parts);
    const [n, columns] = x.shape;
    for (let i = 0; i < n; i++) {
      const input = this.f32(rows(x, i, 1));
      refuseNonFinite('linear', input);
      for (const { weight, out } of parts) {
        const seen = asSeenBy(weight.dtype, input);
        const lost = lostInSums(weight.dtype, input, seen);
        const y = this.f32(rows(out, i, 1));
        for (let r = 0; r < y.length; r++) {
          const w = this.dequantize(rows(weight, r, 1));
          let sum = 0;
          for (let c = 0; c < columns; c++) sum += w[c] * seen[c];
          const minima = lost.length > 0 ? this.minima(rows(weight, r, 1)) : [];
          minima.forEach((minimum, b) => (sum += minimum * lost[b]));
          y[r] = sum;
        }
      }
    }
  }

  rope(x: Tensor, table: Tensor, style: RopeStyle): void {
    check.rope(x, table);
    const [n, heads, d] = x.shape;
    const pairs = table.shape[1];
    const values = this.f32(x);
    const cosSin = this.f32(table);
    for (let i = 0; i < n; i++) {
      for (let h = 0; h < heads; h++) {
        const base = (i * heads + h) * d;
        for (let p = 0; p < pairs; p++) {
          const a = base + (style === 'adjacent' ? 2 * p : p);
          const b = style === 'adjacent' ? a + 1 : a + pairs;
          const cos = cosSin[(i * pairs + p) * 2];
          const sin = cosSin[(i * pairs + p) * 2 + 1];
          const [u, v] = [values[a], values[b]];
          values[a] = u * cos - v * sin;
          values[b] = u * sin + v * cos;
        }
      }
    }
  }

  add(x: Tensor, y: Tensor): void {
    check.sameShape('add', x, y);
    const b = this.f32(y);
    this.f32(x).forEach((v, i, a) => (a[i] = v + b[i]));
  }

  addBias(x: Tensor, bias: Tensor): void {
    check.addBias(x, bias);
    const [, heads, d] = x.shape;
    const b = this.f32(bias);
    this.f32(x).forEach((v, i, a) => {
      const head = Math.floor(((Math.floor(i / d) % heads) * bias.shape[0]) / heads);
      a[i] = v + b[head * d + (i % d)];
    });
  }

  swiglu(gate: Tensor, up: Tensor): void {
    check.sameShape('swiglu', gate, up);
    const u = this.f32(up);
    this.f32(gate).forEach((g, i, a) => (a[i] = (g / (1 + Math.exp(-g))) * u[i]));
  }

  storeRows(x: Tensor, page: Tensor, slot: number): void {
    check.storeRows(x, page, slot);
    const target = this.view(page);
    const d = x.shape[2];
    this.eachRow('storeRows', x, page, slot, (row, at) => {
      if (page.dtype === 'f32') return target.set(row, at * d);
      refuseBeyondF16('storeRows', row);
      target.set(Array.from(row, f32ToF16), at * d);
    });
  }

  storeSketch(x: Tensor, projection: Tensor, page: Tensor, slot: number): void {
    check.storeSketch(x, projection, page, slot);
    const heads = x.shape[1];
    const [nKvHeads, bits, d] = projection.shape;
    const words = bits / 32;
    const r = this.view(projection);
    const target = this.view(page);
    this.eachRow('storeSketch', x, page, slot, (row, at, head) => {
      const q = roundTo15Bits(row);
      const base = Math.floor((head * nKvHeads) / heads) * bits * d;
      target.fill(0, at * words, (at + 1) * words);
      for (let bit = 0; bit < bits; bit++) {
        let sum = 0;
        for (let c = 0; c < d; c++) sum += r[base + bit * d + c] * q[c];
        if (sum >= 0) target[at * words + (bit >> 5)] |= 1 << (bit & 31);
      }
    });
  }

  storeCodes(
    x: Tensor,
    codec: Codec,
    keys: Tensor,
    keyScales: Tensor | undefined,
    slot: number,
  ): void {
    check.storeCodes(x, codec, keys, keyScales, slot);
    const [n, nKvHeads] = x.shape;
    const nibbles = this.view(keys);
    refuseNonFinite('storeCodes', this.f32(x));
    for (let h = 0; h < nKvHeads; h++) {
      const head = {
        project: this.codecMatrix(codec, codec.project, h),
        levels: this.dequantize(rows(codec.levels, h, 1)),
        rows: this.view(codec.rows)[h],
        rule: codec.rule,
        gain: codec.gain,
      };
      const scales = keyScales && this.view(rows(keyScales, h, 1));
      for (let i = 0; i < n; i++) {
        const key = rows({ ...x, shape: [n * nKvHeads, x.shape[2]] }, i * nKvHeads + h, 1);
        const { codes, scale } = encodeKey(this.f32(key), head);
        codes.forEach((code, g) => {
          const { byte, shift } = codePlace(keys.shape, h, slot + i, g);
          nibbles[byte] = (nibbles[byte] & (0xf0 >> shift)) | (code << shift);
        });
        if (scales) scales[slot + i] = scale;
      }
    }
  }

  queryTables(q: Tensor, codec: Codec, tables: Tensor, scales: Tensor): void {
    check.queryTables(q, codec, tables, scales);
    const [n, nHeads, d] = q.shape;
    const nKvHeads = codec.levels.shape[0];
    const queries = this.f32(q);
    refuseNonFinite('queryTables', queries);
    for (let h = 0; h < nHeads; h++) {
      const kvHead = Math.floor((h * nKvHeads) / nHeads);
      const project = this.codecMatrix(codec, codec.queryProject, kvHead);
      const levels = this.dequantize(rows(codec.levels, kvHead, 1));
      for (let i = 0; i < n; i++) {
        const at = (i * nHeads + h) * d;
        const { entries, scale } = tableOf(queries.subarray(at, at + d), project, levels);
        this.view(rows(tables, h, 1)).set(entries, i * entries.length);
        this.f32(scales)[h * n + i] = scale;
      }
    }
  }

  storeAffine(x: Tensor, codes: Tensor, params: Tensor, slot: number): void {
    check.storeAffine(x, codes, params, slot);
    const packed = this.view(codes);
    const minStep = this.view(params);
    this.eachRow('storeAffine', x, codes, slot, (row, at) => {
      refuseBeyondF16('storeAffine', row);
      const quantized = quantizeAffine(row, 4);
      minStep.set([quantized.minimum, quantized.step], at * 2);
      packed.set(packAffine(quantized.codes, 4), (at * row.length) / 2);
    });
  }

  turn(x: Tensor, matrices: Tensor): void {
    check.turn(x, matrices);
    const [n, heads, d] = x.shape;
    const nKvHeads = matrices.shape[0];
    const all = this.f32(x);
    for (let h = 0; h < heads; h++) {
      const matrix = this.dequantize(rows(matrices, Math.floor((h * nKvHeads) / heads), 1));
      for (let i = 0; i < n; i++) {
        const row = all.subarray((i * heads + h) * d, (i * heads + h + 1) * d);
        const out = new Float64Array(d);
        for (let at = 0; at < d * d; at++) out[at % d] += row[Math.floor(at / d)] * matrix[at];
        row.set(out);
      }
    }
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
    const [bytes, halves] = [this.view(codes), this.view(scales)];
    this.eachRow('storeFields', x, codes, slot, (row, at, head) => {
      const { packed, scale } = encodeFields(row, this.f32(rows(weights, head, 1)), fields);
      bytes.set(packed, at * fieldBytes(fields));
      halves[at] = scale;
    });
  }

  scores(segment: Segment, shape: AttendShape, out: Tensor): void {
    checkAttend([segment], shape);
    check.scores(segment, shape, out);
    const logits = this.f32(out);
    for (let h = 0; h < shape.nHeads; h++) {
      for (let i = 0; i < shape.n; i++) {
        for (let j = 0; j < segment.length; j++) {
          logits[(h * shape.n + i) * segment.length + j] = this.logit(segment, shape, h, i, j);
        }
      }
    }
  }

  attend(segments: readonly Segment[], shape: AttendShape, out: Tensor): void {
    checkAttend(segments, shape);
    check.attend(shape, out);
    const { n, nHeads, nKvHeads, headDimV } = shape;
    const y = this.f32(out);
    for (let h = 0; h < nHeads; h++) {
      const kvHead = Math.floor((h * nKvHeads) / nHeads);
      for (let i = 0; i < n; i++) {
        const seen: { logit: number; value: Float32Array }[] = [];
        for (const segment of segments) {
          for (let j = 0; j < segment.length; j++) {
            const logit = this.logit(segment, shape, h, i, j);
            if (logit > -Infinity)
              seen.push({ logit, value: this.value(segment, kvHead, j, headDimV) });
          }
        }
        const max = seen.reduce((m, { logit }) => Math.max(m, logit), -Infinity);
        const total = seen.reduce((sum, { logit }) => sum + Math.exp(logit - max), 0);
        const sums = new Float64Array(headDimV);
        for (const { logit, value } of seen) {
          const weight = Math.exp(logit - max) / total;
          for (let c = 0; c < headDimV; c++) sums[c] += weight * value[c];
        }
        y.set(sums, (i * nHeads + h) * headDimV);
      }
    }
  }

  dispose(): void {
    this.allocated = 0;
  }

  /** All places of a head of a codec, f32 [4G, D]. */
  private codecMatrix(codec: Codec, matrix: Tensor, head: number): Float32Array {
    const [nRows, d] = matrix.shape;
    const places = this.view(rows(codec.places, head, 1));
    const all = new Float32Array(places.length * d);
    places.forEach((row, place) => {
      if (row >= 0 && row < nRows) all.set(this.dequantize(rows(matrix, row, 1)), place * d);
    });
    return all;
  }

  /** Logit of query i, head h for the segment's j-th position; -Infinity where it is not visible. */
  private logit(segment: Segment, shape: AttendShape, h: number, i: number, j: number): number {
    const distance = shape.start + i - (segment.first + j);
    if (distance < segment.minDistance || distance > segment.maxDistance) return -Infinity;
    const { nHeads, nKvHeads, headDimK, n } = shape;
    const kvHead = Math.floor((h * nKvHeads) / nHeads);
    const { page, row } = locate(segment, kvHead, j);
    const query = this.view(segment.query);
    let raw = 0;
    if (segment.keyForm === 'sketch') {
      const words = segment.query.shape[2];
      const keys = this.view(page.keys);
      for (let w = 0; w < words; w++) {
        raw += 32 - 2 * popcount(query[(h * n + i) * words + w] ^ keys[row * words + w]);
      }
      if (segment.queryScales) raw *= this.f32(segment.queryScales)[h * n + i];
    } else if (segment.keyForm === 'codes') {
      const groups = segment.query.shape[2];
      const slot = j % segment.pageLength;
      const keys = this.view(page.keys);
      for (let g = 0; g < groups; g++) {
        const { byte, shift } = codePlace(page.keys.shape, kvHead, slot, g);
        const entry = ((h * n + i) * groups + g) * 16 + ((keys[byte] >> shift) & 15);
        raw += query[entry];
      }
      if (segment.queryScales) raw *= this.f32(segment.queryScales)[h * n + i];
      if (page.keyScales) raw *= f16ToF32(this.view(page.keyScales)[row]);
    } else {
      const key = this.dequantize(rowOf(page.keys, row));
      for (let c = 0; c < headDimK; c++) raw += query[(i * nHeads + h) * headDimK + c] * key[c];
    }
    return raw * this.f32(segment.scale)[h];
  }

  private value(segment: Segment, kvHead: number, j: number, d: number): Float32Array {
    const { page, row } = locate(segment, kvHead, j);
    const { fields, valueForm } = segment;
    const params = page.valueParams && this.view(page.valueParams);
    if (params && fields) {
      const packed = this.view(rowOf(page.values, row)) as Uint8Array;
      return fieldLevels(packed, fields, d).map((level) => f16ToF32(params[row]) * level);
    }
    if (valueForm !== 'affine4') return this.dequantize(rowOf(page.values, row));
    if (!params) throw new KvError('shape', `attend: a page of ${valueForm} has no valueParams.`);
    const [minimum, step] = [f16ToF32(params[row * 2]), f16ToF32(params[row * 2 + 1])];
    const codes = unpackAffine(this.view(rowOf(page.values, row)), 4);
    return Float32Array.from(codes, (code) => minimum + step * code);
  }

  /** Calls `each` with every row of x, its row number in the page, and its head. */
  private eachRow(
    kernel: string,
    x: Tensor,
    page: Tensor,
    slot: number,
    each: (row: Float32Array, at: number, head: number) => void,
  ): void {
    const [n, heads, d] = x.shape;
    const pageLength = page.shape[1];
    const values = this.f32(x);
    refuseNonFinite(kernel, values);
    for (let i = 0; i < n; i++) {
      for (let h = 0; h < heads; h++) {
        const start = (i * heads + h) * d;
        each(values.subarray(start, start + d), h * pageLength + slot + i, h);
      }
    }
  }

  private dequantize(t: Tensor): Float32Array {
    if (t.dtype === 'f32') return this.f32(t);
    return decodeBlocks(t.dtype, this.view(bytesOf(t)) as Uint8Array, elementCount(t.shape));
  }

  /** The minima of a row of q4_1 or q5_1 blocks: the second f16 of each. */
  private minima(row: Tensor): number[] {
    const raw = this.view(row);
    const blockBytes = dtypeBlocks[row.dtype].bytes;
    return Array.from({ length: raw.length / blockBytes }, (_, b) =>
      f16ToF32(raw[b * blockBytes + 2] | (raw[b * blockBytes + 3] << 8)),
    );
  }

  private f32(t: Tensor): Float32Array {
    return this.view(t) as Float32Array;
  }
}

function own(buffer: KernelBuffer): HostBuffer {
  if (buffer instanceof HostBuffer) return buffer;
  throw new KvError('shape', 'reference: this buffer belongs to another backend.');
}

/** Row `row` of a page tensor [heads, P, ...], counting over heads and slots. */
function rowOf(page: Tensor, row: number): Tensor {
  const [heads, pageLength, ...rest] = page.shape;
  return rows({ ...page, shape: [heads * pageLength, ...rest] }, row, 1);
}

function locate(segment: Segment, kvHead: number, j: number): { page: Page; row: number } {
  const page = segment.pages[Math.floor(j / segment.pageLength)];
  return { page, row: kvHead * segment.pageLength + (j % segment.pageLength) };
}

function refuseNonFinite(kernel: string, values: Float32Array): void {
  const bad = values.findIndex((v) => !Number.isFinite(v));
  ensure(
    bad < 0,
    'not-finite',
    () => `${kernel}: element ${bad} is ${values[bad]}. The model's weights or input are damaged.`,
  );
}

function refuseBeyondF16(kernel: string, values: Float32Array): void {
  const bad = values.find((v) => Math.abs(v) > 65504);
  ensure(
    bad === undefined,
    'range',
    () => `${kernel}: a value is ${bad}; f16 holds up to 65504. Use the f32 cache.`,
  );
}

/** Half away from zero, the rounding of C's roundf. */
function roundHalfAway(x: number): number {
  return Math.sign(x) * Math.floor(Math.abs(x) + 0.5);
}

/** The inverse of a scale; a vector too small for one counts as zero. */
function finiteOrZero(inverse: number): number {
  return Number.isFinite(inverse) ? inverse : 0;
}

/** The input of a linear layer in the precision that its weights get it in. */
function asSeenBy(dtype: DType, input: Float32Array): Float32Array {
  if (dtype === 'f32' || dtype === 'bf16') return input;
  if (dtype === 'f16') return input.map(roundTo11Bits);
  return dtype.endsWith('_k') ? roundTripQ8K(input) : roundTripQ8(input);
}

/** x as its q8 codes say it: blocks of 32, scale = max|x| / 127 in 11 bits. */
function roundTripQ8(x: Float32Array): Float32Array {
  return byBlocks(x, 32, (block) => {
    const { codes, scale } = q8Codes(block);
    return block.map((_, i) => roundTo11Bits(scale) * codes[i]);
  });
}

/** The codes of a block of 32, and their scale before it is rounded. */
function q8Codes(block: Float32Array): { codes: number[]; scale: number } {
  const max = block.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const inverse = finiteOrZero(Math.fround(127 / max));
  const codes = Array.from(block, (v) => roundHalfEven(Math.fround(v * inverse)));
  return { codes, scale: Math.fround(max / 127) };
}

/**
 * What the sums of blocks of x, by which the minima of q4_1 and q5_1 are multiplied, have more than
 * the sums of what is seen: they come from scales before rounding, and are rounded themselves.
 */
function lostInSums(dtype: DType, x: Float32Array, seen: Float32Array): number[] {
  if (dtype !== 'q4_1' && dtype !== 'q5_1') return [];
  return Array.from({ length: x.length / 32 }, (_, b) => {
    const { codes, scale } = q8Codes(x.subarray(b * 32, b * 32 + 32));
    const sum = codes.reduce((total, code) => total + code, 0);
    const seenSum = seen.subarray(b * 32, b * 32 + 32).reduce((total, v) => total + v, 0);
    return roundTo11Bits(Math.fround(sum * scale)) - seenSum;
  });
}

/** x as its codes for K types say it: blocks of 256, the value of largest magnitude is -127. */
function roundTripQ8K(x: Float32Array): Float32Array {
  return byBlocks(x, 256, (block) => {
    const extreme = block.reduce((m, v) => (Math.abs(v) > Math.abs(m) ? v : m), 0);
    const inverse = finiteOrZero(Math.fround(-127 / extreme));
    const scale = finiteOrZero(Math.fround(1 / inverse));
    return block.map((v) => scale * Math.min(127, roundHalfEven(Math.fround(v * inverse))));
  });
}

function byBlocks(
  x: Float32Array,
  size: number,
  change: (block: Float32Array) => Float32Array,
): Float32Array {
  const out = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += size) out.set(change(x.subarray(at, at + size)), at);
  return out;
}

function roundHalfEven(x: number): number {
  const low = Math.floor(x);
  const rest = x - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

/** The nearest number with the 11 significant bits of an f16, but the exponent range of an f32. */
function roundTo11Bits(x: number): number {
  const bits = new Uint32Array(Float32Array.of(x).buffer);
  bits[0] = (bits[0] + 0xfff + ((bits[0] >>> 13) & 1)) & ~0x1fff;
  return new Float32Array(bits.buffer)[0];
}

function roundTo15Bits(x: Float32Array): number[] {
  const max = x.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const factor = finiteOrZero(Math.fround(32767 / max));
  return Array.from(x, (v) => roundHalfAway(Math.fround(v * factor)));
}

function popcount(x: number): number {
  let count = 0;
  for (let bits = x >>> 0; bits; bits = (bits & (bits - 1)) >>> 0) count++;
  return count;
}
