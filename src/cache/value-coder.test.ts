import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { Random } from '../math/random.ts';
import { ArrayKernels } from '../train/array-kernels.ts';
import type { LayerShape } from './cache.ts';
import {
  evenFields,
  expectFields,
  fieldErrors,
  ValueRotations,
  ValueCoder,
  valueBases,
} from './value-coder.ts';

const d = 64;
const shape: LayerShape = { nHeads: 4, nKvHeads: 2, headDimK: d, headDimV: d, scale: 1 };
const n = 500;

let kernels: Kernels;
let arrays: ArrayKernels;
beforeAll(async () => {
  kernels = await createKernels('auto', { threads: 1 });
  arrays = new ArrayKernels(kernels);
});
afterAll(() => {
  arrays.dispose();
  kernels.dispose();
});

/** Values whose channels have these deviations, in a direction that is not an axis, [n, 2, d]. */
function values(deviations: (c: number) => number): Float32Array {
  const random = new Random(4);
  const out = new Float32Array(n * 2 * d);
  for (let row = 0; row < 2 * n; row++) {
    const u = Float64Array.from({ length: d }, (_, c) => deviations(c) * random.normal());
    // Neighbours are turned into each other by 45 degrees.
    for (let c = 0; c < d; c += 2) {
      out[row * d + c] = (u[c] + u[c + 1]) / Math.SQRT2;
      out[row * d + c + 1] = (u[c] - u[c + 1]) / Math.SQRT2;
    }
  }
  return out;
}

function covariance(x: Float32Array): Float32Array {
  const out = new Float32Array(2 * d * d);
  for (let row = 0; row < 2 * n; row++) {
    for (let i = 0; i < d; i++) {
      for (let j = 0; j < d; j++) {
        out[((row % 2) * d + i) * d + j] += (x[row * d + i] * x[row * d + j]) / n;
      }
    }
  }
  return out;
}

const identity = Float32Array.from({ length: 2 * d * d }, (_, at) =>
  (at % (d * d)) % (d + 1) === 0 ? 1 : 0,
);

/** Share of the squares of values that their codes lose. */
function lost(x: Float32Array, coder: ValueCoder): number {
  const coded = arrays.fieldsRoundTrip(x, [2, d], coder);
  for (const { buffer } of coder.tensors) kernels.free(buffer);
  const sum = (of: (i: number) => number) => x.reduce((all, _, i) => all + of(i) ** 2, 0);
  return sum((i) => x[i] - coded[i]) / sum((i) => x[i]);
}

describe('values in fields', () => {
  it.each([2, 4] as const)(
    'of %i bits lose what the quantizer of a normal variable does',
    (bits) => {
      const rotations = new ValueRotations(kernels, 1);
      const coder = rotations.coder(shape, evenFields(bits, d));
      const share = lost(
        values(() => 3),
        coder,
      );
      rotations.dispose();
      // One scale for each row finds its own size, and matrices of 8 bits lose a little.
      expect(share).toBeLessThan(1.02 * fieldErrors[bits]);
      expect(share).toBeGreaterThan(0.75 * fieldErrors[bits]);
    },
  );

  it('lose less in the basis of their own, by what is said of its channels', () => {
    const x = values((c) => 0.9 ** c);
    const fields = { fours: 16, twos: 24 };
    const rotations = new ValueRotations(kernels, 1);
    const plain = rotations.coder(shape, evenFields(2, d));
    const bases = valueBases(shape, { values: covariance(x), outputs: identity });
    const own = new ValueCoder(kernels, shape, fields);
    own.fit(bases);
    // By identical outputs a channel costs its variance, which is what the basis says of it, squared.
    const costs = [...bases[0].variances].map((s) => s * s);
    const all = costs.reduce((a, b) => a + b);
    const expected = costs.reduce(
      (sum, cost, c) => sum + (cost / all) * fieldErrors[c < 16 ? 4 : c < 40 ? 2 : 0],
      0,
    );
    const [evenly, share] = [lost(x, plain), lost(x, own)];
    rotations.dispose();
    expect(share).toBeLessThan(0.3 * evenly);
    // One scale for each row follows its few large channels.
    expect(share / expected).toBeGreaterThan(0.4);
    expect(share / expected).toBeLessThan(1.1);
  });

  it('come back from their basis as they were, but for its 8 bits', () => {
    const x = values((c) => 0.9 ** c);
    const coder = new ValueCoder(kernels, shape, { fours: 16, twos: 24 });
    coder.fit(valueBases(shape, { values: covariance(x), outputs: identity }));
    const turned = { ...coder.tensors[0], shape: [1, 2, d] };
    kernels.write(turned, x.subarray(0, 2 * d));
    coder.turn(turned);
    coder.turnBack(turned);
    const back = kernels.view(turned) as Float32Array;
    const apart = Math.hypot(...back.map((y, i) => y - x[i])) / Math.hypot(...x.subarray(0, 2 * d));
    for (const { buffer } of coder.tensors) kernels.free(buffer);
    expect(apart).toBeLessThan(0.02);
  });

  it('are evenly as many as there are bits', () => {
    expect(evenFields(0.5, 64)).toEqual({ fours: 0, twos: 16 });
    expect(evenFields(2, 64)).toEqual({ fours: 0, twos: 64 });
    expect(evenFields(2.25, 64)).toEqual({ fours: 8, twos: 56 });
    expect(evenFields(4, 80)).toEqual({ fours: 80, twos: 0 });
    expect(evenFields(0.5, 8)).toEqual({ fours: 0, twos: 8 });
    expect(() => expectFields('x', { ...shape, headDimV: 20 })).toThrow(/multiple of 8/);
  });
});
