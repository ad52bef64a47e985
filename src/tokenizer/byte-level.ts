import { KvError } from '../errors/errors.ts';
import { mergeSymbols } from './merge-symbols.ts';
import { MergeTable } from './merge-table.ts';
import type { PreTokenizer } from './pre-tokenizers.ts';
import type { StringList } from './token-table.ts';
import type { Vocabulary } from './vocabulary.ts';

/**
 * The characters that stand for bytes in a byte-level vocabulary (GPT-2): printable Latin-1 stands
 * for itself, every other byte b, in order, for U+0100 and up.
 */
const byteOfChar: ReadonlyMap<string, number> = (() => {
  const printable = (b: number) =>
    (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  const alphabet = new Map<string, number>();
  let next = 0x100;
  for (let b = 0; b < 256; b++) alphabet.set(String.fromCharCode(printable(b) ? b : next++), b);
  return alphabet;
})();

const utf8 = new TextEncoder();

/** Bytes of a byte-level piece; a character outside the alphabet gives its own UTF-8. */
export function byteLevelBytes(piece: string): Uint8Array {
  return Uint8Array.from(
    Array.from(piece).flatMap((char) => byteOfChar.get(char) ?? Array.from(utf8.encode(char))),
  );
}

/** The characters of `byteOfChar`, by byte. */
const charOfByte = Array.from(byteOfChar.keys());

/**
 * Byte-level BPE by merges.
 *
 * Our own and not `@huggingface/tokenizers`, which keeps every merge as strings several times over:
 * 130 MB for a vocabulary like Llama 3's.
 *
 * @param merges "left right", best first
 * @returns ids of a text that holds no control tokens. A byte without a token is left out, as in
 *   llama.cpp.
 * @throws KvError "format" if a merge names a token that the vocabulary lacks
 */
export function byteLevelEncoder(
  vocabulary: Vocabulary,
  merges: StringList,
  pre: PreTokenizer,
): (text: string) => number[] {
  const { tokens, textId } = vocabulary;
  const table = readMerges(vocabulary, merges);
  const patterns = pre.patterns.map(unicodePattern);

  function encodeWord(word: string): number[] {
    const text = Array.from(utf8.encode(word), (byte) => charOfByte[byte]).join('');
    const whole = pre.ignoreMerges ? textId(text) : undefined;
    if (whole !== undefined) return [whole];
    const symbols = mergeSymbols(text, (start, middle, end) => {
      const left = tokens.idOf(text.slice(start, middle));
      const right = tokens.idOf(text.slice(middle, end));
      if (left === undefined || right === undefined) return undefined;
      const rank = table.rank(left, right);
      return rank === undefined ? undefined : -rank;
    });
    return symbols.flatMap((symbol) => textId(symbol) ?? []);
  }

  return (text) => {
    let words = [text];
    for (const pattern of patterns) words = words.flatMap((word) => cutWords(word, pattern));
    return words.flatMap(encodeWord);
  };
}

/** @throws KvError "format" if a merge names a token that the vocabulary lacks */
function readMerges({ tokens, textId }: Vocabulary, merges: StringList): MergeTable {
  const lefts = new Int32Array(merges.length);
  const rights = new Int32Array(merges.length);
  let count = 0;
  for (const merge of merges) {
    const space = merge.indexOf(' ', 1);
    const left = merge.slice(0, space);
    const right = merge.slice(space + 1);
    const missing =
      space < 0
        ? merge
        : [left, right, left + right].find((piece) => tokens.idOf(piece) === undefined);
    if (missing !== undefined) {
      throw new KvError(
        'format',
        `tokenizer: merge ${JSON.stringify(merge)} needs token ${JSON.stringify(missing)}, which tokenizer.ggml.tokens lacks. Convert the model again.`,
      );
    }
    if (textId(left + right) === undefined) continue; // no text becomes a control token
    lefts[count] = tokens.idOf(left) ?? 0;
    rights[count] = tokens.idOf(right) ?? 0;
    count++;
  }
  return new MergeTable(lefts.subarray(0, count), rights.subarray(0, count), tokens.length);
}

/** `\s` is Unicode's white space, as in llama.cpp; JavaScript's has U+FEFF and lacks U+0085. */
function unicodePattern(pattern: string): RegExp {
  const source = pattern
    .replaceAll('\\s', '\\p{White_Space}')
    .replaceAll('\\S', '\\P{White_Space}');
  return new RegExp(source, 'gu');
}

/** The matches of the pattern and the text between them. */
function cutWords(text: string, pattern: RegExp): string[] {
  const words: string[] = [];
  let end = 0;
  for (const { 0: match, index } of text.matchAll(pattern)) {
    if (index > end) words.push(text.slice(end, index));
    words.push(match);
    end = index + match.length;
  }
  if (end < text.length) words.push(text.slice(end));
  return words;
}
