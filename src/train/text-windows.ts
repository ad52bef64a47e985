import { ensure } from '../errors/errors.ts';
import { Random } from '../math/random.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';

/** The last of every text, which is not trained on: it says when to stop. */
const heldOutShare = 0.1;
/** Characters that hold a token in any language that models are trained on; fewer are asked for again. */
const charactersPerToken = 8;

/**
 * Windows of tokens out of texts, drawn by number: the same number always gives the same window, so
 * that a run that was broken off goes on as if it had not been. Only what is drawn is tokenized.
 */
export class TextWindows {
  private readonly ends: number[];

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly texts: readonly string[],
    private readonly size: number,
    private readonly seed: number,
  ) {
    let end = 0;
    this.ends = texts.map((text) => (end += text.length));
    const shortest = Math.ceil((size * charactersPerToken) / heldOutShare);
    ensure(
      texts.length > 0 && texts.every(({ length }) => length >= shortest),
      'usage',
      () =>
        `finetune: windows of ${size} tokens need texts of ${shortest} characters and more; the shortest given has ${Math.min(...texts.map(({ length }) => length))}. Give longer ones, or a smaller --window.`,
    );
  }

  /** Window `index` of the training part of the texts. */
  training(index: number): Int32Array {
    return this.draw(new Random(this.seed * 1_000_003 + index), 0, 1 - heldOutShare);
  }

  /** Window `index` of the part that is held out. */
  heldOut(index: number): Int32Array {
    return this.draw(new Random(index), 1 - heldOutShare, 1);
  }

  /** @param from, to shares of a text, 0 to 1 */
  private draw(random: Random, from: number, to: number): Int32Array {
    const place = random.uniform() * (this.ends.at(-1) ?? 0);
    const text = this.texts[this.ends.findIndex((end) => place < end)];
    const length = this.size * charactersPerToken;
    const [first, end] = [from, to].map((share) => Math.floor(share * text.length));
    const start = first + Math.floor(random.uniform() * (end - first - length));
    // From the beginning of a word on, as texts are read.
    const space = text.slice(start, start + length).search(/\s\S/);
    const ids = this.tokenizer.encode(text.slice(start + Math.max(0, space), start + length));
    return ids.slice(0, this.size);
  }
}
