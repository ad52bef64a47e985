import { ensure, KvError } from '../errors/errors.ts';

/** Jacobi's method halves the digits that are wrong with each sweep near the end; 5 to 10 do in practice. */
const maxSweeps = 60;

/**
 * Eigenvalues and eigenvectors of a symmetric matrix (cyclic Jacobi rotations, Golub and Van Loan 8.5).
 * @param a [n, n] row-major, symmetric; left as it is
 * @returns values, largest first; row i of vectors [n, n] is the unit eigenvector of value i, its
 *   element of largest magnitude positive, so that the result is one and the same on every platform
 * @throws KvError "shape" if a is not n by n, "not-finite" for NaN or infinity
 */
export function symmetricEigen(
  a: Float64Array,
  n: number,
): { values: Float64Array; vectors: Float64Array } {
  ensure(
    a.length === n * n,
    'shape',
    () => `symmetricEigen: ${a.length} numbers are no ${n} by ${n} matrix.`,
  );
  const bad = a.findIndex((x) => !Number.isFinite(x));
  ensure(bad < 0, 'not-finite', () => `symmetricEigen: element ${bad} is ${a[bad]}.`);
  const m = a.slice();
  const v = new Float64Array(n * n);
  for (let i = 0; i < n; i++) v[i * n + i] = 1;

  const size = Math.sqrt(m.reduce((sum, x) => sum + x * x, 0));
  const negligible = (size * Number.EPSILON) / n;
  for (let sweep = 0; ; sweep++) {
    if (sweep === maxSweeps)
      throw new KvError('not-finite', `symmetricEigen: no end after ${maxSweeps} sweeps.`);
    let rotated = false;
    for (let p = 0; p < n - 1; p++) {
      for (let q = p + 1; q < n; q++) {
        if (Math.abs(m[p * n + q]) <= negligible) continue;
        rotate(m, v, n, p, q);
        rotated = true;
      }
    }
    if (!rotated) break;
  }

  const order = Array.from({ length: n }, (_, i) => i).sort(
    (i, j) => m[j * n + j] - m[i * n + i] || i - j,
  );
  const vectors = new Float64Array(n * n);
  order.forEach((from, to) => {
    const row = v.subarray(from * n, from * n + n);
    const extreme = row.reduce((most, x) => (Math.abs(x) > Math.abs(most) ? x : most), 0);
    vectors.set(extreme < 0 ? row.map((x) => -x) : row, to * n);
  });
  return { values: Float64Array.from(order, (i) => m[i * n + i]), vectors };
}

/** One Jacobi rotation: makes m[p, q] zero, and turns rows p and q of v, the vectors so far, alike. */
function rotate(m: Float64Array, v: Float64Array, n: number, p: number, q: number): void {
  const theta = (m[q * n + q] - m[p * n + p]) / (2 * m[p * n + q]);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
  const c = 1 / Math.sqrt(t * t + 1);
  const s = t * c;
  const turn = (x: Float64Array, at: number, other: number) => {
    const [u, w] = [x[at], x[other]];
    x[at] = c * u - s * w;
    x[other] = s * u + c * w;
  };
  for (let k = 0; k < n; k++) turn(m, k * n + p, k * n + q);
  for (let k = 0; k < n; k++) turn(m, p * n + k, q * n + k);
  m[p * n + q] = m[q * n + p] = 0;
  for (let k = 0; k < n; k++) turn(v, p * n + k, q * n + k);
}
