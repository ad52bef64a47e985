import type { Random } from '../math/random.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { EvalText } from './task.ts';

/** Paragraphs passed over, as too long for what is left, before a filler is taken to be full. */
const patience = 40;

/**
 * Whole paragraphs to hide things in. Those that spell a control token are left out, so that the
 * prose of others can be read together with text that may hold such tokens.
 */
export class Prose {
  private readonly tokenizer: Tokenizer;
  private readonly paragraphs: readonly string[];
  private readonly shuffled: boolean;
  /** tokens of each paragraph and the empty line after it; Infinity: not to be used */
  private readonly sizes = new Map<number, number>();

  /** @param shuffled in random order, not as they follow each other from a random place on */
  constructor(tokenizer: Tokenizer, texts: readonly EvalText[], shuffled: boolean) {
    this.tokenizer = tokenizer;
    this.shuffled = shuffled;
    this.paragraphs = texts.flatMap(({ text }) =>
      text.split(/\n\s*\n/).filter((paragraph) => paragraph.trim() !== ''),
    );
  }

  /**
   * Fillers of about `room` tokens together, less what the last paragraph would go over.
   * @param shares parts of the room, in the order of the fillers
   */
  fill(random: Random, room: number, shares: readonly number[]): string[] {
    const order = this.order(random);
    let [used, allowed] = [0, 0];
    return shares.map((share) => {
      if (share === 0) return '';
      allowed += room * share;
      const chosen: string[] = [];
      for (let passed = 0; passed < patience && this.paragraphs.length > 0;) {
        const index = order();
        const size = this.sizeOf(index);
        if (used + size <= allowed) {
          used += size;
          chosen.push(this.paragraphs[index]);
        } else {
          passed++;
        }
      }
      return chosen.join('\n\n');
    });
  }

  /** Indices of paragraphs, one after another without end. */
  private order(random: Random): () => number {
    const count = this.paragraphs.length;
    let next = Math.floor(random.uniform() * count);
    if (!this.shuffled) return () => next++ % count;
    let deck: number[] = [];
    return () => {
      if (deck.length === 0) deck = Array.from({ length: count }, (_, i) => i);
      next = Math.floor(random.uniform() * deck.length);
      return deck.splice(next, 1)[0];
    };
  }

  private sizeOf(index: number): number {
    let size = this.sizes.get(index);
    if (size === undefined) {
      const text = `${this.paragraphs[index]}\n\n`;
      const plain = this.tokenizer.encode(text, { addBos: false });
      const read = this.tokenizer.encode(text, { addBos: false, parseSpecial: true });
      size =
        plain.length === read.length && plain.every((id, i) => id === read[i])
          ? plain.length
          : Infinity;
      this.sizes.set(index, size);
    }
    return size;
  }
}
