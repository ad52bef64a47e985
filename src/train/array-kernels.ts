import type { ValueCoder } from '../cache/value-coder.ts';
import { unpackAffine } from '../kernels/affine.ts';
import { codePlace } from '../kernels/codes.ts';
import { fieldBytes, fieldLevels } from '../kernels/fields.ts';
import type { Codec, Kernels, RopeStyle, Tensor } from '../kernels/kernels.ts';
import { allocTensor, bytesOf, tensor } from '../kernels/tensor.ts';
import { dequantize } from '../math/blocks.ts';
import { f16ToF32 } from '../math/f16.ts';
import { elementCount, tensorSizeBytes, type DType } from '../math/dtype.ts';

/**
 * The engine's kernels over arrays of TypeScript. Each call copies in and out, which costs little
 * beside a matrix product, and lets a reverse pass be written as plainly as it is thought.
 */
export class ArrayKernels {
  /** buffers that calls lay their arguments in, by what for; they only grow */
  private readonly held = new Map<string, Tensor>();
  private readonly turned = new Map<Tensor, Tensor>();

  constructor(readonly kernels: Kernels) {}

  /** x w^T. @param x [n, columns] @param weight [rows, columns] @returns [n, rows] */
  linear(x: Float32Array, weight: Tensor): Float32Array {
    const [rows, columns] = weight.shape;
    const n = x.length / columns;
    const out = this.room('out', 'f32', [n, rows]);
    this.kernels.linear(this.put('x', x, [n, columns]), [{ weight, out }]);
    return this.take(out);
  }

  /** x w^T of two arrays with rows of `columns`. */
  product(x: Float32Array, w: Float32Array, columns: number): Float32Array {
    return this.linear(x, this.put('weight', w, [w.length / columns, columns]));
  }

  /** x w, with w a weight of the model in f32: what takes gradients back through `linear`. */
  linearBack(x: Float32Array, weight: Tensor): Float32Array {
    let turned = this.turned.get(weight);
    if (!turned) {
      const [rows, columns] = weight.shape;
      const bytes = this.kernels.view(bytesOf(weight)) as Uint8Array;
      const data = transpose(dequantize(weight.dtype, bytes, rows * columns), columns);
      turned = allocTensor(this.kernels, 'f32', [columns, rows]);
      this.kernels.write(turned, data);
      this.turned.set(weight, turned);
    }
    return this.linear(x, turned);
  }

  embed(table: Tensor, ids: Int32Array): Float32Array {
    const out = this.room('out', 'f32', [ids.length, table.shape[1]]);
    this.kernels.embed(table, ids, out);
    return this.take(out);
  }

  rmsNorm(x: Float32Array, weight: Tensor, epsilon: number): Float32Array {
    const [d] = weight.shape;
    const t = this.put('x', x, [x.length / d, d]);
    this.kernels.rmsNorm(t, weight, epsilon, t);
    return this.take(t);
  }

  /** x + bias, row by row. @param bias [heads, headDim] */
  addBias(x: Float32Array, bias: Tensor): Float32Array {
    const [heads, d] = bias.shape;
    const t = this.put('x', x, [x.length / (heads * d), heads, d]);
    this.kernels.addBias(t, bias);
    return this.take(t);
  }

  /** @param table (cos, sin) of each pair, [n, pairs, 2] */
  rope(
    x: Float32Array,
    shape: readonly [n: number, heads: number, headDim: number],
    table: Float32Array,
    style: RopeStyle,
  ): Float32Array {
    const t = this.put('x', x, shape);
    const pairs = table.length / shape[0] / 2;
    this.kernels.rope(t, this.put('table', table, [shape[0], pairs, 2]), style);
    return this.take(t);
  }

  swiglu(gate: Float32Array, up: Float32Array): Float32Array {
    const t = this.put('x', gate, [gate.length]);
    this.kernels.swiglu(t, this.put('weight', up, [up.length]));
    return this.take(t);
  }

  /**
   * Signs of a projection as 1 and -1, bit for bit those that a cache stores.
   * @param x f32 [n, heads, d] @param projection i8 [nKvHeads, bits, d] @returns [heads][n, bits]
   */
  sketchSigns(
    x: Float32Array,
    heads: number,
    projection: Int8Array,
    [nKvHeads, bits, d]: readonly [number, number, number],
  ): Float32Array[] {
    const n = x.length / heads / d;
    const page = this.room('out', 'u32', [heads, n, bits / 32]);
    const r = this.room('projection', 'i8', [nKvHeads, bits, d]);
    this.kernels.write(r, projection);
    this.kernels.storeSketch(this.put('x', x, [n, heads, d]), r, page, 0);
    const words = this.kernels.view(page) as Uint32Array;
    return Array.from({ length: heads }, (_, head) => {
      const signs = new Float32Array(n * bits);
      const from = head * n * bits;
      for (let i = 0; i < signs.length; i++) {
        signs[i] = ((words[(from + i) >> 5] >>> (i & 31)) & 1) * 2 - 1;
      }
      return signs;
    });
  }

  /** Values as their 4-bit codes say them, bit for bit as `h1b` stores them. @param x [n, heads, d] */
  affineRoundTrip(x: Float32Array, [heads, d]: readonly [number, number]): Float32Array {
    const n = x.length / heads / d;
    const rowBytes = d / 2;
    const codes = this.room('out', 'u8', [heads, n, rowBytes]);
    const params = this.room('params', 'f16', [heads, n, 2]);
    this.kernels.storeAffine(this.put('x', x, [n, heads, d]), codes, params, 0);
    const [bytes, halves] = [codes, params].map((t) => this.kernels.view(t));
    const out = new Float32Array(x.length);
    for (let row = 0; row < n * heads; row++) {
      const [low, step] = [f16ToF32(halves[2 * row]), f16ToF32(halves[2 * row + 1])];
      const at = ((row % n) * heads + Math.floor(row / n)) * d;
      const own = unpackAffine(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), 4);
      for (let i = 0; i < d; i++) out[at + i] = low + step * own[i];
    }
    return out;
  }

  /** Values as their fields say them, bit for bit as `bitplane` stores them. @param x [n, heads, d] */
  fieldsRoundTrip(
    x: Float32Array,
    [heads, d]: readonly [number, number],
    coder: ValueCoder,
  ): Float32Array {
    const n = x.length / heads / d;
    const rowBytes = fieldBytes(coder.fields);
    const values = this.room('out', 'u8', [heads, n, rowBytes]);
    const valueParams = this.room('params', 'f16', [heads, n]);
    const rows = this.put('x', x, [n, heads, d]);
    coder.turn(rows);
    coder.store(rows, { values, valueParams }, 0);
    const [bytes, halves] = [values, valueParams].map((t) => this.kernels.view(t));
    const out = new Float32Array(x.length);
    for (let row = 0; row < n * heads; row++) {
      const own = bytes.subarray(row * rowBytes, (row + 1) * rowBytes) as Uint8Array;
      const scale = f16ToF32(halves[row]);
      const levels = fieldLevels(own, coder.fields, d).map((level) => scale * level);
      out.set(levels, ((row % n) * heads + Math.floor(row / n)) * d);
    }
    const turned = this.put('x', out, [n, heads, d]);
    coder.turnBack(turned);
    return this.take(turned);
  }

  /**
   * Codes of keys, bit for bit those that a cache stores.
   * @param x [n, heads, d] @returns codes [heads, n, groups] and the scale of each key, [heads, n]
   */
  keyCodes(
    x: Float32Array,
    [heads, d]: readonly [number, number],
    codec: Codec,
  ): { readonly codes: Uint8Array; readonly scales: Float32Array } {
    const n = x.length / heads / d;
    const groups = codec.levels.shape[1];
    const slots = 32 * Math.ceil(n / 32);
    const keys = this.room('out', 'u8', [heads, slots / 32, groups, 16]);
    const halves = this.room('params', 'f16', [heads, slots]);
    this.kernels.storeCodes(this.put('x', x, [n, heads, d]), codec, keys, halves, 0);
    const [bytes, bits] = [keys, halves].map((t) => this.kernels.view(t));
    const codes = new Uint8Array(heads * n * groups);
    const scales = new Float32Array(heads * n);
    for (let row = 0; row < heads * n; row++) {
      const [head, slot] = [Math.floor(row / n), row % n];
      scales[row] = f16ToF32(bits[head * slots + slot]);
      for (let g = 0; g < groups; g++) {
        const { byte, shift } = codePlace(keys.shape, head, slot, g);
        codes[row * groups + g] = (bytes[byte] >> shift) & 15;
      }
    }
    return { codes, scales };
  }

  dispose(): void {
    for (const { buffer } of [...this.held.values(), ...this.turned.values()]) {
      this.kernels.free(buffer);
    }
    this.held.clear();
    this.turned.clear();
  }

  private put(name: string, data: Float32Array, shape: readonly number[]): Tensor {
    const t = this.room(name, 'f32', shape);
    this.kernels.write(t, data);
    return t;
  }

  private room(name: string, dtype: DType, shape: readonly number[]): Tensor {
    const needed = tensorSizeBytes(dtype, shape);
    let held = this.held.get(name);
    if (!held || held.buffer.sizeBytes < needed) {
      if (held) this.kernels.free(held.buffer);
      this.held.delete(name);
      held = allocTensor(this.kernels, 'u8', [needed]);
      this.held.set(name, held);
    }
    return tensor(held.buffer, dtype, shape);
  }

  private take(t: Tensor): Float32Array {
    return (this.kernels.view(t) as Float32Array).slice(0, elementCount(t.shape));
  }
}

/** @param x [rows, columns] @returns [columns, rows] */
export function transpose(x: Float32Array, columns: number): Float32Array {
  const rows = x.length / columns;
  const out = new Float32Array(x.length);
  // In squares, so that both arrays stay in the cache.
  for (let top = 0; top < rows; top += 16) {
    const bottom = Math.min(rows, top + 16);
    for (let c = 0; c < columns; c++) {
      for (let r = top; r < bottom; r++) out[c * rows + r] = x[r * columns + c];
    }
  }
  return out;
}

/** @param x [rows, columns] @returns the first `count` columns, [rows, count] */
export function firstColumns(x: Float32Array, columns: number, count: number): Float32Array {
  if (count === columns) return x;
  const rows = x.length / columns;
  const out = new Float32Array(rows * count);
  for (let r = 0; r < rows; r++) {
    out.set(x.subarray(r * columns, r * columns + count), r * count);
  }
  return out;
}

/** to += x, element by element; x may be shorter. */
export function addTo(to: Float32Array, x: Float32Array): void {
  for (let i = 0; i < x.length; i++) to[i] += x[i];
}
