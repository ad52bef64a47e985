import { describe, expect, it } from 'vitest';
import { f16ToF32 } from '../math/f16.ts';
import { Random } from '../math/random.ts';
import { affine4Values, describeRefusals, hostileRows, normals } from './kernels-contract.ts';
import type { Segment } from './kernels.ts';
import { ReferenceKernels } from './reference.ts';
import { allocTensor } from './tensor.ts';

describeRefusals('reference', () => Promise.resolve(new ReferenceKernels()));

const kernels = new ReferenceKernels();

function f32(shape: readonly number[], values: ArrayLike<number>) {
  const t = allocTensor(kernels, 'f32', shape);
  kernels.write(t, Float32Array.from(values));
  return t;
}

function u32(shape: readonly number[], values: readonly number[]) {
  const t = allocTensor(kernels, 'u32', shape);
  kernels.write(t, Uint32Array.from(values));
  return t;
}

describe('reference: by hand', () => {
  it('rmsNorm of (3, 4) is (3, 4) / sqrt(12.5), weighted', () => {
    const x = f32([1, 2], [3, 4]);
    kernels.rmsNorm(x, f32([2], [1, -2]), 0, x);
    const [a, b] = kernels.view(x);
    expect(a).toBeCloseTo(0.848528, 6);
    expect(b).toBeCloseTo(-2.262742, 6);
  });

  it('linear with q8_0 rounds its input to codes of max / 127', () => {
    const weight = allocTensor(kernels, 'q8_0', [1, 32]);
    const block = new Uint8Array(34);
    block.set([0x00, 0x38, 2, 253]); // scale 0.5, codes 2 and -3
    kernels.write(weight, block);
    const x = new Float32Array(32);
    x.set([127, 10.5]); // codes 127 and 11
    const out = allocTensor(kernels, 'f32', [1, 1]);
    kernels.linear(f32([1, 32], x), [{ weight, out }]);
    expect([...kernels.view(out)]).toEqual([0.5 * (2 * 127 - 3 * 10)]);
  });

  it('rope by a quarter turn', () => {
    const quarter = f32([1, 1, 2], [0, 1]);
    const adjacent = f32([1, 1, 4], [1, 2, 3, 4]);
    kernels.rope(adjacent, quarter, 'adjacent');
    expect([...kernels.view(adjacent)]).toEqual([-2, 1, 3, 4]);
    const halves = f32([1, 1, 4], [1, 2, 3, 4]);
    kernels.rope(halves, f32([1, 2, 2], [0, 1, 1, 0]), 'halves');
    expect([...kernels.view(halves)]).toEqual([-3, 2, 1, 4]);
  });

  it('swiglu: silu(0) = 0, silu(ln 3) = 0.75 ln 3', () => {
    const gate = f32([1, 2], [0, Math.log(3)]);
    kernels.swiglu(gate, f32([1, 2], [5, 2]));
    expect(kernels.view(gate)[0]).toBe(0);
    expect(kernels.view(gate)[1]).toBeCloseTo(1.5 * Math.log(3), 6);
  });

  it('attend weighs values by the softmax, and only what is visible', () => {
    const page = {
      keys: f32([1, 4, 1], [0, Math.log(3), 0, 50]),
      values: f32([1, 4, 2], [1, 10, 2, 20, 1000, 1000, 5, 7]),
    };
    const segment: Segment = {
      ...{ keyForm: 'f32', valueForm: 'f32', pages: [page], pageLength: 4, first: 10, length: 4 },
      ...{ query: f32([3, 1, 1], [1, 1, 1]), scale: f32([1], [1]) },
      ...{ minDistance: 1, maxDistance: 2 },
    };
    const out = allocTensor(kernels, 'f32', [3, 1, 2]);
    // Queries at 10, 11 and 12 see nothing, key 10, and keys 10 and 11 with odds of 1 to 3.
    const shape = { n: 3, start: 10, nHeads: 1, nKvHeads: 1, headDimK: 1, headDimV: 2 };
    kernels.attend([segment], shape, out);
    const seen = [...kernels.view(out)];
    expect(seen.slice(0, 4)).toEqual([0, 0, 1, 10]);
    expect(seen[4]).toBeCloseTo(1.75, 6);
    expect(seen[5]).toBeCloseTo(17.5, 5);
  });
});

describe('reference: sketches', () => {
  it('agree with integers computed another way', () => {
    const random = new Random(31);
    const [d, bits, heads] = [24, 64, 4];
    const x = normals(random, heads * d);
    const projection = Int8Array.from({ length: 2 * bits * d }, () => random.uint32());
    const p = allocTensor(kernels, 'i8', [2, bits, d]);
    kernels.write(p, projection);
    const page = allocTensor(kernels, 'u32', [heads, 1, 2]);
    kernels.storeSketch(f32([1, heads, d], x), p, page, 0);
    const words = kernels.view(page);
    for (let h = 0; h < heads; h++) {
      const row = x.subarray(h * d, (h + 1) * d);
      const factor = Math.fround(32767 / Math.max(...row.map(Math.abs)));
      for (let bit = 0; bit < bits; bit++) {
        let sum = 0n;
        row.forEach((v, c) => {
          const scaled = Math.fround(v * factor);
          const q = scaled < 0 ? -Math.round(-scaled) : Math.round(scaled);
          sum += BigInt(q) * BigInt(projection[((h >> 1) * bits + bit) * d + c]);
        });
        const set = (words[h * 2 + (bit >> 5)] >>> (bit & 31)) & 1;
        expect(set).toBe(sum >= 0n ? 1 : 0);
      }
    }
  });

  it('score bits - 2 differing, by the binary digits', () => {
    const [query, keys] = [
      [0xffff0000, 5],
      [0xffff0000, 5, 0x0000ffff, 0xfffffffa, 0, 4],
    ];
    const page = { keys: u32([1, 3, 2], keys), values: f32([1, 3, 1], [0, 0, 0]) };
    const segment: Segment = {
      ...{ keyForm: 'sketch', valueForm: 'f32', pages: [page], pageLength: 3, first: 0, length: 3 },
      ...{ query: u32([1, 1, 2], query), scale: f32([1], [0.5]), minDistance: 0, maxDistance: 9 },
    };
    const out = allocTensor(kernels, 'f32', [1, 1, 3]);
    const shape = { n: 1, start: 2, nHeads: 1, nKvHeads: 1, headDimK: 8, headDimV: 1 };
    kernels.scores(segment, shape, out);
    const digits = (a: number, b: number) => ((a ^ b) >>> 0).toString(2).replaceAll('0', '').length;
    const expected = [0, 1, 2].map((j) => {
      return 0.5 * (64 - 2 * (digits(query[0], keys[2 * j]) + digits(query[1], keys[2 * j + 1])));
    });
    expect(expected).toEqual([32, -32, 15]);
    expect([...kernels.view(out)]).toEqual([32, -32, 15]);
  });
});

describe('reference: affine4', () => {
  it('keeps every value within half a stored step', () => {
    const d = 64;
    const x = hostileRows(new Random(32), 40, d, 65504);
    for (let row = 0; row < 40; row++) {
      const values = x.subarray(row * d, (row + 1) * d);
      const codes = allocTensor(kernels, 'u8', [1, 1, d / 2]);
      const params = allocTensor(kernels, 'f16', [1, 1, 2]);
      kernels.storeAffine4(f32([1, 1, d], values), codes, params, 0);
      const step = f16ToF32(kernels.view(params)[1]);
      const back = affine4Values(kernels.view(codes), kernels.view(params));
      // The code is computed in f32: its rounding may put a value in the middle on either side.
      const slack = 2 ** -20 * Math.max(...values.map(Math.abs));
      values.forEach((v, i) => expect(Math.abs(back[i] - v)).toBeLessThanOrEqual(step / 2 + slack));
    }
  });

  it('by hand: 0, 1, .. 15 are their own codes, low nibbles first', () => {
    const codes = allocTensor(kernels, 'u8', [1, 1, 8]);
    const params = allocTensor(kernels, 'f16', [1, 1, 2]);
    kernels.storeAffine4(f32([1, 1, 16], [...Array(16).keys()]), codes, params, 0);
    expect([...kernels.view(params)]).toEqual([0, 0x3c00]);
    expect([...kernels.view(codes)]).toEqual([0x80, 0x91, 0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7]);
  });
});
