import type { Random } from '../math/random.ts';

/** Lloyd's iterations stop when no point changes its cluster, or after this many: the rest gains little. */
const maxIterations = 50;

/**
 * Centres of `count` clusters (k-means++ seeding, Arthur and Vassilvitskii 2007; then Lloyd).
 * @param points f32 [n, d], n at least 1
 * @returns f32 [count, d]; where there are fewer distinct points than clusters, some are the same
 */
export function kMeans(
  points: Float32Array,
  d: number,
  count: number,
  random: Random,
): Float32Array {
  const n = points.length / d;
  const centres = seedCentres(points, d, count, random);
  const cluster = new Int32Array(n).fill(-1);
  for (let iteration = 0; iteration < maxIterations; iteration++) {
    let moved = false;
    for (let i = 0; i < n; i++) {
      const next = nearest(points, i * d, centres, 0, d, count);
      if (next !== cluster[i]) moved = true;
      cluster[i] = next;
    }
    if (!moved) break;
    moveToMeans(points, d, cluster, centres);
  }
  return centres;
}

/**
 * Index of the centre with the least squared distance to a point; of equal ones the first.
 * @param at   where the point begins in `points`
 * @param from where the centres begin in `centres`
 */
export function nearest(
  points: Float32Array,
  at: number,
  centres: Float32Array,
  from: number,
  d: number,
  count: number,
): number {
  let [best, least] = [0, Infinity];
  for (let k = 0; k < count; k++) {
    const distance = squaredDistance(points, at, centres, from + k * d, d);
    if (distance < least) [best, least] = [k, distance];
  }
  return best;
}

/** Each further centre is a point, drawn with a chance in proportion to its squared distance to those before. */
function seedCentres(points: Float32Array, d: number, count: number, random: Random): Float32Array {
  const n = points.length / d;
  const centres = new Float32Array(count * d);
  const distances = new Float64Array(n).fill(Infinity);
  let chosen = Math.floor(random.uniform() * n);
  for (let k = 0; k < count; k++) {
    centres.set(points.subarray(chosen * d, chosen * d + d), k * d);
    let total = 0;
    for (let i = 0; i < n; i++) {
      distances[i] = Math.min(distances[i], squaredDistance(points, i * d, centres, k * d, d));
      total += distances[i];
    }
    let left = random.uniform() * total;
    chosen = distances.findIndex((distance) => distance > 0 && (left -= distance) < 0);
    if (chosen < 0) chosen = 0;
  }
  return centres;
}

/** A cluster without points keeps its centre. */
function moveToMeans(
  points: Float32Array,
  d: number,
  cluster: Int32Array,
  centres: Float32Array,
): void {
  const sums = new Float64Array(centres.length);
  const sizes = new Float64Array(centres.length / d);
  cluster.forEach((k, i) => {
    sizes[k]++;
    for (let c = 0; c < d; c++) sums[k * d + c] += points[i * d + c];
  });
  sums.forEach((sum, at) => {
    const size = sizes[Math.floor(at / d)];
    if (size > 0) centres[at] = sum / size;
  });
}

function squaredDistance(
  a: Float32Array,
  at: number,
  b: Float32Array,
  from: number,
  d: number,
): number {
  let sum = 0;
  for (let c = 0; c < d; c++) sum += (a[at + c] - b[from + c]) ** 2;
  return sum;
}
