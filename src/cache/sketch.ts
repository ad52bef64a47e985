import { orthonormalize } from '../math/linalg.ts';
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

/**
 * Another R for one layer: rows of a Gaussian one made orthogonal in blocks of `headDim` rows, so that the
 * signs of a block repeat less of each other. Rows are sqrt(headDim) long before they are rounded to steps
 * of 1/32; the last block of a head may have fewer.
 * @returns i8 [nKvHeads, bits, headDim], in units of `projectionStep`
 */
export function orthogonalProjection(
  seed: number,
  layer: number,
  nKvHeads: number,
  bits: number,
  headDim: number,
): Int8Array {
  const random = new Random(seed * 65536 + layer);
  const all = Float64Array.from({ length: nKvHeads * bits * headDim }, () => random.normal());
  for (let head = 0; head < nKvHeads; head++) {
    for (let row = 0; row < bits; row += headDim) {
      const end = head * bits + Math.min(bits, row + headDim);
      orthonormalize(all.subarray((head * bits + row) * headDim, end * headDim), headDim);
    }
  }
  return Int8Array.from(all, (x) => toI8((x * Math.sqrt(headDim)) / projectionStep));
}

const toI8 = (x: number) => Math.max(-127, Math.min(127, Math.round(x)));

/** A projection that was trained, as caches use it. @param r in units of `projectionStep` */
export function roundedProjection(r: Float32Array): Int8Array {
  return new Int8Array(r.map(toI8));
}
