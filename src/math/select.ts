/**
 * The value with place `count` from the top, 1 = largest (Hoare's quickselect).
 * @param values numbers; left as they are
 * @param count  1 .. values.length
 */
export function kthLargest(values: Float32Array, count: number): number {
  const a = values.slice();
  const place = count - 1;
  let [left, right] = [0, a.length - 1];
  while (left < right) {
    const pivot = a[(left + right) >> 1];
    let [i, j] = [left, right];
    while (i <= j) {
      while (a[i] > pivot) i++;
      while (a[j] < pivot) j--;
      if (i > j) break;
      const x = a[i];
      a[i++] = a[j];
      a[j--] = x;
    }
    // Everything up to j is at least the pivot, everything from i on at most; between lies the pivot.
    if (place <= j) right = j;
    else if (place >= i) left = i;
    else return pivot;
  }
  return a[place];
}
