import { ensure } from '../errors/errors.ts';
import type { Vocabulary } from './vocabulary.ts';

/** Two neighbouring symbols, text[start, middle) and text[middle, end), that make a token. */
interface Candidate {
  readonly score: number;
  readonly start: number;
  readonly middle: number;
  readonly end: number;
}

const utf8 = new TextEncoder();

/** Name of the token that stands for a byte. */
const byteToken = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;

/**
 * SentencePiece BPE: of all neighbouring symbols that together make a token, the pair with the best
 * score merges first, the leftmost among equals; characters without a token become bytes.
 *
 * Our own loop and not `@huggingface/tokenizers`, whose BPE takes ranked merges: ranks cannot say
 * that equal scores tie by position, and a vocabulary with scores has no merges to rank.
 *
 * @param scores one per token id
 * @returns ids of a text in which U+2581 stands for spaces
 * @throws KvError "format" if some character could not be encoded at all
 */
export function sentencePieceEncoder(
  vocabulary: Vocabulary,
  scores: ArrayLike<number>,
): (text: string) => number[] {
  const { textIds } = vocabulary;
  const fallbackIds = Array.from({ length: 256 }, (_, byte) => {
    const id = vocabulary.ids.get(byteToken(byte)) ?? vocabulary.unknownId;
    ensure(
      id !== undefined,
      'format',
      () =>
        `tokenizer: there is no token ${byteToken(byte)} and no unknown_token_id; text needs one of them. Convert the model again.`,
    );
    return id;
  });

  // A boundary between two characters that no token holds side by side can never be merged away.
  // Cutting there changes no id and keeps the merge queue short, so that time is linear.
  const joinable = new Set<string>();
  for (const piece of textIds.keys()) {
    let previous = '';
    for (const char of piece) {
      if (previous) joinable.add(previous + char);
      previous = char;
    }
  }

  function appendSymbol(symbol: string, ids: number[]): void {
    const id = textIds.get(symbol);
    if (id !== undefined) {
      ids.push(id);
      return;
    }
    for (const byte of utf8.encode(symbol)) ids.push(fallbackIds[byte]);
  }

  function appendSegment(text: string, ids: number[]): void {
    // Symbols are known by where they start: ends[i] is the end of the symbol that starts at i,
    // or 0; starts[i] is the start of the symbol that ends at i.
    const ends = new Int32Array(text.length + 1);
    const starts = new Int32Array(text.length + 1);
    const queue: Candidate[] = [];

    const consider = (start: number, middle: number, end: number) => {
      const id = textIds.get(text.slice(start, end));
      if (id !== undefined) push(queue, { score: scores[id], start, middle, end });
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
    for (let i = 0; i < text.length; i = ends[i]) appendSymbol(text.slice(i, ends[i]), ids);
  }

  return (text) => {
    const ids: number[] = [];
    let start = 0;
    let at = 0;
    let previous = '';
    for (const char of text) {
      if (previous && !joinable.has(previous + char)) {
        appendSegment(text.slice(start, at), ids);
        start = at;
      }
      previous = char;
      at += char.length;
    }
    if (text) appendSegment(text.slice(start), ids);
    return ids;
  };
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
