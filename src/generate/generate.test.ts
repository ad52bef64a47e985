import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { KvCache } from '../cache/cache.ts';
import type { Model } from '../model/model.ts';
import { forgeModel } from '../../test/forged.ts';
import {
  feed,
  generate,
  type GenerateOptions,
  type GenerateStats,
  type Piece,
} from './generate.ts';
import { Session } from './session.ts';

const usage = expect.objectContaining({ code: 'usage' });
const range = expect.objectContaining({ code: 'range' });
const aborted = expect.objectContaining({ code: 'aborted' });

const prompt = 'the cat sat on the mat and the rat saw the hat of the man';

let model: Model;
beforeAll(async () => {
  // Random weights say the end of a text anywhere; only one test is about that.
  model = withEnds(await forgeModel(), []);
});
afterAll(() => model.dispose());

/** The same model with other tokens that end a text. */
function withEnds(origin: Model, eosIds: number[]): Model {
  const tokenizer: unknown = Object.create(origin.tokenizer, { eosIds: { value: eosIds } });
  return Object.create(origin, { tokenizer: { value: tokenizer } }) as Model;
}

/** Runs a generation to its end. */
async function drain(pieces: AsyncGenerator<Piece, GenerateStats>) {
  const ids: number[] = [];
  let text = '';
  for (;;) {
    const { done, value } = await pieces.next();
    if (done) return { ids, text, stats: value };
    ids.push(value.id);
    text += value.text;
  }
}

const promptIds = () => [...model.tokenizer.encode(prompt)];

/** The tokens that a fresh cache gives after `tokens`. */
async function continuation(tokens: readonly number[], spec: string, options?: GenerateOptions) {
  const cache = await model.createCache(spec);
  const all = [...tokens];
  await drain(generate(model, cache, all, { maxTokens: 20, ...options }));
  cache.dispose();
  return all.slice(tokens.length);
}

describe.each(['f16', 'h1b:b=64'])('generate with %s', (spec) => {
  let cache: KvCache;
  let tokens: number[];
  let expected: number[];
  beforeAll(async () => {
    expected = await continuation(promptIds(), spec);
  });
  beforeEach(async () => {
    cache = await model.createCache(spec);
    tokens = promptIds();
    return () => cache.dispose();
  });

  test('the cache holds all tokens but the last; counts and ids are right', async () => {
    const { ids, stats } = await drain(generate(model, cache, tokens, { maxTokens: 20 }));
    expect(ids).toEqual(expected);
    expect(tokens).toEqual([...promptIds(), ...expected]);
    expect(cache.length).toBe(tokens.length - 1);
    const { promptTokens, tokens: count, ended, prefillMs, decodeMs } = stats;
    expect({ promptTokens, count, ended }).toEqual({
      promptTokens: promptIds().length,
      count: 20,
      ended: 'max-tokens',
    });
    expect(prefillMs).toBeGreaterThan(0);
    expect(decodeMs).toBeGreaterThan(0);
  });

  test('a generation in two halves is the same text', async () => {
    await drain(generate(model, cache, tokens, { maxTokens: 9 }));
    const { stats } = await drain(generate(model, cache, tokens, { maxTokens: 11 }));
    expect(tokens).toEqual([...promptIds(), ...expected]);
    expect(stats.promptTokens).toBe(1);
  });

  test('the chunk size of prefill does not change the text', async () => {
    for (const chunkSize of [1, 5, 16]) {
      expect(await continuation(promptIds(), spec, { chunkSize })).toEqual(expected);
    }
  });

  test('an abort in mid-prefill leaves everything as it was', async () => {
    await drain(generate(model, cache, tokens, { maxTokens: 3 }));
    tokens.push(...Array.from({ length: 200 }, (_, i) => i));
    const before = { tokens: [...tokens], length: cache.length, bytes: cache.bytes().total };
    const controller = new AbortController();
    const steps = countSteps(cache, 3, () => controller.abort());
    const options = { maxTokens: 5, chunkSize: 32, signal: controller.signal };
    await expect(drain(generate(model, steps, tokens, options))).rejects.toThrow(aborted);
    expect({ tokens, length: cache.length, bytes: cache.bytes().total }).toEqual(before);
    await drain(generate(model, cache, tokens, { maxTokens: 20 }));
    expect(tokens.slice(before.tokens.length)).toEqual(await continuation(before.tokens, spec));
  });

  test('an abort in mid-decode keeps what was generated, and it can go on', async () => {
    const controller = new AbortController();
    const pieces = generate(model, cache, tokens, { maxTokens: 20, signal: controller.signal });
    for (let i = 0; i < 5; i++) await pieces.next();
    controller.abort(new Error('enough'));
    await expect(pieces.next()).rejects.toThrow(
      expect.objectContaining({ code: 'aborted', cause: new Error('enough') }),
    );
    expect(tokens).toEqual([...promptIds(), ...expected.slice(0, 5)]);
    expect(cache.length).toBe(tokens.length - 1);
    await drain(generate(model, cache, tokens, { maxTokens: 15 }));
    expect(tokens).toEqual([...promptIds(), ...expected]);
  });

  test('a signal that fired before: nothing is run', async () => {
    const signal = AbortSignal.abort();
    await expect(drain(generate(model, cache, tokens, { signal }))).rejects.toThrow(aborted);
    expect(cache.length).toBe(0);
    expect(tokens).toEqual(promptIds());
  });

  test('breaking out of the loop, then going on', async () => {
    let count = 0;
    for await (const { id } of generate(model, cache, tokens, { maxTokens: 20 })) {
      expect(id).toBe(expected[count]);
      if (++count === 7) break;
    }
    expect(tokens.length).toBe(promptIds().length + 7);
    await drain(generate(model, cache, tokens, { maxTokens: 13 }));
    expect(tokens).toEqual([...promptIds(), ...expected]);
  });
});

/** The same cache, with a call before its step number `at`. */
function countSteps(cache: KvCache, at: number, call: () => void): KvCache {
  let steps = 0;
  return new Proxy(cache, {
    get(target, name) {
      if (name === 'begin' && ++steps === at) call();
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

describe('where a generation ends', () => {
  test('streamed text is the text of the ids', async () => {
    const session = await Session.create(model, { cache: 'f16' });
    session.append(prompt);
    const options = { maxTokens: 60, temperature: 3, seed: 11 };
    const { ids, text } = await drain(session.generate(options));
    expect(text.length).toBeGreaterThan(30);
    expect(text).toBe(model.tokenizer.decode(session.tokens.slice(promptIds().length)));
    // The last piece may repeat an id to bring what was held back.
    expect(ids.slice(0, 60)).toEqual(session.tokens.slice(promptIds().length));
    session.dispose();
  });

  test('a stop string that spans tokens', async () => {
    const cache = await model.createCache('f16');
    const whole = await drain(generate(model, cache, promptIds(), { maxTokens: 20 }));
    const stop = whole.text.slice(7, 12);
    const at = whole.text.indexOf(stop);
    cache.truncate(0);
    const tokens = promptIds();
    const stopped = await drain(generate(model, cache, tokens, { maxTokens: 20, stop: [stop] }));
    expect(stopped.text).toBe(whole.text.slice(0, at));
    expect(stopped.stats.ended).toBe('stop');
    expect(stopped.stats.tokens).toBe(tokens.length - promptIds().length);
    expect(stopped.stats.tokens).toBeLessThan(20);
    cache.dispose();
  });

  test('what could have become a stop string is shown at the end', async () => {
    const cache = await model.createCache('f16');
    const whole = await drain(generate(model, cache, promptIds(), { maxTokens: 6 }));
    cache.truncate(0);
    const stop = [whole.text.slice(-2) + 'never said'];
    const held = await drain(generate(model, cache, promptIds(), { maxTokens: 6, stop }));
    expect(held.text).toBe(whole.text);
    expect(held.stats.ended).toBe('max-tokens');
    cache.dispose();
  });

  test('at the end of text: its token is kept, its text is not shown', async () => {
    const [, , third] = await continuation(promptIds(), 'f16');
    const ending = withEnds(model, [third]);
    const cache = await model.createCache('f16');
    const tokens = promptIds();
    const { ids, stats } = await drain(generate(ending, cache, tokens, { maxTokens: 20 }));
    expect(stats).toMatchObject({ ended: 'end-of-text', tokens: 3 });
    expect(ids).toEqual(tokens.slice(promptIds().length, -1));
    expect(tokens.at(-1)).toBe(third);
    cache.dispose();
  });

  test('at the end of the context', async () => {
    const cache = await model.createCache('h1b:b=64');
    const tokens = Array.from({ length: model.contextLength - 3 }, (_, i) => i % 256);
    const { stats } = await drain(generate(model, cache, tokens, { maxTokens: 50 }));
    expect(stats).toMatchObject({ ended: 'context', tokens: 3 });
    expect(tokens.length).toBe(model.contextLength);
    cache.dispose();
  });

  test('maxTokens 0 runs nothing', async () => {
    const cache = await model.createCache('f16');
    const { ids, stats } = await drain(generate(model, cache, promptIds(), { maxTokens: 0 }));
    expect(ids).toEqual([]);
    expect(stats).toMatchObject({ tokens: 0, ended: 'max-tokens', prefillMs: 0 });
    expect(cache.length).toBe(0);
    cache.dispose();
  });
});

describe('wrong calls', () => {
  const run = async (tokens: number[], options?: GenerateOptions) => {
    const cache = await model.createCache('f16');
    try {
      await drain(generate(model, cache, tokens, options));
    } finally {
      expect(cache.length).toBe(0);
      cache.dispose();
    }
  };

  test('a prompt as long as the context', async () => {
    const tokens = Array<number>(model.contextLength).fill(1);
    await expect(run(tokens)).rejects.toThrow(range);
    await expect(run(tokens)).rejects.toThrow(/512 tokens; the context of .* is 512/);
  });

  test('an empty prompt', async () => {
    await expect(run([])).rejects.toThrow(usage);
  });

  test.each<GenerateOptions>([
    { maxTokens: -1 },
    { maxTokens: 1.5 },
    { maxTokens: NaN },
    { temperature: -1 },
    { chunkSize: 0 },
    { chunkSize: -1 },
    { chunkSize: NaN },
  ])('%o', async (options) => {
    await expect(run(promptIds(), options)).rejects.toThrow(usage);
  });

  test('a token that is not in the vocabulary', async () => {
    await expect(run([1, 2, model.vocabSize])).rejects.toThrow(range);
    await expect(run([1, -1])).rejects.toThrow(range);
  });
});

test('feed gives the logits of the last token', async () => {
  const cache = await model.createCache('f32');
  const ids = promptIds();
  const fed = await feed(model, cache, ids);
  const other = await model.createCache('f32');
  const logits = await model.forward([{ ids: Int32Array.from(ids), cache: other }]);
  expect(fed).toEqual(await model.kernels.read(logits));
  for (const held of [cache, other]) held.dispose();
});
