/**
 * Attention of one query over some rows, in f64: for methods that need the weights themselves.
 * @param q    f32 [headDimK]
 * @param keys `count` rows f32 [headDimK], and as many values f32 [headDimV]
 * @param out  f32 [headDimV], overwritten
 * @returns the weights, f64 [count]; they sum to 1
 */
export function attendRows(
  q: Float32Array,
  keys: readonly Float32Array[],
  values: readonly Float32Array[],
  scale: number,
  out: Float32Array,
): Float64Array {
  const weights = Float64Array.from(keys, (key) => scale * dot(q, key));
  const max = weights.reduce((m, x) => Math.max(m, x), -Infinity);
  let total = 0;
  weights.forEach((logit, j) => (total += weights[j] = Math.exp(logit - max)));
  const sums = new Float64Array(out.length);
  values.forEach((value, j) => {
    weights[j] /= total;
    for (let c = 0; c < sums.length; c++) sums[c] += weights[j] * value[c];
  });
  out.set(sums);
  return weights;
}

export function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
