import type { KvCache } from '../cache/cache.ts';
import { feed } from '../generate/generate.ts';
import type { Model } from '../model/model.ts';
import type { Prompt } from './continuation.ts';

interface Held {
  readonly text: string;
  readonly ids: Int32Array;
  readonly cache: KvCache;
}

/**
 * The text that prompts begin with, such as solved examples, read once by each method. Prompts go
 * on from forks of it; by the contract of caches that changes no result.
 */
export class SharedPrefix {
  private readonly held = new Map<string, Held>();

  constructor(private readonly model: Model) {}

  /**
   * A cache that holds a beginning of the prompt: what it has in common with `prefix`.
   * @param prefix the prompt's own beginning; empty: nothing is shared
   */
  async fork(method: string, prefix: string, prompt: Prompt): Promise<KvCache> {
    if (prefix === '') return this.model.createCache(method);
    const held = await this.hold(method, prefix, prompt);
    const fork = held.cache.fork();
    // The last tokens of a text may be others when more text follows.
    const common = commonLength(held.ids, prompt.fed);
    if (common < fork.length) fork.truncate(common);
    return fork;
  }

  private async hold(method: string, text: string, prompt: Prompt): Promise<Held> {
    const before = this.held.get(method);
    // One with more shots serves as well: its fork is cut back.
    if (before?.text.startsWith(text)) return before;
    before?.cache.dispose();
    this.held.delete(method);
    const alone = this.model.tokenizer.encode(text, { parseSpecial: true });
    const ids = alone.slice(0, commonLength(alone, prompt.fed));
    const cache = await this.model.createCache(method);
    const held = { text, ids, cache };
    this.held.set(method, held);
    if (ids.length > 0) await feed(this.model, cache, [...ids]);
    return held;
  }

  dispose(): void {
    for (const { cache } of this.held.values()) cache.dispose();
    this.held.clear();
  }
}

function commonLength(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const shorter = Math.min(a.length, b.length);
  // The last token of a prompt is always left to be read: its logits are wanted.
  const most = shorter === b.length ? shorter - 1 : shorter;
  for (let i = 0; i < most; i++) if (a[i] !== b[i]) return i;
  return most;
}
