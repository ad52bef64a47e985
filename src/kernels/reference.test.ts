import { describe, expect, it } from 'vitest';
import { f16ToF32 } from '../math/f16.ts';
import { Random } from '../math/random.ts';
import { encodeFields, fieldLevels } from './fields.ts';
import { affineValues, hostileRows, normals } from './contract-tools.ts';
import { describeRefusals } from './kernels-contract.ts';
import type { Codec, ScaleRule, Segment } from './kernels.ts';
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

/** One key of a codec with one head, and what the reference stores for it. */
function encode(
  rule: ScaleRule,
  x: ArrayLike<number>,
  c: { project: ArrayLike<number>; levels: ArrayLike<number>; rows: number; gain?: number },
) {
  const [d, groups] = [x.length, c.levels.length / 64];
  const codec: Codec = {
    project: f32([4 * groups, d], c.project),
    queryProject: f32([4 * groups, d], c.project),
    places: allocTensor(kernels, 'i32', [1, 4 * groups]),
    levels: f32([1, groups, 64], c.levels),
    rows: allocTensor(kernels, 'i32', [1]),
    rule,
    gain: c.gain ?? 1,
  };
  kernels.write(
    codec.places,
    Int32Array.from({ length: 4 * groups }, (_, row) => row),
  );
  kernels.write(codec.rows, Int32Array.of(c.rows));
  const keys = allocTensor(kernels, 'u8', [1, 1, groups, 16]);
  const scales = rule === 'none' ? undefined : allocTensor(kernels, 'f16', [1, 32]);
  kernels.storeCodes(f32([1, 1, d], x), codec, keys, scales, 0);
  const codes = Array.from({ length: groups }, (_, g) => kernels.view(keys)[g * 16] & 15);
  const chosen = codes.flatMap((code, g) => {
    return Array.from(c.levels).slice((g * 16 + code) * 4, (g * 16 + code) * 4 + 4);
  });
  return { codec, codes, chosen, scale: scales ? f16ToF32(kernels.view(scales)[0]) : 1 };
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((sum, v, i) => sum + v * b[i], 0);
const identity4 = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];

describe('reference: codes', () => {
  it('by hand: the nearest level, the lowest on ties, a nibble per slot', () => {
    // Level e is (e, 0, 0, 0); 2.5 is as far from 2 as from 3.
    const levels = Array.from({ length: 64 }, (_, i) => (i % 4 === 0 ? i / 4 : 0));
    const c = { project: identity4, levels, rows: 4 };
    expect(encode('none', [2.5, 0, 0, 0], c).codes).toEqual([2]);
    expect(encode('none', [2.51, 7, 0, 0], c).codes).toEqual([3]);
    expect(encode('none', [99, 0, 0, 0], c).codes).toEqual([15]);
    // r = sqrt(4 / 4) = 1 of a row that counts for four: u is x; <u,u> / <u,c> = 1.
    expect(encode('unbiased', [2, 0, 0, 0], c)).toMatchObject({ codes: [2], scale: 1 * (4 / 4) });
    const codec = encode('none', [0, 0, 0, 0], c).codec;
    const keys = allocTensor(kernels, 'u8', [1, 2, 1, 16]);
    const x = f32([3, 1, 4], [5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0]);
    kernels.storeCodes(x, codec, keys, undefined, 31);
    kernels.storeCodes(x, codec, keys, undefined, 15);
    const expected = new Array<number>(32).fill(0);
    // Slots 31, 32, 33 and 15, 16, 17 hold 5, 6, 7 each.
    expected[15] = 0x55;
    expected[16] = 6;
    expected[17] = 7;
    expected[0] = 0x60;
    expected[1] = 0x70;
    expect([...kernels.view(keys)]).toEqual(expected);
  });

  it('scales do what their rules say', () => {
    const random = new Random(33);
    for (let trial = 0; trial < 20; trial++) {
      const [d, groups] = [12, 5];
      const x = normals(random, d, 10 ** (trial % 4));
      const project = normals(random, 4 * groups * d);
      const levels = normals(random, groups * 64);
      const z = Array.from({ length: 4 * groups }, (_, i) =>
        dot(project.subarray(i * d, (i + 1) * d), x),
      );
      const c = { project, levels, rows: 4 * groups, gain: 0.3 };
      const unbiased = encode('unbiased', x, c);
      // 2^-10: the scale in f16.
      const ratio = (unbiased.scale * dot(z, unbiased.chosen)) / dot(z, z);
      expect(Math.abs(ratio - 1)).toBeLessThan(2 ** -10);
      const least = encode('least-squares', x, c);
      const residual = z.map((v, i) => v - least.scale * least.chosen[i]);
      expect(Math.abs(dot(residual, least.chosen))).toBeLessThan(2 ** -10 * dot(z, least.chosen));
      const norm = 0.3 * Math.sqrt(dot(x, x));
      expect(Math.abs(encode('norm', x, c).scale - norm)).toBeLessThan(2 ** -10 * norm);
    }
  });

  it('of a key that is zero, or whose levels point away, have a scale of zero', () => {
    const away = Array.from({ length: 64 }, (_, i) => (i % 4 === 0 ? -1 - i / 4 : 0));
    const c = { project: identity4, levels: away, rows: 4 };
    expect(encode('norm', [0, 0, 0, 0], c)).toMatchObject({ codes: [0], scale: 0 });
    for (const rule of ['unbiased', 'least-squares'] as const) {
      expect(encode(rule, [1, 0, 0, 0], c)).toMatchObject({ codes: [0], scale: 0 });
    }
    expect(encode('norm', [3e38, 0, 0, 0], { ...c, project: identity4.map((v) => 2 * v) })).toEqual(
      expect.objectContaining({ codes: [0], scale: 0 }),
    );
    expect(encode('norm', [1e9, 0, 0, 0], c).scale).toBe(65504);
  });

  it('score as the query against the levels, but for the rounding of tables', () => {
    const random = new Random(34);
    const [d, groups, trials] = [24, 6, 300];
    let squares = 0;
    let noise = 0;
    let signal = 0;
    for (let trial = 0; trial < trials; trial++) {
      const { exact, found, unit } = scoreOfOne(random, d, groups);
      // Half a step in each group, and a hundredth for sums in f32.
      expect(Math.abs(found - exact)).toBeLessThan(unit * groups * 0.51);
      squares += ((found - exact) / unit) ** 2;
      noise += (found - exact) ** 2;
      signal += exact ** 2;
    }
    // Roundings to whole steps: variances of 1/12 add up. 300 squares scatter by 8 %.
    const ofRoundings = squares / trials / (groups / 12);
    expect(ofRoundings).toBeGreaterThan(0.7);
    expect(ofRoundings).toBeLessThan(1.3);
    // 0.7 % of the scores.
    expect(Math.sqrt(noise / signal)).toBeLessThan(0.01);
  });
});

/** The score of one random key, by a codec of random numbers. `unit`: what one step of the tables adds. */
function scoreOfOne(random: Random, d: number, groups: number) {
  const [x, q] = [normals(random, d), normals(random, d)];
  const [project, levels] = [normals(random, 4 * groups * d), normals(random, groups * 64)];
  const { codec, chosen, scale } = encode('norm', x, { project, levels, rows: 24 });
  const tables = allocTensor(kernels, 'i8', [1, 1, groups, 16]);
  const queryScales = allocTensor(kernels, 'f32', [1, 1]);
  kernels.queryTables(f32([1, 1, d], q), codec, tables, queryScales);
  const keys = allocTensor(kernels, 'u8', [1, 1, groups, 16]);
  const keyScales = allocTensor(kernels, 'f16', [1, 32]);
  kernels.storeCodes(f32([1, 1, d], x), codec, keys, keyScales, 20);
  const segment: Segment = {
    ...{ keyForm: 'codes', valueForm: 'f32', pageLength: 32, first: 0, length: 21 },
    ...{ query: tables, queryScales, scale: f32([1], [0.5]), minDistance: 0, maxDistance: 0 },
    pages: [{ keys, keyScales, values: f32([1, 32, 1], new Array<number>(32).fill(0)) }],
  };
  const out = allocTensor(kernels, 'f32', [1, 1, 21]);
  const shape = { n: 1, start: 20, nHeads: 1, nKvHeads: 1, headDimK: d, headDimV: 1 };
  kernels.scores(segment, shape, out);
  const y = chosen.map((_, i) => dot(project.subarray(i * d, (i + 1) * d), q));
  const step = kernels.view(queryScales)[0];
  const exact = 0.5 * scale * dot(y, chosen);
  return { exact, found: kernels.view(out)[20], unit: 0.5 * scale * step };
}

describe('reference: affine values', () => {
  const store = (values: ArrayLike<number>) => {
    const d = values.length;
    const codes = allocTensor(kernels, 'u8', [1, 1, d / 2]);
    const params = allocTensor(kernels, 'f16', [1, 1, 2]);
    kernels.storeAffine(f32([1, 1, d], values), codes, params, 0);
    const [row, minStep] = [kernels.view(codes), kernels.view(params)];
    return { row, minStep, back: affineValues(row, minStep), step: f16ToF32(minStep[1]) };
  };

  it('keep every value within half a stored step', () => {
    const d = 64;
    const x = hostileRows(new Random(32), 40, d, 65504);
    for (let row = 0; row < 40; row++) {
      const values = x.subarray(row * d, (row + 1) * d);
      const { back, step } = store(values);
      // The code is computed in f32: its rounding may put a value in the middle on either side.
      const slack = 2 ** -20 * Math.max(...values.map(Math.abs));
      values.forEach((v, i) => expect(Math.abs(back[i] - v)).toBeLessThanOrEqual(step / 2 + slack));
    }
  });

  it('by hand: whole numbers from 0 are their own codes, low bits first', () => {
    const { minStep, row } = store([...Array(16).keys()]);
    expect([...minStep]).toEqual([0, 0x3c00]);
    expect([...row]).toEqual([0x80, 0x91, 0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7]);
  });
});

describe('reference: fields', () => {
  const ones = (d: number) => new Float32Array(d).fill(1);

  it('by hand: levels times a scale are themselves, low bits first', () => {
    const codes = [0, 1, 2, 3, 3, 0, 1, 2];
    const x = Float32Array.from(codes, (code) => 2 * (code - 1.5));
    const { packed, scale } = encodeFields(x, ones(8), { fours: 0, twos: 8 });
    expect(f16ToF32(scale)).toBe(2);
    // Words of dimensions 0 2 4 6 and 1 3 5 7.
    expect([...packed]).toEqual([0 + 4 * 2 + 16 * 3 + 64 * 1, 1 + 4 * 3 + 16 * 0 + 64 * 2]);
    expect([...fieldLevels(packed, { fours: 0, twos: 8 }, 9)]).toEqual([...x.map((v) => v / 2), 0]);
    const wide = encodeFields(
      Float32Array.of(-5.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 5.5),
      ones(8),
      { fours: 8, twos: 0 },
    );
    expect(f16ToF32(wide.scale)).toBe(1);
    expect([...wide.packed]).toEqual([0x82, 0x95, 0xa6, 0xd7]);
  });

  it('have the least weighted error of the five scales that are tried', () => {
    const random = new Random(35);
    const fields = { fours: 8, twos: 16 };
    let better = 0;
    for (let trial = 0; trial < 40; trial++) {
      const x = normals(random, 24).map((v, c) => (c < 8 ? v / 0.3352 : v / 0.9957));
      if (trial % 2) x[20] *= 3;
      const weights = Float32Array.from({ length: 24 }, (_, c) => 1 / (1 + (c % 5)));
      const sum = (term: (c: number) => number) =>
        weights.reduce((all, w, c) => all + w * term(c), 0);
      const r = Math.sqrt(sum((c) => x[c] ** 2) / sum((c) => (c < 8 ? 8.9 : 1.0086)));
      const errors = [0.8, 0.9, 1, 1.1, 1.2].map((f) => {
        const levels = x.map((v, c) => {
          const most = c < 8 ? 7.5 : 1.5;
          return Math.min(most, Math.max(-most, Math.floor(v / r / f) + 0.5));
        });
        const scale = sum((c) => x[c] * levels[c]) / sum((c) => levels[c] ** 2);
        return sum((c) => (x[c] - scale * levels[c]) ** 2);
      });
      const { packed, scale } = encodeFields(x, weights, fields);
      const levels = fieldLevels(packed, fields, 24);
      const error = sum((c) => (x[c] - f16ToF32(scale) * levels[c]) ** 2);
      // f16 rounds the scale.
      expect(error / Math.min(...errors)).toBeCloseTo(1, 2);
      if (error < 0.98 * errors[2]) better++;
    }
    expect(better).toBeGreaterThan(5);
  });
});
