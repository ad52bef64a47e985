/** Rows that are added at a time: sums are read and written once for all of them. */
const rowsAtOnce = 4;

/** moments[head of group] += x x^T for every row. @param x [n, heads, d] @param moments [groups, d, d] */
export function addMoments(
  moments: Float64Array,
  x: Float32Array,
  d: number,
  heads: number,
  groups: number,
): void {
  addUpperMoments(moments, x, d, heads, groups);
  mirrorMoments(moments, d);
}

/** The same for the elements on and above the diagonals only. */
export function addUpperMoments(
  moments: Float64Array,
  x: Float32Array,
  d: number,
  heads: number,
  groups: number,
): void {
  const perGroup = heads / groups;
  const rows = (x.length / d / heads) * perGroup;
  const some = new Float64Array(rowsAtOnce * d);
  for (let group = 0; group < groups; group++) {
    for (let done = 0; done < rows; done += rowsAtOnce) {
      some.fill(0);
      for (let r = 0; r < Math.min(rowsAtOnce, rows - done); r++) {
        const head = group * perGroup + ((done + r) % perGroup);
        const at = (Math.floor((done + r) / perGroup) * heads + head) * d;
        for (let i = 0; i < d; i++) some[r * d + i] = x[at + i];
      }
      addFour(moments, group * d * d, some, d);
    }
  }
}

/** @param x [4, d] */
function addFour(moments: Float64Array, at: number, x: Float64Array, d: number): void {
  const [second, third, fourth] = [d, 2 * d, 3 * d];
  for (let i = 0; i < d; i++) {
    const [a, b, c, e] = [x[i], x[second + i], x[third + i], x[fourth + i]];
    const row = at + i * d;
    for (let j = i; j < d; j++) {
      moments[row + j] =
        moments[row + j] + a * x[j] + b * x[second + j] + c * x[third + j] + e * x[fourth + j];
    }
  }
}

/** Copies what is above the diagonals below them. */
export function mirrorMoments(moments: Float64Array, d: number): void {
  for (let at = 0; at < moments.length; at += d * d) {
    for (let i = 0; i < d; i++) {
      for (let j = 0; j < i; j++) moments[at + i * d + j] = moments[at + j * d + i];
    }
  }
}
