import { ensure } from '../errors/errors.ts';

/** An array of strings, or a list that only goes from front to back. */
export type StringList = Iterable<string> & { readonly length: number };

const utf16 = new TextDecoder('utf-16le', { ignoreBOM: true });

/** Differs by process, so that no file can be made whose tokens all fall into the same slots. */
const hashSeed = Math.floor(Math.random() * 2 ** 32);

/**
 * The tokens of a vocabulary by id, and their ids by text, outside the JavaScript heap: 128,000
 * tokens take 4 MB, where strings and a `Map` take 10, and three times that while they are made.
 */
export class TokenTable {
  readonly length: number;
  /** UTF-16 of all tokens, one after the other. u16 [ends[length]] or more */
  private units: Uint16Array<ArrayBuffer>;
  /** Token i is units[ends[i], ends[i + 1]). i32 [length + 1] */
  private readonly ends: Int32Array;
  /** Open addressing: one more than a token's id, or 0. i32, a power of two above 2 * length */
  private readonly slots: Int32Array;

  /** @throws KvError "format" if two tokens are the same; empty ones are no tokens */
  constructor(tokens: StringList) {
    this.length = tokens.length;
    this.units = new Uint16Array(8 * tokens.length);
    this.ends = new Int32Array(tokens.length + 1);
    this.slots = new Int32Array(2 ** Math.ceil(Math.log2(2 * tokens.length + 1)));
    let id = 0;
    for (const token of tokens) this.set(id++, token);
  }

  at(id: number): string {
    return utf16.decode(this.units.subarray(this.ends[id], this.ends[id + 1]));
  }

  idOf(text: string): number | undefined {
    const found = this.slots[this.slotOf(text)];
    return found === 0 ? undefined : found - 1;
  }

  private set(id: number, token: string): void {
    const start = this.ends[id];
    const end = start + token.length;
    if (end > this.units.length) {
      const longer = new Uint16Array(2 * end);
      longer.set(this.units);
      this.units = longer;
    }
    for (let i = 0; i < token.length; i++) this.units[start + i] = token.charCodeAt(i);
    this.ends[id + 1] = end;
    if (token === '') return;
    const slot = this.slotOf(token);
    const twin = this.slots[slot] - 1;
    ensure(
      twin < 0,
      'format',
      () =>
        `tokenizer: tokens ${twin} and ${id} are both ${JSON.stringify(token)}; every token must be different. Convert the model again.`,
    );
    this.slots[slot] = id + 1;
  }

  /** Where the token with this text is, or would be. */
  private slotOf(text: string): number {
    let hash = hashSeed;
    for (let i = 0; i < text.length; i++) {
      hash = Math.imul(hash ^ text.charCodeAt(i), 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    const mask = this.slots.length - 1;
    let slot = hash & mask;
    while (this.slots[slot] !== 0 && !this.isToken(this.slots[slot] - 1, text)) {
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  private isToken(id: number, text: string): boolean {
    const start = this.ends[id];
    if (this.ends[id + 1] - start !== text.length) return false;
    for (let i = 0; i < text.length; i++) {
      if (this.units[start + i] !== text.charCodeAt(i)) return false;
    }
    return true;
  }
}
