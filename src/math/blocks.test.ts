import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { f16ToF32, f32ToF16 } from './f16.ts';
import { Random } from './random.ts';
import { decodeBlocks, dequantize, encode, quantizeQ4_0, quantizeQ8_0 } from './blocks.ts';
import { dtypeBlocks, weightDTypes, type WeightDType } from './dtype.ts';

/** One block of 32 that starts with these values. */
function block(...values: number[]): Float32Array {
  const out = new Float32Array(32);
  out.set(values);
  return out;
}

describe('q8_0', () => {
  test('has the layout of GGML: an f16 scale, then 32 codes', () => {
    const bytes = quantizeQ8_0(block(127, -127, 1, -64));
    expect([...bytes.subarray(0, 6)]).toEqual([0x00, 0x3c, 127, 129, 1, 192]);
    expect(bytes.length).toBe(34);
  });

  test('halves round away from zero', () => {
    const codes = new Int8Array(quantizeQ8_0(block(127, 0.5, -0.5, 1.5, 2.5, -2.5)).buffer, 2);
    expect([...codes.subarray(0, 6)]).toEqual([127, 1, -1, 2, 3, -3]);
  });

  test('codes come from the scale before it is rounded to f16', () => {
    // Largest 1000: d = 7.8740, in f16 7.875. 3.937 is on different sides of half of the two.
    const value = 3.9372;
    const bytes = quantizeQ8_0(block(1000, value));
    const stored = f16ToF32(bytes[0] | (bytes[1] << 8));
    expect(stored).toBe(7.875);
    expect(Math.round(value / stored)).toBe(0);
    expect(bytes[3]).toBe(1);
  });

  test('an independent transcription of the reference gives the same bytes', () => {
    const random = new Random(5);
    const values = Float32Array.from({ length: 32 * 500 }, () => random.normal() * 0.02);
    const bytes = quantizeQ8_0(values);
    const single = new Float32Array(1);
    const f32 = (x: number) => ((single[0] = x), single[0]);
    for (let b = 0; b < 500; b++) {
      const x = values.subarray(32 * b, 32 * b + 32);
      const d = f32(x.reduce((m, v) => (Math.abs(v) > m ? Math.abs(v) : m), 0) / 127);
      const bits = f32ToF16(d);
      const id = f32(1 / d);
      expect(bytes[34 * b] | (bytes[34 * b + 1] << 8)).toBe(bits);
      for (let j = 0; j < 32; j++) {
        const product = f32(x[j] * id);
        const whole = Math.trunc(product);
        const code = Math.abs(product - whole) >= 0.5 ? whole + Math.sign(product) : whole;
        expect((bytes[34 * b + 2 + j] << 24) >> 24).toBe(code + 0); // 0, not -0
      }
    }
  });

  test('zeros and values too small for an f16 scale decode to zero', () => {
    for (const values of [block(), block(1e-40, -1e-42), block(1e-7)]) {
      expect(dequantize('q8_0', quantizeQ8_0(values), 32)).toEqual(new Float32Array(32));
    }
  });

  test('the error is at most half a step and the rounding of the scale', () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: -1000, max: 1000, noNaN: true }), {
          minLength: 32,
          maxLength: 32,
        }),
        (list) => {
          const values = Float32Array.from(list);
          const back = dequantize('q8_0', quantizeQ8_0(values), 32);
          const largest = Math.max(...values.map(Math.abs));
          const bound = (largest / 127) * 0.5001 + largest * 2 ** -11 + 127 * 2 ** -25;
          values.forEach((x, i) => expect(Math.abs(x - back[i])).toBeLessThanOrEqual(bound));
        },
      ),
    );
  });
});

describe('q4_0', () => {
  test('the value of largest magnitude is code 0 exactly, the others are rounded from below', () => {
    const bytes = quantizeQ4_0(block(-8, 7, 0.49, -0.51, 0.5, 100 / 128));
    expect([...bytes.subarray(0, 2)]).toEqual([0x00, 0x3c]);
    expect([...bytes.subarray(2, 8)].map((b) => b & 15)).toEqual([0, 15, 8, 7, 9, 9]);
    // A positive extreme makes the scale negative; what would be code 16 is cut off.
    const values = dequantize('q4_0', quantizeQ4_0(block(8, -8)), 32);
    expect([...values.subarray(0, 2)]).toEqual([8, -7]);
  });

  test('an independent transcription of the reference gives the same bytes', () => {
    const random = new Random(6);
    const values = Float32Array.from({ length: 32 * 300 }, () => random.normal() * 0.02);
    const bytes = quantizeQ4_0(values);
    const f32 = Math.fround;
    for (let b = 0; b < 300; b++) {
      const x = values.subarray(32 * b, 32 * b + 32);
      let [amax, max] = [0, 0];
      for (const v of x) if (amax < Math.abs(v)) [amax, max] = [Math.abs(v), v];
      const d = f32(max / -8);
      const id = f32(1 / d);
      expect(bytes[18 * b] | (bytes[18 * b + 1] << 8)).toBe(f32ToF16(d));
      for (let j = 0; j < 16; j++) {
        const [low, high] = [x[j], x[16 + j]].map((v) =>
          Math.min(15, ((f32(f32(v * id) + 8.5) << 24) >> 24) & 255),
        );
        expect(bytes[18 * b + 2 + j]).toBe(low | (high << 4));
      }
    }
  });
});

/** 2, 3 and -3 as the bytes of an f16. */
const half2 = [0x00, 0x40];
const half3 = [0x00, 0x42];
const halfMinus3 = [0x00, 0xc2];

/** A block of these bytes at these places. */
function blockBytes(dtype: WeightDType, parts: Record<number, readonly number[]>): Uint8Array {
  const out = new Uint8Array(dtypeBlocks[dtype].bytes);
  for (const [at, bytes] of Object.entries(parts)) out.set(bytes, Number(at));
  return out;
}

/** Elements of a block, by their place. */
function elements(dtype: WeightDType, bytes: Uint8Array, ...places: number[]): number[] {
  const values = dequantize(dtype, bytes, dtypeBlocks[dtype].elements);
  return places.map((i) => values[i]);
}

describe('layouts of GGML', () => {
  test('q4_0, q4_1: low nibbles are elements 0 to 15', () => {
    const q4 = blockBytes('q4_0', { 0: half2, 2: [0xf1], 17: [0x2a] });
    expect(elements('q4_0', q4, 0, 16, 15, 31, 1)).toEqual([-14, 14, 4, -12, -16]);
    const q41 = blockBytes('q4_1', { 0: half2, 2: halfMinus3, 4: [0xf1], 19: [0x2a] });
    expect(elements('q4_1', q41, 0, 16, 15, 31, 1)).toEqual([-1, 27, 17, 1, -3]);
  });

  test('q5_0, q5_1: bit i of a word before the nibbles is the fifth of element i', () => {
    const fifth = [0x01, 0x80, 0x02, 0x00]; // elements 0, 15 and 17
    const q5 = blockBytes('q5_0', { 0: half2, 2: fifth, 6: [0xf1, 0x30], 21: [0x2a] });
    expect(elements('q5_0', q5, 0, 16, 15, 31, 17)).toEqual([2, -2, 20, -28, 6]);
    const q51 = blockBytes('q5_1', { 0: half2, 2: halfMinus3, 4: fifth, 8: [0xf1, 0x30] });
    expect(elements('q5_1', q51, 0, 16, 15, 31, 17)).toEqual([31, 27, 29, -3, 35]);
  });

  // Scale 2 is 5, minimum 2 is 7; scale 6 is 0x39 and minimum 6 is 0x2a, in pieces.
  const scales = { 6: [5 | 0xc0], 10: [7 | 0x80], 14: [0x9 | 0xa0] };

  test('q4_k: 8 runs of 32; two runs share 32 bytes', () => {
    const q = blockBytes('q4_k', { 0: half2, 2: half3, ...scales, 48: [0x43], 143: [0x0e] });
    // run 2 begins at byte 16 + 32, its partner 3 has scale and minimum 0
    expect(elements('q4_k', q, 64, 65, 96)).toEqual([2 * 5 * 3 - 21, -21, 0]);
    expect(elements('q4_k', q, 6 * 32, 6 * 32 + 31)).toEqual([-126, 2 * 0x39 * 14 - 126 + 0]);
  });

  test('q5_k: bit r of byte i is the fifth of element i of run r', () => {
    const fifth = { 16: [0b100], 47: [0b1000000] };
    const q = blockBytes('q5_k', { 0: half2, 2: half3, ...scales, ...fifth, 80: [0x43] });
    expect(elements('q5_k', q, 64, 65)).toEqual([2 * 5 * 19 - 21, -21]);
    expect(elements('q5_k', q, 6 * 32 + 31)).toEqual([2 * 0x39 * 16 - 126]);
  });

  test('q6_k: low nibbles, two upper bits, a signed scale for 16', () => {
    const scales6 = { 192: [1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0x80] };
    const q = blockBytes('q6_k', { 208: half2, ...scales6, 0: [0x5a], 128: [0b11100100] });
    // Runs 0 and 2 take the nibbles of byte 0; upper bits are 0, 1, 2, 3 of runs 0 to 3.
    expect(elements('q6_k', q, 0, 32, 64, 96, 16)).toEqual([
      2 * 1 * (10 - 32),
      2 * 3 * (16 - 32),
      2 * 5 * (5 + 32 - 32),
      2 * 7 * (48 - 32),
      2 * 2 * -32,
    ]);
    expect(elements('q6_k', q, 128, 144)).toEqual([2 * -1 * -32, 2 * -128 * -32]);
  });

  test('NaN and infinite scales are refused as weights, and let through as numbers', () => {
    for (const dtype of weightDTypes.filter((type) => dtypeBlocks[type].elements > 1)) {
      const at = dtype === 'q6_k' ? 208 : 0;
      for (const scale of [
        [0x00, 0x7e],
        [0x00, 0x7c],
      ]) {
        const bytes = blockBytes(dtype, { [at]: scale });
        const count = dtypeBlocks[dtype].elements;
        expect(() => dequantize(dtype, bytes, count)).toThrow(/element 0 is/);
        expect(decodeBlocks(dtype, bytes, count).some(Number.isFinite)).toBe(false);
      }
    }
  });
});

describe('plain types', () => {
  test('f32 is exact, f16 and bf16 are exact where the value fits', () => {
    const values = Float32Array.of(0, -1.5, 3.140625, 0.0078125, -2);
    for (const type of ['f32', 'f16', 'bf16'] as const) {
      expect(dequantize(type, encode(type, values), 5)).toEqual(values);
    }
  });

  test('bytes may start anywhere', () => {
    const encoded = encode('f32', Float32Array.of(1.25, -7));
    const shifted = new Uint8Array(9);
    shifted.set(encoded, 1);
    expect([...dequantize('f32', shifted.subarray(1), 2)]).toEqual([1.25, -7]);
  });
});

describe('refusals', () => {
  test.each([NaN, Infinity, -Infinity])('%s is not a weight', (bad) => {
    const values = block(1, bad);
    for (const type of ['f32', 'f16', 'bf16', 'q8_0', 'q4_0'] as const) {
      expect(() => encode(type, values)).toThrow(
        expect.objectContaining({ name: 'KvError', code: 'not-finite' }),
      );
    }
    const bytes = new Uint8Array(values.buffer);
    expect(() => dequantize('f32', bytes, 32)).toThrow(/element 1 is/);
  });

  test('a value that f16 cannot hold is refused, not made infinite', () => {
    expect(() => encode('f16', Float32Array.of(1, 70_000))).toThrow(/element 1 is 70000/);
    expect(() => encode('bf16', Float32Array.of(3.4028234e38))).toThrow(/cannot hold/);
    expect(() => quantizeQ8_0(block(1e9))).toThrow(/cannot hold/);
  });

  test('sizes that do not fit and types without weights', () => {
    expect(() => dequantize('f16', new Uint8Array(3), 2)).toThrow(/take 4 bytes; found 3/);
    expect(() => dequantize('q8_0', new Uint8Array(34), 31)).toThrow(/found 34/);
    expect(() => quantizeQ8_0(new Float32Array(33))).toThrow(/multiple of 32/);
    expect(() => dequantize('u8', new Uint8Array(2), 2)).toThrow(/holds no weights/);
  });
});
