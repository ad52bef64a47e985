import { ensure } from '../errors/errors.ts';
import { describe } from './hf-json.ts';

/**
 * SentencePiece's scores from ranked merges: minus the rank of the first merge that makes a token.
 * SentencePiece joins whatever two neighbours make a token, best score first. Merges give the same
 * ids only if they hold every way to make every token, as converting a SentencePiece model does;
 * a BPE trained otherwise holds one way each, and is refused.
 * @param tokens texts by id, and ids by text
 * @param isText whether an id may come from text: neither a control token nor a byte
 * @returns f32 [texts.length]; 0 for single characters, which nothing makes
 * @throws KvError "unsupported" if a token can be made in a way that no merge names
 */
export function sentencePieceScores(
  tokens: { readonly texts: readonly string[]; readonly ids: ReadonlyMap<string, number> },
  isText: (id: number) => boolean,
  merges: readonly (readonly [string, string])[],
): Float32Array<ArrayBuffer> {
  const scores = new Float32Array(tokens.texts.length);
  const known = new Set<string>();
  merges.forEach(([left, right], rank) => {
    known.add(`${left} ${right}`);
    const id = tokens.ids.get(left + right);
    ensure(
      id !== undefined,
      'format',
      () =>
        `tokenizer.json: merge ${describe([left, right])} makes a token that "vocab" lacks. ` +
        `Fetch the file again.`,
    );
    if (scores[id] === 0) scores[id] = -1 - rank;
  });
  const isPiece = (text: string) => {
    const id = tokens.ids.get(text);
    return id !== undefined && isText(id);
  };
  tokens.texts.forEach((text, id) => {
    if (!isText(id)) return;
    for (const at of boundaries(text)) {
      const [left, right] = [text.slice(0, at), text.slice(at)];
      ensure(
        known.has(`${left} ${right}`) || !isPiece(left) || !isPiece(right),
        'unsupported',
        () =>
          `tokenizer.json: ${describe(left)} and ${describe(right)} make a token but no merge ` +
          `says so; supported: merges made from a SentencePiece model. Use the model's GGUF file.`,
      );
    }
  });
  return scores;
}

/** Where a text can be cut without cutting a character. */
function boundaries(text: string): number[] {
  const cuts: number[] = [];
  let at = 0;
  for (const char of text) {
    if (at > 0) cuts.push(at);
    at += char.length;
  }
  return cuts;
}
