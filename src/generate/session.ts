import type { CacheBytes, KvCache } from '../cache/cache.ts';
import { ensure } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import { generate, type GenerateOptions, type GenerateStats, type Piece } from './generate.ts';

/**
 * A conversation with a model: the tokens said so far and the cache that holds them. Several
 * sessions can share one model, each with its own kind of cache.
 *
 * ```ts
 * const session = await Session.create(model, { cache: 'h1b' });
 * session.append('The ship ');
 * for await (const { text } of session.generate({ maxTokens: 64 })) process.stdout.write(text);
 * ```
 */
export class Session {
  readonly model: Model;
  readonly cache: KvCache;
  /** Everything said so far; the cache holds a prefix of it. */
  readonly tokens: number[];

  private constructor(model: Model, cache: KvCache, tokens: number[]) {
    this.model = model;
    this.cache = cache;
    this.tokens = tokens;
  }

  /** @param options.cache spec of the cache, default `h1b` */
  static async create(model: Model, options: { cache?: string } = {}): Promise<Session> {
    return new Session(model, await model.createCache(options.cache ?? 'h1b'), []);
  }

  /** Adds text to what was said; it is run when the next generation begins. */
  append(text: string, options?: { parseSpecial?: boolean }): void {
    const addBos = this.tokens.length === 0 ? undefined : false;
    const ids = this.model.tokenizer.encode(text, {
      ...options,
      ...(addBos !== undefined && { addBos }),
    });
    for (const id of ids) this.tokens.push(id);
  }

  /** Streams a continuation; see `generate`. */
  generate(options?: GenerateOptions): AsyncGenerator<Piece, GenerateStats> {
    return generate(this.model, this.cache, this.tokens, options);
  }

  /**
   * Forgets everything from token `length` on. Continuing gives what a session would give that
   * never went further.
   * @throws KvError "usage" if `length` is not a whole number from 0
   */
  truncate(length: number): void {
    ensure(
      Number.isInteger(length) && length >= 0,
      'usage',
      () => `session: cannot truncate to ${length} tokens; give a whole number from 0.`,
    );
    this.tokens.length = Math.min(this.tokens.length, length);
    // One token must be left to run, or there would be no logits to sample from.
    this.cache.truncate(Math.max(0, this.tokens.length - 1));
  }

  /** An independent session with the same past; pages are shared until one side writes. */
  fork(): Session {
    return new Session(this.model, this.cache.fork(), [...this.tokens]);
  }

  bytes(): CacheBytes {
    return this.cache.bytes();
  }

  /** Releases the cache. The model lives on. */
  dispose(): void {
    this.cache.dispose();
  }
}
