import { ensure, KvError } from '../errors/errors.ts';

/**
 * Makes rows orthonormal, in place, one after the other (modified Gram-Schmidt).
 * @param rows [n, d], n at most d, linearly independent
 */
export function orthonormalize(rows: Float64Array, d: number): void {
  for (let i = 0; i < rows.length / d; i++) {
    const row = rows.subarray(i * d, (i + 1) * d);
    for (let k = 0; k < i; k++) {
      const other = rows.subarray(k * d, (k + 1) * d);
      const along = row.reduce((sum, x, j) => sum + x * other[j], 0);
      for (let j = 0; j < d; j++) row[j] -= along * other[j];
    }
    const norm = Math.hypot(...row);
    for (let j = 0; j < d; j++) row[j] /= norm;
  }
}

/** Steps of the QL method for one eigenvalue: 1 or 2 in practice. */
const maxSteps = 60;

/**
 * Eigenvalues and eigenvectors of a symmetric matrix: Householder reflections to a tridiagonal one, then
 * the QL method with implicit shifts (Golub and Van Loan 8.3). Both work along rows.
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
  const { diagonal, beside, basis } = tridiagonal(a.slice(), n);
  diagonalize(diagonal, beside, basis, n);

  const order = Array.from({ length: n }, (_, i) => i).sort(
    (i, j) => diagonal[j] - diagonal[i] || i - j,
  );
  const vectors = new Float64Array(n * n);
  order.forEach((from, to) => {
    const row = basis.subarray(from * n, from * n + n);
    const extreme = row.reduce((most, x) => (Math.abs(x) > Math.abs(most) ? x : most), 0);
    vectors.set(extreme < 0 ? row.map((x) => -x) : row, to * n);
  });
  return { values: Float64Array.from(order, (i) => diagonal[i]), vectors };
}

/**
 * A = B^T T B with B orthonormal and T tridiagonal.
 * @param m A, overwritten
 * @returns the diagonal of T, the numbers beside it (and a zero), and B [n, n]
 */
function tridiagonal(m: Float64Array, n: number) {
  const diagonal = new Float64Array(n);
  const beside = new Float64Array(n);
  const factors = new Float64Array(n);
  const w = new Float64Array(n);
  for (let k = 0; k < n - 1; k++) {
    // Row k right of the diagonal becomes v; I - factor v v^T leaves only its first element.
    const row = k * n;
    let [first, rest] = [m[row + k + 1], 0];
    for (let j = k + 2; j < n; j++) rest += m[row + j] ** 2;
    beside[k] = first;
    if (rest === 0) continue;
    beside[k] = (first > 0 ? -1 : 1) * Math.sqrt(first * first + rest);
    first -= beside[k];
    m[row + k + 1] = first;
    const factor = (factors[k] = 2 / (first * first + rest));
    let along = 0;
    for (let i = k + 1; i < n; i++) {
      let sum = 0;
      for (let j = k + 1; j < n; j++) sum += m[i * n + j] * m[row + j];
      w[i] = factor * sum;
      along += w[i] * m[row + i];
    }
    for (let i = k + 1; i < n; i++) w[i] -= 0.5 * factor * along * m[row + i];
    for (let i = k + 1; i < n; i++) {
      const [vi, wi] = [m[row + i], w[i]];
      for (let j = k + 1; j < n; j++) m[i * n + j] -= vi * w[j] + wi * m[row + j];
    }
  }
  const basis = new Float64Array(n * n);
  for (let i = 0; i < n; i++) [basis[i * n + i], diagonal[i]] = [1, m[i * n + i]];
  for (let k = n - 3; k >= 0; k--) {
    for (let i = k + 1; i < n; i++) {
      let sum = 0;
      for (let j = k + 1; j < n; j++) sum += basis[i * n + j] * m[k * n + j];
      sum *= factors[k];
      for (let j = k + 1; j < n; j++) basis[i * n + j] -= sum * m[k * n + j];
    }
  }
  return { diagonal, beside, basis };
}

/** Makes the numbers beside the diagonal zero, and turns the rows of the basis along. */
function diagonalize(d: Float64Array, e: Float64Array, basis: Float64Array, n: number): void {
  let size = 0;
  for (let i = 0; i < n; i++) size = Math.max(size, Math.abs(d[i]) + Math.abs(e[i]));
  const negligible = size * Number.EPSILON;
  for (let low = 0; low < n; low++) {
    for (let step = 0; ; step++) {
      let high = low;
      while (high < n - 1 && Math.abs(e[high]) > negligible) high++;
      if (high === low) break;
      if (step === maxSteps)
        throw new KvError('not-finite', `symmetricEigen: no end after ${maxSteps} steps.`);
      qlStep(d, e, basis, n, low, high);
    }
  }
}

/** One QL step on rows low to high, with Wilkinson's shift, chased from the bottom up. */
function qlStep(
  d: Float64Array,
  e: Float64Array,
  basis: Float64Array,
  n: number,
  low: number,
  high: number,
): void {
  const half = (d[low + 1] - d[low]) / (2 * e[low]);
  const root = (half < 0 ? -1 : 1) * Math.sqrt(half * half + 1);
  let g = d[high] - d[low] + e[low] / (half + root);
  let [s, c, shift] = [1, 1, 0];
  for (let i = high - 1; i >= low; i--) {
    const [f, b] = [s * e[i], c * e[i]];
    const r = Math.sqrt(f * f + g * g);
    e[i + 1] = r;
    if (r === 0) {
      // The matrix falls in two here.
      d[i + 1] -= shift;
      e[high] = 0;
      return;
    }
    [s, c] = [f / r, g / r];
    const moved = d[i + 1] - shift;
    const turned = (d[i] - moved) * s + 2 * c * b;
    shift = s * turned;
    d[i + 1] = moved + shift;
    g = c * turned - b;
    const [upper, lower] = [i * n, (i + 1) * n];
    for (let k = 0; k < n; k++) {
      const [x, y] = [basis[upper + k], basis[lower + k]];
      basis[upper + k] = c * x - s * y;
      basis[lower + k] = s * x + c * y;
    }
  }
  d[low] -= shift;
  e[low] = g;
  e[high] = 0;
}

/**
 * L, lower triangular, with A = L L^T.
 * @param a [n, n] row-major, symmetric and positive definite
 * @returns [n, n], zero above the diagonal
 */
export function cholesky(a: Float64Array, n: number): Float64Array {
  const l = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = a[i * n + j];
      for (let k = 0; k < j; k++) sum -= l[i * n + k] * l[j * n + k];
      l[i * n + j] = i === j ? Math.sqrt(sum) : sum / l[j * n + j];
    }
  }
  return l;
}
