/** Two neighbouring symbols, text[start, middle) and text[middle, end), that may become one. */
interface Candidate {
  readonly score: number;
  readonly start: number;
  readonly middle: number;
  readonly end: number;
}

/**
 * The loop of byte-pair encoding: symbols are characters at first; of all neighbours that may merge,
 * the pair with the best score does, the leftmost among equals. Time is n log n in the text's length.
 * @param scoreOf score of merging text[start, middle) with text[middle, end), the higher the sooner;
 *   undefined if they never merge
 * @returns the symbols that are left, in order
 */
export function mergeSymbols(
  text: string,
  scoreOf: (start: number, middle: number, end: number) => number | undefined,
): string[] {
  // Symbols are known by where they start: ends[i] is the end of the symbol that starts at i,
  // or 0; starts[i] is the start of the symbol that ends at i.
  const ends = new Int32Array(text.length + 1);
  const starts = new Int32Array(text.length + 1);
  const queue: Candidate[] = [];

  const consider = (start: number, middle: number, end: number) => {
    const score = scoreOf(start, middle, end);
    if (score !== undefined) push(queue, { score, start, middle, end });
  };

  let at = 0;
  for (const char of text) {
    ends[at] = at + char.length;
    starts[at + char.length] = at;
    if (at > 0) consider(starts[at], at, ends[at]);
    at += char.length;
  }
  for (let best = pop(queue); best; best = pop(queue)) {
    const { start, middle, end } = best;
    if (ends[start] !== middle || ends[middle] !== end) continue; // one of the two has merged
    ends[start] = end;
    ends[middle] = 0;
    starts[end] = start;
    if (start > 0) consider(starts[start], start, end);
    if (end < text.length) consider(start, end, ends[end]);
  }
  const symbols: string[] = [];
  for (let i = 0; i < text.length; i = ends[i]) symbols.push(text.slice(i, ends[i]));
  return symbols;
}

const goesFirst = (a: Candidate, b: Candidate) =>
  a.score > b.score || (a.score === b.score && a.start < b.start);

/** Adds to a binary heap whose first element goes first. */
function push(heap: Candidate[], item: Candidate): void {
  let i = heap.length;
  while (i > 0) {
    const parent = (i - 1) >> 1;
    if (!goesFirst(item, heap[parent])) break;
    heap[i] = heap[parent];
    i = parent;
  }
  heap[i] = item;
}

/** Takes the first element out of the heap. */
function pop(heap: Candidate[]): Candidate | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (!last || heap.length === 0) return last;
  let i = 0;
  for (let child = 1; child < heap.length; child = 2 * i + 1) {
    if (child + 1 < heap.length && goesFirst(heap[child + 1], heap[child])) child++;
    if (!goesFirst(heap[child], last)) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = last;
  return first;
}
