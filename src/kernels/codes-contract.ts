/** The suite that every backend passes for what it stores as codes: the same bytes as the reference. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../math/random.ts';
import { segmentsOf, attendCases } from './attend-cases.ts';
import { bytes, codecOf, hostileRows, normals, results, type Workspace } from './contract-tools.ts';
import type { HostArray, Kernels, ScaleRule, Tensor } from './kernels.ts';
import { ReferenceKernels } from './reference.ts';
import { fieldBytes } from './fields.ts';
import { rows } from './tensor.ts';
import { elementCount } from '../math/dtype.ts';
import { f32ToF16 } from '../math/f16.ts';

const headDims = [8, 20, 64, 80, 96, 128];
const rules: readonly ScaleRule[] = ['unbiased', 'least-squares', 'norm', 'none'];

/** Rows as `hostileRows` has them, and some whose projections leave f32. */
function hostileKeys(random: Random, count: number, d: number): Float32Array {
  const x = hostileRows(random, count, d, 1e30);
  const factors = [1, 1e-38, 1, 3e38, 1];
  return x.map((v, i) => {
    const factor = factors[Math.floor(i / d) % factors.length];
    return factor === 1 ? v : Math.max(-1, Math.min(1, v)) * factor;
  });
}

/** @param make starts a fresh backend, which the suite disposes of */
export function describeCodes(name: string, make: () => Promise<Kernels>): void {
  describe(`codes: ${name}`, () => {
    let kernels: Kernels;
    const reference = new ReferenceKernels();
    beforeAll(async () => {
      kernels = await make();
    });
    afterAll(() => kernels.dispose());

    const expectSame = async (run: (w: Workspace) => readonly Tensor[]): Promise<HostArray[]> => {
      const [actual, expected] = [await results(kernels, run), await results(reference, run)];
      expect(actual).toEqual(expected);
      return expected;
    };

    describe.each(headDims)('head dimension %i', (d) => {
      it.each(rules)('storeCodes, scales by rule %s', async (rule) => {
        const random = new Random(41);
        for (const groups of [1, d / 4, 19]) {
          for (const [n, slot] of [
            [1, 0],
            [2, 31],
            [5, 14],
            [35, 30],
          ]) {
            const nKvHeads = 1 + (n % 3);
            const x = hostileKeys(random, n * nKvHeads, d);
            const before = bytes(random, nKvHeads * 3 * groups * 16);
            const [keys] = await expectSame((w) => {
              const page = w.put('u8', [nKvHeads, 3, groups, 16], before);
              const scales = w.zeros('f16', [nKvHeads, 96]);
              const codec = codecOf(w, { nKvHeads, groups, d, rule }, 42);
              const input = w.f32([n, nKvHeads, d], x);
              w.kernels.storeCodes(input, codec, page, rule === 'none' ? undefined : scales, slot);
              return [page, scales];
            });
            // The codes of all other slots are as they were.
            const isOther = (s: number) => s < slot || s >= slot + n;
            const spoiled = keys.filter((byte: number, i: number) => {
              const first = 32 * (Math.floor(i / (16 * groups)) % 3) + (i % 16);
              const mask = (isOther(first) ? 0x0f : 0) | (isOther(first + 16) ? 0xf0 : 0);
              return (byte & mask) !== (before[i] & mask);
            });
            expect(spoiled.length).toBe(0);
          }
        }
      });

      it('queryTables', async () => {
        const random = new Random(43);
        for (const groups of [1, d / 4, 19]) {
          for (const n of [1, 2, 5]) {
            const [nHeads, nKvHeads] = n % 2 ? [6, 2] : [7, 1];
            const x = hostileKeys(random, n * nHeads, d);
            const [tables, scales] = await expectSame((w) => {
              const codec = codecOf(w, { nKvHeads, groups, d, rule: 'none' }, 44);
              const tables = w.put(
                'i8',
                [nHeads, n, groups, 16],
                Int8Array.from(bytes(random, nHeads * n * groups * 16)),
              );
              const scales = w.f32([nHeads, n], normals(random, nHeads * n));
              w.kernels.queryTables(w.f32([n, nHeads, d], x), codec, tables, scales);
              return [tables, scales];
            });
            expect(scales.every((s: number) => s >= 0 && s < Infinity)).toBe(true);
            const entries = Array.from(tables, (entry: number) => Math.abs(entry));
            expect(Math.max(...entries)).toBe(Math.min(127, Math.floor(32767 / groups)));
          }
        }
      });

      it('storeAffine', async () => {
        const random = new Random(45);
        for (const n of [1, 5, 22]) {
          const x = hostileRows(random, n * 3, d, 65504);
          await expectSame((w) => {
            const codes = w.put('u8', [3, 40, d / 2], bytes(new Random(n), 60 * d));
            const params = w.zeros('f16', [3, 40, 2]);
            w.kernels.storeAffine(w.f32([n, 3, d], x), codes, params, 7);
            return [codes, params];
          });
        }
      });
    });

    describe.each([8, 20, 64, 80, 128])('fields of head dimension %i', (d) => {
      const counts = [
        { fours: 0, twos: 8 * Math.floor(d / 8) },
        { fours: 8, twos: 0 },
        { fours: 8 * Math.floor(d / 16), twos: 8 * Math.floor(d / 24) },
      ].filter(({ fours, twos }) => fours + twos > 0 && fours + twos <= d);
      it.each(counts)('storeFields, $fours of 4 bits and $twos of 2', async (fields) => {
        const random = new Random(51);
        for (const n of [1, 5, 22]) {
          const x = hostileKeys(random, n * 3, d);
          const [codes] = await expectSame((w) => {
            const shape = [3, 40, fieldBytes(fields)];
            const held = w.put('u8', shape, bytes(new Random(n), elementCount(shape)));
            const scales = w.zeros('f16', [3, 40]);
            const weights = w.f32(
              [3, d],
              Float32Array.from({ length: 3 * d }, (_, i) => (i % 7 === 3 ? 0 : 1 / (1 + (i % d)))),
            );
            w.kernels.storeFields(w.f32([n, 3, d], x), weights, held, scales, fields, 7);
            return [held, scales];
          });
          expect(new Set(codes).size).toBeGreaterThan(2);
        }
      });

      it('turn, each row alone as among others', async () => {
        const random = new Random(52);
        for (const [n, heads, nKvHeads] of [
          [1, 2, 2],
          [13, 6, 2],
          [3, 9, 1],
        ]) {
          const types = ['f32', 'f16', ...(d % 32 === 0 ? ['q8_0' as const] : [])] as const;
          for (const type of types) {
            const x = normals(random, n * heads * d);
            const shape = [nKvHeads, d, d];
            const numbers = normals(random, elementCount(shape), 1 / Math.sqrt(d));
            const turned = (k: Kernels) =>
              results(k, (w) => {
                const m =
                  type === 'q8_0'
                    ? w.blocks(type, shape, numbers)
                    : w.put(
                        type,
                        shape,
                        type === 'f32' ? numbers : Uint16Array.from(numbers, f32ToF16),
                      );
                const [all, one] = [0, 0].map(() => w.f32([n, heads, d], x));
                w.kernels.turn(all, m);
                for (let i = 0; i < n; i++) w.kernels.turn(rows(one, i, 1), m);
                return [all, one];
              });
            const [[all, one], [expected]] = [await turned(kernels), await turned(reference)];
            expect(one).toEqual(all);
            const apart = all.map((v: number, i: number) => Math.abs(v - expected[i]));
            // Sums of d products of about 1, in f32.
            expect(Math.max(...apart)).toBeLessThan(d * 1e-6);
          }
        }
      });
    });

    it('refuses fields and bases that do not fit', async () => {
      const shapeError = expect.objectContaining({ code: 'shape' });
      await results(kernels, (w) => {
        const x = w.zeros('f32', [2, 2, 20]);
        const [codes, scales] = [w.zeros('u8', [2, 9, 4]), w.zeros('f16', [2, 9])];
        const weights = w.zeros('f32', [2, 20]);
        const store = (fours: number, twos: number, slot = 0) =>
          kernels.storeFields(x, weights, codes, scales, { fours, twos }, slot);
        store(0, 16);
        store(8, 0, 7);
        expect(() => store(8, 0, 8)).toThrow(shapeError);
        expect(() => store(0, 0)).toThrow(/0 fields of 4 bits and 0 of 2/);
        expect(() => store(4, 8)).toThrow(/multiples of 8/);
        expect(() => store(16, 8)).toThrow(/for dimension 20/);
        expect(() => store(8, 8)).toThrow(shapeError);
        expect(() => kernels.turn(x, w.zeros('f32', [3, 20, 20]))).toThrow(/multiple of the 3/);
        expect(() => kernels.turn(x, w.zeros('f32', [2, 20, 19]))).toThrow(shapeError);
        const c = attendCases['codes and fields of both widths, more than one split'];
        const [{ fields: _, ...segment }] = segmentsOf(w, c, 53);
        const out = w.zeros('f32', [1, 9, 64]);
        expect(() => kernels.attend([segment], c.shape, out)).toThrow(/does not say how many/);
        const other = { ...segment, fields: { fours: 32, twos: 32 } };
        expect(() => kernels.attend([other], c.shape, out)).toThrow(shapeError);
        return [];
      });
    });

    it('attend over codes: a chunk of queries is what they are one by one', async () => {
      const c = attendCases['codes and fields, prefill of several blocks'];
      const { n, start, nHeads, nKvHeads, headDimK: d, headDimV } = c.shape;
      const groups = 20;
      const q = normals(new Random(46), n * nHeads * d);
      const [together, apart] = await results(kernels, (w) => {
        const codec = codecOf(w, { nKvHeads, groups, d, rule: 'norm' }, 47);
        const queries = w.f32([n, nHeads, d], q);
        const [all, one] = [0, 0].map(() => w.zeros('f32', [n, nHeads, headDimV]));
        const [segment] = segmentsOf(w, c, 48);
        const attend = (first: number, count: number, out: Tensor) => {
          const query = w.zeros('i8', [nHeads, count, groups, 16]);
          const queryScales = w.zeros('f32', [nHeads, count]);
          kernels.queryTables(rows(queries, first, count), codec, query, queryScales);
          const shape = { ...c.shape, n: count, start: start + first };
          kernels.attend([{ ...segment, query, queryScales }], shape, rows(out, first, count));
        };
        attend(0, n, all);
        for (let i = 0; i < n; i++) attend(i, 1, one);
        return [all, one];
      });
      expect(apart).toEqual(together);
    });

    it.each([
      'codes and fields of 2 bits, more than one split',
      'codes and fields of both widths, more than one split',
      'codes and fields, prefill of several blocks',
      'sketch and affine4, more than one split',
      'causal prefill of several blocks',
    ])('attend skips no more than it may: %s', async (name) => {
      const c = attendCases[name];
      const { n, nHeads, headDimV } = c.shape;
      for (let seed = 60; seed < 64; seed++) {
        for (const sharper of [1, 4, 12]) {
          const skips = [0, 1e-3, 0.03, 0.3, 0.9];
          const [exact, ...skipped] = await results(kernels, (w) => {
            const [segment] = segmentsOf(w, c, seed);
            const view = kernels.view(segment.scale);
            view.forEach((v: number, h: number) => (view[h] = v * sharper));
            return skips.map((skip) => {
              const out = w.zeros('f32', [n, nHeads, headDimV]);
              kernels.attend([{ ...segment, skip }], c.shape, out);
              return out;
            });
          });
          skipped.forEach((out, i) => {
            const error = Math.max(...out.map((v: number, at: number) => Math.abs(v - exact[at])));
            // Values of `segmentsOf` are at most 3 in size; 1e-3 is what quantized weights err by.
            expect(error).toBeLessThanOrEqual(2 * skips[i + 1] * 3 + 1e-3);
          });
        }
      }
    });

    it('refuses codecs, pages and head dimensions that do not fit', async () => {
      const shapeError = expect.objectContaining({ code: 'shape' });
      await results(kernels, (w) => {
        const [d, groups, nKvHeads] = [20, 3, 2];
        const codec = codecOf(w, { nKvHeads, groups, d, rule: 'unbiased' }, 49);
        const x = w.zeros('f32', [2, nKvHeads, d]);
        const keys = w.zeros('u8', [nKvHeads, 1, groups, 16]);
        const scales = w.zeros('f16', [nKvHeads, 32]);
        const store = (slot: number, changed: object = {}, s: Tensor | undefined = scales) =>
          kernels.storeCodes(x, { ...codec, ...changed }, keys, s, slot);
        store(30);
        expect(() => store(31)).toThrow(shapeError);
        expect(() => store(0, { rule: 'none' })).toThrow(shapeError);
        expect(() => kernels.storeCodes(x, codec, keys, undefined, 0)).toThrow(shapeError);
        expect(() => store(0, { levels: w.zeros('f32', [nKvHeads, groups, 63]) })).toThrow(
          shapeError,
        );
        expect(() => store(0, { project: w.zeros('f32', [nKvHeads * 4 * groups, d + 1]) })).toThrow(
          shapeError,
        );
        expect(() => store(0, { rows: w.zeros('i32', [1]) })).toThrow(shapeError);
        const many = { levels: w.zeros('f32', [nKvHeads, 513, 64]) };
        expect(() => store(0, many)).toThrow(/513 groups/);
        const tables = w.zeros('i8', [4, 2, groups, 16]);
        const query = w.zeros('f32', [2, 5, d]);
        expect(() => kernels.queryTables(query, codec, tables, w.zeros('f32', [5, 2]))).toThrow(
          /multiple of the 2 KV heads/,
        );
        const [codes, params] = [w.zeros('u8', [2, 9, 10]), w.zeros('f16', [2, 9, 2])];
        const odd = w.zeros('f32', [2, nKvHeads, 21]);
        expect(() => kernels.storeAffine(odd, codes, params, 0)).toThrow(/must be even/);
        const c = attendCases['codes and fields of 2 bits, more than one split'];
        const [{ queryScales, ...segment }] = segmentsOf(w, c, 50);
        const out = w.zeros('f32', [1, 9, 64]);
        expect(() => kernels.attend([segment], c.shape, out)).toThrow(/no queryScales/);
        if (!queryScales) throw new Error('the case has no queryScales');
        const all = { ...segment, queryScales, skip: 1 };
        expect(() => kernels.attend([all], c.shape, out)).toThrow(
          expect.objectContaining({ code: 'range' }),
        );
        const uneven = { ...segment, queryScales, pageLength: 100, length: 100 };
        expect(() => kernels.attend([uneven], c.shape, out)).toThrow(/multiple of 32/);
        return [];
      });
    });

    it('leaves no memory behind', () => expect(kernels.allocatedBytes).toBe(0));
  });
}
