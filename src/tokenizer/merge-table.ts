/**
 * Ranks of merges by the ids of their two tokens, in 8 bytes a merge and 4 a token. Sorted and not
 * hashed: no file can make it slow.
 */
export class MergeTable {
  /** Merges of left token l are at starts[l] to starts[l + 1]. i32 [vocabSize + 1] */
  private readonly starts: Int32Array;
  /** Sorted within each left token. i32 [n] */
  private readonly rights: Int32Array;
  /** Of the same merge as in `rights`. i32 [n] */
  private readonly ranks: Int32Array;

  /**
   * @param lefts  token ids, i32 [n], best merge first
   * @param rights token ids, i32 [n]
   */
  constructor(lefts: Int32Array, rights: Int32Array, vocabSize: number) {
    const byRank = Int32Array.from(lefts.keys());
    const byRight = stableSort(byRank, rights, vocabSize).order;
    const { order, starts } = stableSort(byRight, lefts, vocabSize);
    this.starts = starts;
    this.rights = order.map((rank) => rights[rank]);
    this.ranks = order;
  }

  /** Place of the merge in the list, its best one if it is there twice; undefined if it is not. */
  rank(left: number, right: number): number | undefined {
    const last = this.starts[left + 1];
    let low = this.starts[left];
    for (let high = last; low < high;) {
      const middle = (low + high) >> 1;
      if (this.rights[middle] < right) low = middle + 1;
      else high = middle;
    }
    return low < last && this.rights[low] === right ? this.ranks[low] : undefined;
  }
}

/**
 * Counting sort of indices by their key.
 * @param keys whole numbers below `keyCount`, one per index
 * @returns starts: where each key's indices begin in `order`; i32 [keyCount + 1]
 */
function stableSort(indices: Int32Array, keys: Int32Array, keyCount: number) {
  const starts = new Int32Array(keyCount + 1);
  for (const key of keys) starts[key + 1]++;
  for (let key = 0; key < keyCount; key++) starts[key + 1] += starts[key];
  const next = starts.slice();
  const order = new Int32Array(indices.length);
  for (const index of indices) order[next[keys[index]]++] = index;
  return { order, starts };
}
