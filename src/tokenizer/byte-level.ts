import { Tokenizer as Library } from '@huggingface/tokenizers';
import { KvError } from '../errors/errors.ts';
import type { PreTokenizer } from './pre-tokenizers.ts';
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

/**
 * Byte-level BPE by merges.
 * @param merges "left right", best first
 * @returns ids of a text that holds no control tokens. A byte without a token is left out, as in
 *   llama.cpp.
 * @throws KvError "format" if a merge names a token that the vocabulary lacks
 */
export function byteLevelEncoder(
  vocabulary: Vocabulary,
  merges: readonly string[],
  pre: PreTokenizer,
): (text: string) => number[] {
  const pairs: [string, string][] = [];
  for (const merge of merges) {
    const space = merge.indexOf(' ', 1);
    const left = merge.slice(0, space);
    const right = merge.slice(space + 1);
    const missing =
      space < 0 ? merge : [left, right, left + right].find((piece) => !vocabulary.ids.has(piece));
    if (missing !== undefined) {
      throw new KvError(
        'format',
        `tokenizer: merge ${JSON.stringify(merge)} needs token ${JSON.stringify(missing)}, which tokenizer.ggml.tokens lacks. Convert the model again.`,
      );
    }
    if (vocabulary.textIds.has(left + right)) pairs.push([left, right]);
  }
  const split = (pattern: string) => ({
    type: 'Split',
    pattern: { Regex: pattern },
    behavior: 'Isolated',
    invert: false,
  });
  // The library reads added tokens in any text, so it is given none: the caller splits on them.
  const library = new Library(
    {
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [
          ...pre.patterns.map(split),
          { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
        ],
      },
      post_processor: null,
      decoder: null,
      model: {
        type: 'BPE',
        vocab: Object.fromEntries(vocabulary.textIds),
        merges: pairs,
        ignore_merges: pre.ignoreMerges ?? false,
      },
    },
    {},
  );
  return (text) => library.encode(text).ids;
}
