/** The suite that every backend passes: each kernel against `reference.ts`, and what it refuses. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dtypeBlocks, weightDTypes } from '../math/dtype.ts';
import { Random } from '../math/random.ts';
import { segmentsOf, attendCases } from './attend-cases.ts';
import {
  Workspace,
  results,
  normals,
  bytes,
  weights,
  partsOf,
  hostileRows,
  maxMagnitude,
  expectClose,
  codecOf,
  halfFields,
} from './contract-tools.ts';
import type { Kernels, Segment, Tensor } from './kernels.ts';
import { ReferenceKernels } from './reference.ts';
import { allocTensor, rows } from './tensor.ts';

/** One rounding in f32. */
const epsilon = 2 ** -24;

/** Element-wise kernels: a few roundings, and an exponential of relative error below 5e-7. */
const elementwiseBound = 1e-6;

/**
 * f32 sums of `terms` products, in four lanes at least, against f64: each addition rounds once.
 * Relative to the sum of the products' magnitudes.
 */
const sumBound = (terms: number) => (terms / 4 + 8) * epsilon;

/**
 * attend: a logit of size L errs by about sqrt(D) L epsilon, an exponential by 5e-7, sums by a few
 * epsilons. Relative to the largest |value|, for logits up to 50.
 */
const attendBound = 2e-5;

/**
 * Weights of affine values may be 15-bit integers that share a scale among 128 positions, against centred
 * codes of at most 8 steps. Over 800 random shapes, of logits from flat to peaked, 1 to 700 positions and
 * dimensions of 64 and 128, the largest error was 6.6e-5 of the range of the values (median 1e-5), with
 * 4 bits: three times that.
 */
const affineBound = 2e-4;
/**
 * Weights of 2-bit values may be integers of 8 bits, against codes of at most 2 steps from their middle:
 * over 2,400 such shapes the largest error was 1.9e-3 (median 3e-4).
 */
const twoBitBound = 6e-3;

/** Logits of codes: an exact sum and three roundings, relative. */
const codesBound = 1e-5;

const headDims = [8, 64, 80, 96, 128];
const counts = [1, 2, 7, 33];

/**
 * Every kernel against the reference.
 * @param make starts a fresh backend, which the suite disposes of
 */
export function describeKernels(name: string, make: () => Promise<Kernels>): void {
  describe(`kernels: ${name}`, () => {
    let kernels: Kernels;
    const reference = new ReferenceKernels();
    beforeAll(async () => {
      kernels = await make();
    });
    afterAll(() => kernels.dispose());

    const onBoth = async (run: (w: Workspace) => readonly Tensor[]) => {
      const [actual, expected] = await Promise.all([
        results(kernels, run),
        results(reference, run),
      ]);
      return expected.map((e, i) => ({ actual: actual[i], expected: e }));
    };
    const expectSame = async (run: (w: Workspace) => readonly Tensor[]) => {
      for (const { actual, expected } of await onBoth(run)) expect(actual).toEqual(expected);
    };

    describe('memory', () => {
      it('is zeroed, aligned to 64 bytes, and counted', () => {
        const before = kernels.allocatedBytes;
        const t = allocTensor(kernels, 'f32', [1000]);
        expect(kernels.allocatedBytes - before).toBe(4000);
        const view = kernels.view(t);
        expect(view.every((v: number) => v === 0)).toBe(true);
        view.fill(7);
        kernels.free(t.buffer);
        expect(kernels.allocatedBytes).toBe(before);
        const again = allocTensor(kernels, 'f32', [1000]);
        expect(kernels.view(again).every((v: number) => v === 0)).toBe(true);
        expect(kernels.view(again).byteOffset % 64).toBe(0);
        kernels.free(again.buffer);
      });

      it('refuses to free twice, and buffers of another backend', () => {
        const buffer = kernels.alloc(100);
        kernels.free(buffer);
        expect(() => kernels.free(buffer)).toThrow(/freed before/);
        expect(() => kernels.free({ sizeBytes: 100 })).toThrow(/another backend/);
      });

      it('refuses pages that were freed since attention saw them', () => {
        const c = attendCases['codes and fields of 2 bits, more than one split'];
        const [lasting, passing] = [new Workspace(kernels), new Workspace(kernels)];
        const [[segment], [{ pages }]] = [lasting, passing].map((w) => segmentsOf(w, c, 1));
        const { n, nHeads, headDimV } = c.shape;
        const out = lasting.zeros('f32', [n, nHeads, headDimV]);
        const attend = () => kernels.attend([{ ...segment, pages }], c.shape, out);
        attend();
        passing.release();
        expect(attend).toThrow(/freed before/);
        lasting.release();
      });

      it('copies, and reads what was written', async () => {
        const data = Uint16Array.from({ length: 77 }, (_, i) => i * 3);
        await expectSame((w) => {
          const [a, b] = [w.put('f16', [77], data), w.zeros('bf16', [7, 11])];
          w.kernels.copy(a, b);
          return [a, b];
        });
        const t = allocTensor(kernels, 'f32', [3]);
        expect(() => kernels.write(t, new Float32Array(4))).toThrow(/4 elements/);
        kernels.free(t.buffer);
      });
    });

    it.each(weightDTypes)('embed: %s rows, exactly', async (dtype) => {
      const columns = Math.max(96, 3 * dtypeBlocks[dtype].elements);
      const table = weights(new Random(1), dtype, [50, columns]);
      await expectSame((w) => {
        const out = w.zeros('f32', [4, columns]);
        w.kernels.embed(w.put(dtype, [50, columns], table), Int32Array.of(0, 49, 7, 7), out);
        return [out];
      });
    });

    it.each(counts)('rmsNorm: %i rows, from 1e-30 to 1e30', async (n) => {
      const random = new Random(2);
      const d = 67;
      const x = Float32Array.from(
        normals(random, n * d),
        (v, i) => v * 10 ** ((((i / d) % 7) | 0) * 10 - 30),
      );
      const weight = normals(random, d);
      const [{ actual, expected }] = await onBoth((w) => {
        const out = w.f32([n, d], x);
        w.kernels.rmsNorm(out, w.f32([d], weight), 1e-6, out);
        return [out];
      });
      expectClose(actual, expected, (i) => Math.abs(expected[i]) * elementwiseBound);
    });

    describe.each(weightDTypes)('linear: %s', (dtype) => {
      it.each(counts)('several parts, %i positions', async (n) => {
        const random = new Random(3);
        const columns = { 1: 1043, 32: 1056, 256: 1280 }[dtypeBlocks[dtype].elements];
        const x = hostileRows(random, n, columns, 1e15);
        const sizes = [1, 37, 130];
        const parts = sizes.map((r) => weights(random, dtype, [r, columns]));
        const run = (w: Workspace) => {
          const outs = sizes.map((r) => w.zeros('f32', [n, r]));
          const list = sizes.map((r, i) => ({
            weight: w.put(dtype, [r, columns], parts[i]),
            out: outs[i],
          }));
          w.kernels.linear(w.f32([n, columns], x), list);
          return outs;
        };
        const sizesOfSums = await results(reference, (w) => {
          return sizes.map((r, part) => {
            const table = w.put(dtype, [r, columns], parts[part]);
            const numbers = w.zeros('f32', [r, columns]);
            w.kernels.embed(
              table,
              Int32Array.from({ length: r }, (_, i) => i),
              numbers,
            );
            w.kernels.write(numbers, partsOf(dtype, w.kernels.view(numbers)));
            const out = w.zeros('f32', [n, r]);
            w.kernels.linear(w.f32([n, columns], x.map(Math.abs)), [{ weight: numbers, out }]);
            return out;
          });
        });
        (await onBoth(run)).forEach(({ actual, expected }, part) => {
          // 1e-37: products that small are subnormal, or zero where the hardware says so.
          const bound = (i: number) => sizesOfSums[part][i] * sumBound(columns) * 1.1 + 1e-37;
          expectClose(actual, expected, bound);
        });
      });
    });

    it.each(weightDTypes.filter((dtype) => halfFields[dtype]))(
      '%s: NaN and infinite scales reach every output, scales of zero give zeros',
      async (dtype) => {
        const columns = 512;
        const shape = [3, columns];
        const blocks = weights(new Random(17), dtype, shape) as Uint8Array;
        const blockBytes = dtypeBlocks[dtype].bytes;
        const rowBytes = blocks.length / 3;
        // Row 0 has one scale of NaN, row 1 one of infinity, row 2 is all zero.
        [0x7e, 0x7c].forEach((high, row) => {
          const at = row * rowBytes + blockBytes + (halfFields[dtype]?.[0] ?? 0);
          blocks.set([0, high], at);
        });
        for (let at = 2 * rowBytes; at < blocks.length; at += blockBytes) {
          for (const field of halfFields[dtype] ?? []) blocks.set([0, 0], at + field);
        }
        for (const n of [1, 5]) {
          const x = normals(new Random(18), n * columns);
          const run = (w: Workspace) => {
            const [out, numbers] = [w.zeros('f32', [n, 3]), w.zeros('f32', [3, columns])];
            const weight = w.put(dtype, shape, blocks);
            w.kernels.linear(w.f32([n, columns], x), [{ weight, out }]);
            w.kernels.embed(weight, Int32Array.of(0, 1, 2), numbers);
            return [out, numbers];
          };
          for (const [out, numbers] of [
            await results(kernels, run),
            await results(reference, run),
          ]) {
            for (let i = 0; i < n; i++) {
              expect(Number.isFinite(out[i * 3])).toBe(false);
              expect(Number.isFinite(out[i * 3 + 1])).toBe(false);
              expect(Math.abs(out[i * 3 + 2])).toBe(0);
            }
            const finite = [0, 1, 2].map((r) =>
              numbers.subarray(r * columns, (r + 1) * columns).every(Number.isFinite),
            );
            expect(finite).toEqual([false, false, true]);
          }
        }
      },
    );

    it.each(['adjacent', 'halves'] as const)(
      'rope: %s pairs, some of the dimensions',
      async (style) => {
        const random = new Random(4);
        for (const [d, pairs] of [
          [8, 4],
          [80, 20],
          [64, 32],
        ]) {
          const x = normals(random, 7 * 3 * d);
          const angles = Float64Array.from({ length: 7 * pairs }, () => 7 * random.uniform());
          const table = Float32Array.from({ length: 14 * pairs }, (_, i) => {
            return i % 2 ? Math.sin(angles[i >> 1]) : Math.cos(angles[i >> 1]);
          });
          const [{ actual, expected }] = await onBoth((w) => {
            const t = w.f32([7, 3, d], x);
            w.kernels.rope(t, w.f32([7, pairs, 2], table), style);
            return [t];
          });
          const bound = maxMagnitude(x) * 4 * epsilon;
          expectClose(actual, expected, () => bound);
        }
      },
    );

    it('add and addBias, exactly', async () => {
      const random = new Random(21);
      const [x, y, bias] = [normals(random, 203), normals(random, 203), normals(random, 29)];
      await expectSame((w) => {
        const [a, b] = [w.f32([7, 29], x), w.f32([7, 1, 29], x)];
        w.kernels.add(a, w.f32([7, 29], y));
        w.kernels.addBias(b, w.f32([1, 29], bias));
        const shared = w.f32([3, 4, 15], x.subarray(0, 180));
        w.kernels.addBias(shared, w.f32([2, 15], y.subarray(0, 30)));
        return [a, b, shared];
      });
    });

    it('swiglu, also far from zero', async () => {
      const random = new Random(5);
      const x = Float32Array.from({ length: 203 }, (_, i) => (i - 100) * 1.5 + random.normal());
      const y = normals(random, 203);
      const [gated] = await onBoth((w) => {
        const gate = w.f32([7, 29], x);
        w.kernels.swiglu(gate, w.f32([7, 29], y));
        return [gate];
      });
      // 1e-34: where e^-x is beyond f32, silu(x) is not told from zero.
      expectClose(
        gated.actual,
        gated.expected,
        (i) => Math.abs(gated.expected[i]) * 2 * elementwiseBound + 1e-34,
      );
    });

    describe.each(headDims)('store: head dimension %i', (d) => {
      it.each(['f32', 'f16'] as const)('rows as %s, exactly', async (dtype) => {
        for (const n of counts) {
          const x = hostileRows(new Random(6), n * 3, d, 65504);
          await expectSame((w) => {
            const page = w.zeros(dtype, [3, 40, d]);
            w.kernels.storeRows(w.f32([n, 3, d], x), page, 5);
            return [page];
          });
        }
      });

      it('sketches, exactly, of keys and of queries that share a projection', async () => {
        for (const n of counts) {
          for (const [heads, nKvHeads, bits] of [
            [2, 2, 64],
            [7, 1, 256],
            [6, 2, 96],
          ]) {
            const random = new Random(7);
            const x = hostileRows(random, n * heads, d, 1e30);
            const projection = Int8Array.from(bytes(random, nKvHeads * bits * d));
            await expectSame((w) => {
              const page = w.zeros('u32', [heads, n + 3, bits / 32]);
              const p = w.put('i8', [nKvHeads, bits, d], projection);
              w.kernels.storeSketch(w.f32([n, heads, d], x), p, page, 2);
              return [page];
            });
          }
        }
      });
    });

    describe.each(Object.entries(attendCases))('attend: %s', (_, c) => {
      it('within the bound', async () => {
        const [{ actual, expected }] = await onBoth((w) => {
          const out = w.f32(
            [c.shape.n, c.shape.nHeads, c.shape.headDimV],
            new Float32Array(c.shape.n * c.shape.nHeads * c.shape.headDimV).fill(99),
          );
          w.kernels.attend(segmentsOf(w, c, 11), c.shape, out);
          return [out];
        });
        const largestValue = 5;
        const lossy = c.segments.some(({ valueForm }) => !['f32', 'f16'].includes(valueForm));
        const isCoarse = c.segments.some(({ fields }) => fields?.fours === 0);
        const ofForm = isCoarse ? twoBitBound : lossy ? affineBound : attendBound;
        const bound = ofForm * largestValue;
        expectClose(actual, expected, () => bound);
      });

      it('scores: each segment, a sketch exactly, but for the rounding of its factor', async () => {
        for (const [index, { keyForm, length }] of c.segments.entries()) {
          const [{ actual, expected }] = await onBoth((w) => {
            const out = w.zeros('f32', [c.shape.nHeads, c.shape.n, length]);
            w.kernels.scores(segmentsOf(w, c, 12)[index], c.shape, out);
            return [out];
          });
          if (keyForm === 'sketch' && !c.queryFactors) expect(actual).toEqual(expected);
          else if (keyForm === 'sketch')
            expectClose(actual, expected, (i) => Math.abs(expected[i]) * 2 ** -22);
          else if (keyForm === 'codes')
            expectClose(actual, expected, (i) => Math.abs(expected[i]) * codesBound);
          else expectClose(actual, expected, () => sumBound(c.shape.headDimK) * 200);
        }
      });
    });

    it('attend: one position that outweighs all, and logits of thousands', async () => {
      const c = attendCases['sketch and affine4, more than one split'];
      const [{ actual, expected }] = await onBoth((w) => {
        const [segment] = segmentsOf(w, c, 13);
        const { nHeads, headDimV } = c.shape;
        const scale = w.f32(
          [nHeads],
          Float32Array.from({ length: nHeads }, (_, h) => h * 7),
        );
        const out = w.zeros('f32', [1, nHeads, headDimV]);
        w.kernels.attend([{ ...segment, scale }], c.shape, out);
        return [out];
      });
      expectClose(actual, expected, () => affineBound * 5);
    });

    it('attend: stored vectors of affine codes come back', async () => {
      const d = 64;
      const x = hostileRows(new Random(14), 20, d, 60000);
      const shape = { n: 1, start: 19, nHeads: 1, nKvHeads: 1, headDimK: d, headDimV: d };
      for (let position = 0; position < 20; position++) {
        const [{ actual, expected }] = await onBoth((w) => {
          const page = {
            keys: w.zeros('u32', [1, 32, 2]),
            values: w.zeros('u8', [1, 32, d / 2]),
            valueParams: w.zeros('f16', [1, 32, 2]),
          };
          const rows = w.f32([20, 1, d], x);
          w.kernels.storeAffine(rows, page.values, page.valueParams, 0);
          const out = w.zeros('f32', [1, 1, d]);
          const segment: Segment = {
            ...{ keyForm: 'sketch', valueForm: 'affine4', pages: [page], pageLength: 32 },
            ...{ first: 0, length: 20, query: w.zeros('u32', [1, 1, 2]) },
            ...{ minDistance: 19 - position, maxDistance: 19 - position },
            scale: w.f32([1], Float32Array.of(1)),
          };
          w.kernels.attend([segment], shape, out);
          return [out];
        });
        // Of rows below f16's smallest number, 2^-24, the stored values are multiples of that.
        const largest = maxMagnitude(x.subarray(position * d, (position + 1) * d)) + 2 ** -24;
        expectClose(actual, expected, () => largest * affineBound);
      }
    });

    it('leaves no memory behind', () => expect(kernels.allocatedBytes).toBe(0));
  });
}

/** What every backend, the reference included, refuses, and with which error. */
export function describeRefusals(name: string, make: () => Promise<Kernels>): void {
  describe(`kernels: ${name} refuses`, () => {
    let kernels: Kernels;
    beforeAll(async () => {
      kernels = await make();
    });
    afterAll(() => kernels.dispose());

    const d = 64;
    const calls: Record<string, (w: Workspace, x: Tensor) => void> = {
      rmsNorm: (w, x) => w.kernels.rmsNorm(x, w.zeros('f32', [d]), 1e-6, x),
      linear: (w, x) => {
        const [weight, out] = [w.zeros('q8_0', [5, d]), w.zeros('f32', [3, 5])];
        w.kernels.linear(x, [{ weight, out }]);
      },
      storeRows: (w, x) =>
        w.kernels.storeRows({ ...x, shape: [3, 1, d] }, w.zeros('f16', [1, 3, d]), 0),
      storeSketch: (w, x) => {
        const [p, page] = [w.zeros('i8', [1, 32, d]), w.zeros('u32', [1, 3, 1])];
        w.kernels.storeSketch({ ...x, shape: [3, 1, d] }, p, page, 0);
      },
      storeFields: (w, x) => {
        const [codes, scales] = [w.zeros('u8', [1, 3, 2]), w.zeros('f16', [1, 3])];
        const rows = { ...x, shape: [3, 1, d] };
        w.kernels.storeFields(
          rows,
          w.zeros('f32', [1, d]),
          codes,
          scales,
          { fours: 0, twos: 8 },
          0,
        );
      },
      storeAffine: (w, x) => {
        const [codes, params] = [w.zeros('u8', [1, 3, d / 2]), w.zeros('f16', [1, 3, 2])];
        w.kernels.storeAffine({ ...x, shape: [3, 1, d] }, codes, params, 0);
      },
      storeCodes: (w, x) => {
        const codec = codecOf(w, { nKvHeads: 1, groups: 2, d, rule: 'norm' }, 19);
        const [keys, scales] = [w.zeros('u8', [1, 1, 2, 16]), w.zeros('f16', [1, 32])];
        w.kernels.storeCodes({ ...x, shape: [3, 1, d] }, codec, keys, scales, 0);
      },
      queryTables: (w, x) => {
        const codec = codecOf(w, { nKvHeads: 1, groups: 2, d, rule: 'norm' }, 19);
        const [tables, scales] = [w.zeros('i8', [1, 3, 2, 16]), w.zeros('f32', [1, 3])];
        w.kernels.queryTables({ ...x, shape: [3, 1, d] }, codec, tables, scales);
      },
    };
    it.each(Object.entries(calls))('%s: NaN and infinity', (kernel, call) => {
      for (const bad of [NaN, Infinity, -Infinity]) {
        for (const at of [0, 70, 3 * d - 1]) {
          const w = new Workspace(kernels);
          const data = normals(new Random(15), 3 * d);
          data[at] = bad;
          const message = new RegExp(`^${kernel}: element \\d+ is ${bad}`);
          expect(() => call(w, w.f32([3, d], data))).toThrow(
            expect.objectContaining({
              code: 'not-finite',
              message: expect.stringMatching(message),
            }),
          );
          w.release();
        }
      }
    });

    it.each(['storeRows', 'storeAffine'])('%s: values beyond f16', (kernel) => {
      const w = new Workspace(kernels);
      const x = w.f32([3, d], normals(new Random(16), 3 * d, 1e6));
      expect(() => calls[kernel](w, x)).toThrow(expect.objectContaining({ code: 'range' }));
      w.release();
    });

    it('shapes that do not fit', () => {
      const w = new Workspace(kernels);
      const x = w.zeros('f32', [3, d]);
      const shapeError = expect.objectContaining({ code: 'shape' });
      const [weight, out] = [w.zeros('f32', [5, d + 1]), w.zeros('f32', [3, 5])];
      expect(() => kernels.linear(x, [{ weight, out }])).toThrow(shapeError);
      expect(() =>
        kernels.storeRows({ ...x, shape: [3, 1, d] }, w.zeros('f32', [1, 4, d]), 2),
      ).toThrow(shapeError);
      expect(() => kernels.add(x, rows(x, 0, 2))).toThrow(shapeError);
      expect(() => kernels.embed(x, Int32Array.of(3), rows(x, 0, 1))).toThrow(/vocabulary of 3/);
      w.release();
    });
  });
}
