import { ensure } from '../errors/errors.ts';
import { mergeSymbols } from './merge-symbols.ts';
import type { Vocabulary } from './vocabulary.ts';

const utf8 = new TextEncoder();

/** Name of the token that stands for a byte. */
const byteToken = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;

/**
 * SentencePiece BPE: of all neighbouring symbols that together make a token, the pair with the best
 * score merges first, the leftmost among equals; characters without a token become bytes.
 *
 * A vocabulary with scores has no merges: any two symbols merge whose text is a token.
 *
 * @param scores one per token id
 * @returns ids of a text in which U+2581 stands for spaces
 * @throws KvError "format" if some character could not be encoded at all
 */
export function sentencePieceEncoder(
  vocabulary: Vocabulary,
  scores: ArrayLike<number>,
): (text: string) => number[] {
  const fallbackIds = Array.from({ length: 256 }, (_, byte) => {
    const id = vocabulary.tokens.idOf(byteToken(byte)) ?? vocabulary.unknownId;
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
  for (let id = 0; id < vocabulary.tokens.length; id++) {
    const piece = vocabulary.tokens.at(id);
    if (vocabulary.textId(piece) === undefined) continue;
    let previous = '';
    for (const char of piece) {
      if (previous) joinable.add(previous + char);
      previous = char;
    }
  }

  function appendSymbol(symbol: string, ids: number[]): void {
    const id = vocabulary.textId(symbol);
    if (id !== undefined) {
      ids.push(id);
      return;
    }
    for (const byte of utf8.encode(symbol)) ids.push(fallbackIds[byte]);
  }

  function appendSegment(text: string, ids: number[]): void {
    const symbols = mergeSymbols(text, (start, _, end) => {
      const id = vocabulary.textId(text.slice(start, end));
      return id === undefined ? undefined : scores[id];
    });
    for (const symbol of symbols) appendSymbol(symbol, ids);
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
