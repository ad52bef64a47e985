/** moments[head of group] += x x^T for every row. @param x [n, heads, d] @param moments [groups, d, d] */
export function addMoments(
  moments: Float64Array,
  x: Float32Array,
  d: number,
  heads: number,
  groups: number,
): void {
  for (let row = 0; row * d < x.length; row++) {
    const group = Math.floor(((row % heads) * groups) / heads);
    for (let i = 0; i < d; i++) {
      const [xi, at] = [x[row * d + i], (group * d + i) * d];
      for (let j = 0; j < d; j++) moments[at + j] += xi * x[row * d + j];
    }
  }
}
