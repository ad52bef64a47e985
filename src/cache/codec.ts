/**
 * Codes for keys: which channels get how many bits, and what their codes stand for. A key k, less
 * its mean, becomes u = E k; channel j of u is quantized to `bits[j]` bits; a query becomes F q with
 * <F q, E k> = <q, k>. Codes are packed into nibbles so that one table of 16 entries per nibble
 * scores them (`queryTables` in src/kernels/kernels.ts).
 */
import { cholesky, orthonormalize, symmetricEigen } from '../math/linalg.ts';
import { Random } from '../math/random.ts';

/** The codec of one KV head,, as `Codec` in src/kernels/kernels.ts has it. */
export interface HeadCodec {
  /** E, [4 G, d]; row 4 g + j is the j-th channel of nibble g, zero where a nibble has fewer */
  readonly project: Float32Array;
  /** F, [4 G, d] */
  readonly queryProject: Float32Array;
  /** [G, 16, 4] */
  readonly levels: Float32Array;
  /** bits of each row that is in use; their count is `Codec.rows` */
  readonly bits: readonly number[];
}

/** What keys and queries of one KV head look like. */
export interface HeadStatistics {
  /** covariance of the keys, [d, d] */
  readonly keys: Float64Array;
  /** second moment of the queries of all its query heads, not centred, [d, d] */
  readonly queries: Float64Array;
}

/** A basis in which keys and queries of a head have one and the same second moment, a diagonal one. */
export interface BalancedBasis {
  /** E, [d, d]: key -> u; row j is channel j */
  readonly keys: Float64Array;
  /** F, [d, d]: query -> y, with <y, u> = <q, k> */
  readonly queries: Float64Array;
  /** of each channel, of u as of y, largest first, [d] */
  readonly variances: Float64Array;
}

/**
 * Levels of the quantizer of least squared error for a standard normal variable, by bits (Max 1960,
 * "Quantizing for Minimum Distortion", table I); the negative half is the mirror image.
 */
const positiveLevels: readonly (readonly number[])[] = [
  [],
  [0.7979],
  [0.4528, 1.51],
  [0.2451, 0.756, 1.344, 2.152],
  [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733],
];

/** All 2^bits levels, in ascending order. */
export function normalLevels(bits: number): number[] {
  const half = positiveLevels[bits];
  return [...half.map((x) => -x).reverse(), ...half];
}

/** Squared error of a standard normal variable at 0 to 4 bits (Max 1960). */
export const normalErrors: readonly number[] = [1, 0.3634, 0.1175, 0.03454, 0.009497];

export const maxChannelBits = 4;

/**
 * A codec without statistics: every channel after a random rotation is like every other, so bits
 * are spread evenly.
 * @param nibbles G; 4 G bits per key
 */
export function uniformCodec(d: number, nibbles: number, seed: number): HeadCodec {
  const rotation = randomRotation(d, seed);
  const bits = allocateBits(Array<number>(d).fill(1), nibbles);
  return packed(rotation, rotation, bits, nibbles, d, new Float64Array(d).fill(1));
}

/**
 * With K = L L^T and Q the second moments of keys and queries and U the eigenbasis of L^T Q L, whose
 * eigenvalues are S^2: E = S^(1/2) U^T L^-1, F = S^(-1/2) U^T L^T. Channels of E k are uncorrelated with
 * variances S, and so are those of F q.
 */
export function balancedBasis(statistics: HeadStatistics, d: number): BalancedBasis {
  const l = cholesky(ridge(statistics.keys, d), d);
  const { values, vectors } = symmetricEigen(between(ridge(statistics.queries, d), l, d), d);
  const keys = new Float64Array(d * d);
  const queries = new Float64Array(d * d);
  for (let row = 0; row < d; row++) {
    const u = vectors.subarray(row * d, (row + 1) * d);
    const factor = values[row] ** 0.25;
    for (let i = 0; i < d; i++) {
      let sum = 0;
      for (let j = 0; j <= i; j++) sum += l[i * d + j] * u[j];
      queries[row * d + i] = sum / factor;
    }
    // x L = u, from the last element on
    for (let i = d - 1; i >= 0; i--) {
      const x = u[i] / l[i * d + i];
      for (let j = 0; j < i; j++) u[j] -= x * l[i * d + j];
      keys[row * d + i] = factor * x;
    }
  }
  return { keys, queries, variances: values.map(Math.sqrt) };
}

/**
 * A codec in a balanced basis. An error of e times its standard deviation in channel j of a key costs
 * S_j^2 e^2 in the squared score; bits go, one by one, where they save most. The scale of a key weighs
 * its channels by S_j, half of what they count in the score: of the powers of S that were tried, 0 to
 * 1, the best.
 */
export function allocatedCodec(basis: BalancedBasis, d: number, nibbles: number): HeadCodec {
  const { keys, queries, variances } = basis;
  const bits = allocateBits(
    variances.map((s) => s * s),
    nibbles,
  );
  return packed(keys, queries, bits, nibbles, d, variances);
}

/**
 * Greedy allocation: bits of channel j lower the error from importance[j] * normalErrors[b] to
 * importance[j] * normalErrors[b + 1]. Never more than fits into `nibbles` nibbles.
 */
export function allocateBits(importance: ArrayLike<number>, nibbles: number): number[] {
  const bits = Array.from(importance, () => 0);
  const saving = (j: number) =>
    bits[j] < maxChannelBits
      ? importance[j] * (normalErrors[bits[j]] - normalErrors[bits[j] + 1])
      : -Infinity;
  const open = new Set(bits.keys());
  while (open.size > 0) {
    let best = -1;
    for (const j of open) if (best < 0 || saving(j) > saving(best)) best = j;
    bits[best]++;
    if (bits[best] > maxChannelBits || nibblesFor(bits) > nibbles) {
      bits[best]--;
      open.delete(best);
    }
  }
  return bits;
}

/** The fewest nibbles that hold channels of these bits, none of them split. */
function nibblesFor(bits: readonly number[]): number {
  const count = (b: number) => bits.filter((x) => x === b).length;
  const [twos, threes, fours] = [count(2), count(3), count(4)];
  const onesBesideThrees = Math.min(count(1), threes);
  const onesBesideTwos = Math.min(count(1) - onesBesideThrees, twos % 2 === 1 ? 2 : 0);
  const ones = count(1) - onesBesideThrees - onesBesideTwos;
  return fours + threes + Math.ceil(twos / 2) + Math.ceil(ones / 4);
}

/**
 * Lays the channels out in nibbles, widest first; channels of no bits are left out. Keys are coded
 * with their root mean square over the channels in use brought to 1, and so are the levels.
 */
function packed(
  e: Float64Array,
  f: Float64Array,
  bits: readonly number[],
  nibbles: number,
  d: number,
  variances: Float64Array,
): HeadCodec {
  const room = Array<number>(nibbles).fill(4);
  const members = room.map((): number[] => []);
  const widestFirst = [...bits.keys()].filter((j) => bits[j] > 0);
  widestFirst.sort((a, b) => bits[b] - bits[a] || a - b);
  const mean = widestFirst.reduce((sum, j) => sum + variances[j], 0) / widestFirst.length;
  for (const j of widestFirst) {
    const g = room.findIndex((left) => left >= bits[j]);
    room[g] -= bits[j];
    members[g].push(j);
  }
  const project = new Float32Array(4 * nibbles * d);
  const queryProject = new Float32Array(4 * nibbles * d);
  const levels = new Float32Array(nibbles * 64);
  members.forEach((channels, g) => {
    let shift = 0;
    channels.forEach((j, place) => {
      const row = (4 * g + place) * d;
      project.set(e.subarray(j * d, (j + 1) * d), row);
      queryProject.set(f.subarray(j * d, (j + 1) * d), row);
      const deviation = Math.sqrt(variances[j] / mean);
      const values = normalLevels(bits[j]).map((x) => x * deviation);
      for (let code = 0; code < 16; code++) {
        levels[(g * 16 + code) * 4 + place] = values[(code >> shift) & (values.length - 1)];
      }
      shift += bits[j];
    });
  });
  return { project, queryProject, levels, bits: members.flat().map((j) => bits[j]) };
}

/** A random rotation: Hadamard with random signs where d is a power of two, else by Gram-Schmidt. */
export function randomRotation(d: number, seed: number): Float64Array {
  const random = new Random(seed);
  const rows = new Float64Array(d * d);
  if ((d & (d - 1)) === 0) {
    const signs = Array.from({ length: d }, () => (random.uniform() < 0.5 ? -1 : 1));
    for (let i = 0; i < d; i++) {
      for (let j = 0; j < d; j++) rows[i * d + j] = (hadamardSign(i & j) * signs[j]) / Math.sqrt(d);
    }
    return rows;
  }
  for (let i = 0; i < rows.length; i++) rows[i] = random.normal();
  orthonormalize(rows, d);
  return rows;
}

/** (-1)^(number of ones in x): an entry of the Hadamard matrix (Sylvester 1867). */
function hadamardSign(x: number): number {
  let sign = 1;
  for (let rest = x; rest > 0; rest &= rest - 1) sign = -sign;
  return sign;
}

/** A small multiple of the identity on top: few samples must not make a direction look free. */
function ridge(a: Float64Array, d: number): Float64Array {
  const out = a.slice();
  let trace = 0;
  for (let i = 0; i < d; i++) trace += a[i * d + i];
  for (let i = 0; i < d; i++) out[i * d + i] += trace > 0 ? (ridgeShare * trace) / d : 1;
  return out;
}

const ridgeShare = 0.01;

/** L^T A L. @param l lower triangular */
function between(a: Float64Array, l: Float64Array, d: number): Float64Array {
  const half = new Float64Array(d * d);
  const out = new Float64Array(d * d);
  for (let i = 0; i < d; i++) {
    for (let k = 0; k < d; k++) {
      const x = a[i * d + k];
      for (let j = 0; j <= k; j++) half[i * d + j] += x * l[k * d + j];
    }
  }
  for (let k = 0; k < d; k++) {
    for (let i = 0; i <= k; i++) {
      const x = l[k * d + i];
      for (let j = 0; j < d; j++) out[i * d + j] += x * half[k * d + j];
    }
  }
  return out;
}
