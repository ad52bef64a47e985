import { Random } from '../math/random.ts';

/** Entries of R are whole multiples of this: i8 keeps sketches exact integers on every backend. */
export const projectionStep = 1 / 32;

/**
 * The paper's R for one layer: N(0, 1) entries, rounded to steps of 1/32 and held within the reach
 * of i8 (|r| < 4, which 0.007 % of a normal distribution exceeds).
 * @returns i8 [nKvHeads, bits, headDim], in units of `projectionStep`
 */
export function gaussianProjection(
  seed: number,
  layer: number,
  nKvHeads: number,
  bits: number,
  headDim: number,
): Int8Array {
  const random = new Random(seed * 65536 + layer);
  return Int8Array.from({ length: nKvHeads * bits * headDim }, () =>
    toI8(random.normal() / projectionStep),
  );
}

const toI8 = (x: number) => Math.max(-127, Math.min(127, Math.round(x)));

/** A projection that was trained, as caches use it. @param r in units of `projectionStep` */
export function roundedProjection(r: Float32Array): Int8Array {
  return Int8Array.from(r, toI8);
}
