import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { forgeModel } from '../../test/forged.ts';
import { cacheMethods } from '../cache/registry.ts';
import type { KvCache } from '../cache/cache.ts';
import type { Model } from '../model/model.ts';
import { feed, generate, type GenerateOptions } from './generate.ts';
import { Session } from './session.ts';
import type { ContextOptions } from './shift.ts';

/** Longer than what methods learn from, so that a shift falls before, within and after that. */
const context = 300;

let model: Model;
beforeAll(async () => {
  const forged = await forgeModel();
  // Random weights say the end of a text anywhere.
  const tokenizer: unknown = Object.create(forged.tokenizer, { eosIds: { value: [] } });
  model = Object.create(forged, { tokenizer: { value: tokenizer } }) as Model;
});
afterAll(() => model.dispose());

/** Tokens that look like none in particular. */
const someTokens = (count: number, seed: number) =>
  Array.from({ length: count }, (_, i) => 3 + ((seed * 7919 + i * 104_729 + ((i * i) % 97)) % 250));

/** Runs a generation to its end. */
async function run(cache: KvCache, tokens: number[], options: GenerateOptions) {
  const pieces = generate(model, cache, tokens, options);
  const said: number[] = [];
  for (;;) {
    const { done, value } = await pieces.next();
    if (done) return { said: said.slice(0, value.tokens), stats: value };
    said.push(value.id);
  }
}

/** Logits after the tokens, of which the cache holds a prefix. */
const logits = (cache: KvCache, tokens: readonly number[]) => feed(model, cache, tokens);

describe.each([...Object.keys(cacheMethods), 'loki:pca', 'bitplane:alloc=none,window=8'])(
  'a session with %s that outgrew its context',
  (spec) => {
    test('is what a fresh one is over the tokens that stayed', async () => {
      const story = fc.record({
        seed: fc.integer({ min: 1, max: 1000 }),
        keep: fc.constantFrom(0, 1, 5, 130, 250),
        prompt: fc.constantFrom(20, 290, 400),
        chunkSize: fc.constantFrom(13, 128),
      });
      await fc.assert(
        fc.asyncProperty(story, async ({ seed, keep, prompt, chunkSize }) => {
          const cache = await model.createCache(spec);
          const fresh = await model.createCache(spec);
          const tokens = someTokens(prompt, seed);
          const all = [...tokens];
          const maxTokens = context + 40 - Math.min(prompt, 290);
          const options = { context, shift: { keep }, chunkSize, maxTokens };
          const { said, stats } = await run(cache, tokens, options);
          all.push(...said);
          expect(said.length).toBe(maxTokens);
          expect(stats.forgotten).toBeGreaterThan(0);
          expect(tokens.length).toBe(all.length - stats.forgotten);
          expect(tokens).toEqual([...all.slice(0, keep), ...all.slice(keep + stats.forgotten)]);
          expect(cache.length).toBe(tokens.length - 1);
          expect(await logits(cache, tokens)).toEqual(await logits(fresh, tokens));
          expect(cache.bytes().total).toBe(fresh.bytes().total);
          for (const held of [cache, fresh]) held.dispose();
        }),
        { numRuns: 4, seed: 5 },
      );
    });
  },
);

describe('a shift', () => {
  const open = async (tokens: readonly number[], spec = 'f16') => {
    const session = await Session.create(model, { cache: spec });
    session.tokens.push(...tokens);
    return session;
  };
  const shift = (more: ContextOptions = {}): GenerateOptions => ({
    context: 64,
    shift: {},
    maxTokens: 10,
    ...more,
  });

  test('comes as often as it must', async () => {
    const session = await open(someTokens(10, 1));
    const { stats } = await run(session.cache, session.tokens, { ...shift(), maxTokens: 300 });
    expect(stats).toMatchObject({ ended: 'max-tokens', tokens: 300, promptTokens: 10 });
    // 54 tokens fill the context; each half of it that goes makes room for as many.
    expect(stats.forgotten).toBe(32 * Math.ceil((300 - 54) / 32));
    session.dispose();
  });

  test('keeps BOS, unless told otherwise', async () => {
    const bos = { bosId: { value: 7 } };
    const withBos = Object.create(model, {
      tokenizer: { value: Object.create(model.tokenizer, bos) as unknown },
    }) as Model;
    for (const [first, options, newest] of [
      [7, {}, 31],
      [8, {}, 32],
      [7, { keep: 0 }, 32],
    ] as const) {
      const tokens = [first, ...someTokens(80, 2)];
      const cache = await model.createCache('f16');
      const kept = [...tokens.slice(0, 32 - newest), ...tokens.slice(-newest)];
      await generate(withBos, cache, tokens, shift({ shift: options })).next();
      expect(tokens.slice(0, -1)).toEqual(kept);
      cache.dispose();
    }
  });

  test('of a prompt that is too long: what is fed is what stays', async () => {
    const tokens = someTokens(500, 3);
    const session = await open(tokens);
    const { stats } = await run(session.cache, session.tokens, shift());
    expect(stats).toMatchObject({ promptTokens: 32, forgotten: 468, tokens: 10 });
    expect(session.tokens.slice(0, 32)).toEqual(tokens.slice(-32));
    session.dispose();
  });

  test('survives saving: the restored session goes on the same', async () => {
    const session = await open(someTokens(60, 4), 'h1b:b=64');
    await run(session.cache, session.tokens, shift());
    const again = await Session.restore(model, await session.save());
    const [a, b] = [session, again].map(({ cache, tokens }) => run(cache, tokens, shift()));
    expect((await b).said).toEqual((await a).said);
    expect(again.tokens).toEqual(session.tokens);
    for (const held of [session, again]) held.dispose();
  });

  test('aborted while it runs what stays: the session is whole, and can go on', async () => {
    const session = await open(someTokens(60, 5));
    const controller = new AbortController();
    const { signal } = controller;
    const pieces = generate(model, session.cache, session.tokens, { ...shift(), signal });
    for (let i = 0; i < 4; i++) await pieces.next();
    expect(session.tokens.length).toBe(64);
    controller.abort();
    await expect(pieces.next()).rejects.toMatchObject({ code: 'aborted' });
    expect(session.tokens.length).toBe(32);
    const twin = await open(session.tokens);
    const [a, b] = [session, twin].map(({ cache, tokens }) => run(cache, tokens, shift()));
    expect((await a).said).toEqual((await b).said);
    for (const held of [session, twin]) held.dispose();
  });

  test('may be any choice of tokens', async () => {
    const session = await open(someTokens(64, 6));
    const odd = session.tokens.filter((_, i) => i % 2 === 1);
    const twin = await open(odd);
    const forget = (tokens: readonly number[]) => tokens.filter((_, i) => i % 2 === 1);
    const { said } = await run(session.cache, session.tokens, shift({ shift: forget }));
    expect(said).toEqual((await run(twin.cache, twin.tokens, shift())).said);
    for (const held of [session, twin]) held.dispose();
  });

  test('that forgets nothing ends the generation, and one that keeps too much is refused', async () => {
    const session = await open(someTokens(62, 7));
    const nothing = shift({ shift: () => undefined });
    const { stats } = await run(session.cache, session.tokens, nothing);
    expect(stats).toMatchObject({ ended: 'context', tokens: 2, forgotten: 0 });
    for (const kept of [[], someTokens(64, 7)]) {
      const running = run(session.cache, session.tokens, shift({ shift: () => kept }));
      await expect(running).rejects.toMatchObject({ code: 'range' });
    }
    session.dispose();
  });

  test('not asked for: the context is the end, and the error says what to do', async () => {
    const session = await open(someTokens(60, 8));
    const { stats } = await run(session.cache, session.tokens, { context: 64 });
    expect(stats).toMatchObject({ ended: 'context', tokens: 4, forgotten: 0 });
    const again = run(session.cache, session.tokens, { context: 64 });
    await expect(again).rejects.toMatchObject({
      code: 'range',
      message: expect.stringMatching(/64 tokens; the context .* is 64.*--shift/) as unknown,
    });
    session.dispose();
  });

  test.each<ContextOptions>([
    { context: 1 },
    { context: 1.5 },
    { context: 513 },
    { context: 64, shift: { keep: 63 } },
    { context: 64, shift: { keep: -1 } },
    { context: 64, shift: { keep: NaN } },
  ])('%o is refused', async (options) => {
    const session = await open(someTokens(5, 9));
    const running = run(session.cache, session.tokens, options);
    await expect(running).rejects.toMatchObject({ code: 'usage' });
    expect(session.cache.length).toBe(0);
    session.dispose();
  });
});
