import type { CacheBytes, KvCache } from '../cache/cache.ts';
import { version } from '../../package.json';
import { ensure } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import { generate, type GenerateOptions, type GenerateStats, type Piece } from './generate.ts';
import { adapterHash } from './session-digest.ts';
import { expectModel, type SessionState } from './session-state.ts';

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
  /** Everything said so far, less what a shift forgot; the cache holds a prefix of it. */
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

  /**
   * A session that goes on exactly where the saved one was; nothing is computed again.
   * @throws KvError "format" if it was saved with another model or adapter, or is damaged
   */
  static async restore(model: Model, state: SessionState): Promise<Session> {
    await expectModel(state, model);
    const session = await Session.create(model, { cache: state.spec });
    try {
      await session.restore(state);
      return session;
    } catch (error) {
      session.dispose();
      throw error;
    }
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

  /** Streams a continuation; see `generate`. With `shift`, tokens that make room leave the session. */
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

  /**
   * All of the session as it is now, for `Session.restore` or, through `encodeSession`, a file.
   * @throws KvError "usage" while a step of the model is under way
   */
  async save(): Promise<SessionState> {
    const { model } = this;
    const tokens = Int32Array.from(this.tokens);
    const cache = await this.cache.save();
    return {
      engine: version,
      model: { name: model.name, hash: model.hash },
      adapter: await adapterHash(model.adapter),
      spec: this.cache.spec,
      tokens,
      cache,
    };
  }

  /**
   * Makes this new session what the saved one was.
   * @throws KvError "usage" if something was said here already, or the caches differ; "format" as
   *   `Session.restore`; the session is as it was before then
   */
  async restore(state: SessionState): Promise<void> {
    await expectModel(state, this.model);
    ensure(
      this.tokens.length === 0,
      'usage',
      () => `session: it holds ${this.tokens.length} tokens. Restore into a new one.`,
    );
    ensure(
      state.spec === this.cache.spec,
      'usage',
      () =>
        `session: it was saved with cache ${state.spec}; the one asked for is ${this.cache.spec}. Choose ${state.spec}, or begin a new session.`,
    );
    this.cache.restore(state.cache);
    for (const id of state.tokens) this.tokens.push(id);
  }

  bytes(): CacheBytes {
    return this.cache.bytes();
  }

  /** Releases the cache. The model lives on. */
  dispose(): void {
    this.cache.dispose();
  }
}
