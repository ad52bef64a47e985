import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { f16ToF32, f32ToF16 } from './f16.ts';
import { Random } from './random.ts';
import { dequantize, encode, quantizeQ8_0 } from './blocks.ts';

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
    for (const type of ['f32', 'f16', 'bf16', 'q8_0'] as const) {
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
