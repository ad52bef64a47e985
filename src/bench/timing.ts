/** What is reported of many timings of the same thing. */

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The speed that one in 20 exceeds: the others had to share the machine. */
export function undisturbed(speeds: readonly number[]): number {
  const sorted = [...speeds].sort((a, b) => b - a);
  return sorted[Math.floor(sorted.length / 20)];
}
