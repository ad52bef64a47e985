/** Attention by whole matrices: for methods that look at the scores or at the weights. */
import type { Kernels } from '../kernels/kernels.ts';
import type { LayerShape } from './cache.ts';
import { allocTensors } from './constants.ts';

/** Rows of the same length, one after the other. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  /** [rows, columns] */
  readonly data: Float32Array;
}

export function matrix(rows: readonly Float32Array[], columns: number): Matrix {
  const data = new Float32Array(rows.length * columns);
  rows.forEach((row, i) => data.set(row, i * columns));
  return { rows: rows.length, columns, data };
}

/** The first rows of a matrix; they share its memory. */
export function firstRows({ columns, data }: Matrix, rows: number): Matrix {
  return { rows, columns, data: data.subarray(0, rows * columns) };
}

export const rowOf = ({ columns, data }: Matrix, i: number) =>
  data.subarray(i * columns, (i + 1) * columns);

/** Kernels sum in blocks; in whole ones a sum does not depend on how many zeros follow its terms. */
const block = 64;

/** The matrix with zeros after its rows and columns, which are whole blocks then. */
function padded(rows: number, { rows: given, columns, data }: Matrix): Matrix {
  const wide = Math.ceil(columns / block) * block;
  const out = new Float32Array(rows * wide);
  for (let i = 0; i < given; i++) out.set(data.subarray(i * columns, (i + 1) * columns), i * wide);
  return { rows, columns: wide, data: out };
}

/**
 * Scalar products of the rows of a with those of b, [a.rows, b.rows]: a b^T. One of them is the same
 * whatever other rows there are, and whatever zeros follow in both.
 */
export function products(kernels: Kernels, a: Matrix, b: Matrix): Matrix {
  const left = padded(a.rows, a);
  const right = padded(Math.ceil(b.rows / block) * block, b);
  const tensors = allocTensors(kernels, [
    { dtype: 'f32', shape: [left.rows, left.columns] },
    { dtype: 'f32', shape: [right.rows, right.columns] },
    { dtype: 'f32', shape: [left.rows, right.rows] },
  ]);
  try {
    const [x, weight, out] = tensors;
    kernels.write(x, left.data);
    kernels.write(weight, right.data);
    kernels.linear(x, [{ weight, out }]);
    const found = kernels.view(out) as Float32Array;
    const data = new Float32Array(a.rows * b.rows);
    for (let i = 0; i < a.rows; i++) {
      data.set(found.subarray(i * right.rows, i * right.rows + b.rows), i * b.rows);
    }
    return { rows: a.rows, columns: b.rows, data };
  } finally {
    for (const { buffer } of tensors) kernels.free(buffer);
  }
}

/**
 * Softmax over the scores of some queries, times the values.
 * @param hide writes -Infinity over the logits of the keys that query i does not see; one has to be left
 * @returns weights [queries, keys], and out [queries, headDimV]
 */
export function attendMatrices(
  kernels: Kernels,
  {
    queries,
    keys,
    values,
    scale,
  }: { queries: Matrix; keys: Matrix; values: Matrix; scale: number },
  hide: (i: number, logits: Float32Array) => void,
): { weights: Matrix; out: Matrix } {
  const weights = products(kernels, queries, keys);
  for (let i = 0; i < weights.rows; i++) {
    const row = rowOf(weights, i);
    for (let j = 0; j < row.length; j++) row[j] *= scale;
    hide(i, row);
    softmax(row);
  }
  return { weights, out: products(kernels, weights, transposed(values)) };
}

/** The queries of one KV head at positions `from .. to - 1` of a step, [(to - from) group, headDimK]. */
export function queriesOf(
  q: Float32Array,
  { nHeads, nKvHeads, headDimK }: LayerShape,
  kvHead: number,
  from: number,
  to: number,
): Matrix {
  const group = nHeads / nKvHeads;
  const rows = Array.from({ length: (to - from) * group }, (_, row) => {
    const at = (from + Math.floor(row / group)) * nHeads + kvHead * group + (row % group);
    return q.subarray(at * headDimK, (at + 1) * headDimK);
  });
  return matrix(rows, headDimK);
}

/** Writes what `queriesOf` asked for to its place in out, f32 [n, nHeads, headDimV]. */
export function putRows(
  rows: Matrix,
  out: Float32Array,
  { nHeads, nKvHeads, headDimV }: LayerShape,
  kvHead: number,
  from: number,
): void {
  const group = nHeads / nKvHeads;
  for (let row = 0; row < rows.rows; row++) {
    const at = (from + Math.floor(row / group)) * nHeads + kvHead * group + (row % group);
    out.set(rowOf(rows, row), at * headDimV);
  }
}

/** In place; what is -Infinity becomes 0. */
function softmax(row: Float32Array): void {
  let max = -Infinity;
  for (const x of row) if (x > max) max = x;
  let total = 0;
  for (let j = 0; j < row.length; j++) {
    row[j] = row[j] === -Infinity ? 0 : Math.exp(row[j] - max);
    total += row[j];
  }
  for (let j = 0; j < row.length; j++) row[j] /= total;
}

function transposed({ rows, columns, data }: Matrix): Matrix {
  const turned = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) turned[j * rows + i] = data[i * columns + j];
  }
  return { rows: columns, columns: rows, data: turned };
}
