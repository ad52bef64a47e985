import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { forgeModel } from '../../test/forged.ts';
import type { ErrorCode } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import type { ChatTurn } from './chat-turn.ts';
import { Chat, type ChatOptions } from './chat.ts';
import type { GenerateOptions, GenerateStats, Piece } from './generate.ts';

const template = `{% for m in messages %}{% if m.content == 'forbidden' %}{{ raise_exception('no') }}{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}`;

let model: Model;
beforeAll(async () => {
  model = await forgeModel();
});
afterAll(() => model.dispose());

const chats: Chat[] = [];
afterEach(() => chats.splice(0).forEach((chat) => chat.dispose()));
async function open(options: ChatOptions = {}, of = model): Promise<Chat> {
  const chat = await Chat.create(of, { cache: 'f16', template, ...options });
  chats.push(chat);
  return chat;
}

/** Reads an answer to its end. */
async function read(
  pieces: AsyncGenerator<Piece, GenerateStats>,
): Promise<{ text: string; stats: GenerateStats }> {
  let text = '';
  for (;;) {
    const next = await pieces.next();
    if (next.done) return { text, stats: next.value };
    text += next.value.text;
  }
}
const few: GenerateOptions = { maxTokens: 8 };
const error = (code: ErrorCode, pattern: RegExp) =>
  expect.objectContaining({ name: 'KvError', code, message: expect.stringMatching(pattern) });
const user = (content: string): ChatTurn => ({ role: 'user', content });
const assistant = (content: string): ChatTurn => ({ role: 'assistant', content });

describe.each(['f16', 'h1b:b=64'])('a conversation with %s', (cache) => {
  test('is kept, and each answer is what a fresh chat would say', async () => {
    const chat = await open({ cache, messages: [{ role: 'system', content: 'be kind' }] });
    for (const text of ['the first', 'the second', 'the third']) {
      const before = chat.messages;
      const { text: answer } = await read(chat.send(text, few));
      expect(answer).not.toBe('');
      expect(chat.messages).toEqual([...before, user(text), assistant(answer)]);
      const fresh = await open({ cache, messages: before });
      expect((await read(fresh.send(text, few))).text).toBe(answer);
    }
    expect(chat.format).toBe('template');
  });

  test('undo and another message equal a fresh chat', async () => {
    const chat = await open({ cache });
    await read(chat.send('one '.repeat(60), few));
    const before = chat.messages;
    await read(chat.send('two', few));
    expect(chat.undo()).toHaveLength(2);
    expect(chat.messages).toEqual(before);
    const fresh = await open({ cache, messages: before });
    const again = await read(chat.send('three', few));
    expect(again.text).toBe((await read(fresh.send('three', few))).text);
    expect(chat.session.bytes().total).toBe(fresh.session.bytes().total);
  });

  test('regenerate says the same again with the same seed, and runs almost nothing', async () => {
    const chat = await open({ cache });
    const { text, stats } = await read(chat.send('the man on the hill '.repeat(8), few));
    const again = await read(chat.regenerate(few));
    expect(again.text).toBe(text);
    if (cache === 'f16') expect(again.stats.promptTokens).toBe(1);
    expect(again.stats.promptTokens).toBeLessThan(stats.promptTokens);
    const other = await read(chat.regenerate({ ...few, temperature: 2, seed: 5 }));
    expect(other.text).not.toBe(text);
    expect(chat.messages.map(({ role }) => role)).toEqual(['user', 'assistant']);
    expect(chat.messages[1].content).toBe(other.text);
  });
});

test('only what is new is run', async () => {
  const chat = await open();
  const first = await read(chat.send('the man on the hill '.repeat(8), few));
  const second = await read(chat.send('and?', few));
  expect(first.stats.promptTokens).toBeGreaterThan(50);
  expect(second.stats.promptTokens).toBeLessThan(40);
});

test('undo of nothing, and regenerate of nothing', async () => {
  const chat = await open();
  expect(chat.undo()).toEqual([]);
  await expect(read(chat.regenerate(few))).rejects.toEqual(error('usage', /nothing to answer/));
});

describe('without a template', () => {
  test('the script is plain and ends before the user speaks', async () => {
    const chat = await open({ template: undefined, messages: [{ role: 'system', content: 'S' }] });
    expect(chat.format).toBe('plain');
    await read(chat.send(' hi ', few));
    const prompt = 'S\n\nUser: hi\nAssistant:';
    const text = model.tokenizer.decode(chat.session.tokens);
    expect(text.startsWith(prompt)).toBe(true);
  });

  test('the answer stops at the next "User:"', async () => {
    const chat = await open({ template: undefined });
    const spy = vi.spyOn(chat.session, 'generate');
    await read(chat.send('hi', { ...few, stop: ['X'] }));
    expect(spy.mock.calls[0][0]?.stop).toEqual(['X', '\nUser:']);
  });
});

describe('interrupted', () => {
  test('by an abort: keeps what was said, marked, and goes on from there', async () => {
    const chat = await open();
    const stop = new AbortController();
    let said = '';
    const run = async () => {
      for await (const { text } of chat.send('tell', { maxTokens: 50, signal: stop.signal })) {
        said += text;
        if (said.length > 3) stop.abort();
      }
    };
    await expect(run()).rejects.toEqual(error('aborted', /aborted/));
    expect(said).not.toBe('');
    expect(chat.messages).toEqual([user('tell'), { ...assistant(said), interrupted: true }]);
    const fresh = await open({ messages: chat.messages });
    const next = await read(chat.send('go on', few));
    expect(next.text).toBe((await read(fresh.send('go on', few))).text);
  });

  test('by leaving the loop: the same', async () => {
    const chat = await open();
    let said = '';
    for await (const { text } of chat.send('tell', few)) {
      said += text;
      if (said) break;
    }
    expect(chat.messages).toEqual([user('tell'), { ...assistant(said), interrupted: true }]);
  });

  test('before anything was said: as before', async () => {
    const chat = await open();
    await read(chat.send('one', few));
    const before = chat.messages;
    const signal = AbortSignal.abort();
    await expect(read(chat.send('two', { signal }))).rejects.toEqual(error('aborted', /aborted/));
    await expect(read(chat.regenerate({ signal }))).rejects.toEqual(error('aborted', /aborted/));
    expect(chat.messages).toEqual(before);
    const fresh = await open({ messages: before });
    const next = await read(chat.send('three', few));
    expect(next.text).toBe((await read(fresh.send('three', few))).text);
  });
});

describe('errors lose nothing', () => {
  test.each([
    ['the template refuses', 'forbidden', {}, 'format', /: no/],
    ['an option is wrong', 'hi', { temperature: -1 }, 'usage', /temperature/],
    ['maxTokens is wrong', 'hi', { maxTokens: NaN }, 'usage', /maxTokens/],
  ] as const)('when %s', async (_, text, options, code, pattern) => {
    const chat = await open({ overflow: 'shift' });
    await read(chat.send('one', few));
    const before = chat.messages;
    await expect(read(chat.send(text, options))).rejects.toEqual(error(code, pattern));
    expect(chat.messages).toEqual(before);
    const fresh = await open({ messages: before });
    const next = await read(chat.send('two', few));
    expect(next.text).toBe((await read(fresh.send('two', few))).text);
  });

  test('when the model fails in the middle of an answer', async () => {
    const chat = await open();
    const forward = vi.spyOn(model, 'forward');
    await read(chat.send('one', few));
    const before = chat.messages;
    const pieces = chat.send('two', few);
    await pieces.next();
    await pieces.next();
    forward.mockRejectedValueOnce(new Error('broken'));
    await expect(read(pieces)).rejects.toThrow('broken');
    forward.mockRestore();
    expect(chat.messages).toEqual(before);
    const fresh = await open({ messages: before });
    const next = await read(chat.send('three', few));
    expect(next.text).toBe((await read(fresh.send('three', few))).text);
  });

  test('when two answers are asked for at once', async () => {
    const chat = await open();
    const pieces = chat.send('one', few);
    await pieces.next();
    await expect(read(chat.send('two', few))).rejects.toEqual(error('usage', /being given/));
    expect(() => chat.undo()).toThrow(error('usage', /being given/));
    await read(pieces);
    expect(chat.messages).toHaveLength(2);
    expect(chat.messages[0]).toEqual(user('one'));
  });
});

describe('a conversation longer than the context', () => {
  let small: Model;
  beforeAll(async () => {
    small = await forgeModel({ contextLength: 160 });
  });
  afterAll(() => small.dispose());
  const system = { role: 'system', content: 'rule' };
  const long = (letter: string) => letter.repeat(32);
  const three = [user(long('a')), assistant('1'), user(long('b')), assistant('2')];

  test('is refused with stop, and nothing changes', async () => {
    const chat = await open({ messages: [system, ...three] }, small);
    const tokens = [...chat.session.tokens];
    const sending = read(chat.send('c'.repeat(160), few));
    await expect(sending).rejects.toEqual(error('range', /has \d{3} tokens; .* is 160.*"shift"/));
    expect(chat.messages).toEqual([system, ...three]);
    expect(chat.session.tokens).toEqual(tokens);
  });

  test('forgets the oldest exchanges with shift, and says how many', async () => {
    const onShift = vi.fn();
    const chat = await open({ messages: [system, ...three], overflow: 'shift', onShift }, small);
    const { text } = await read(chat.send(long('c'), few));
    expect(onShift).toHaveBeenCalledExactlyOnceWith(1);
    const kept = [system, ...three.slice(2), user(long('c'))];
    expect(chat.messages).toEqual([...kept, assistant(text)]);
    const fresh = await open({ messages: kept }, small);
    expect((await read(fresh.regenerate(few))).text).toBe(text);
    for (const letter of 'defgh') await read(chat.send(long(letter), few));
    expect(chat.messages[0]).toEqual(system);
    expect(chat.session.tokens.length).toBeLessThanOrEqual(160);
  });

  test('is refused with shift when one message alone is too long', async () => {
    const onShift = vi.fn();
    const chat = await open({ messages: [system, ...three], overflow: 'shift', onShift }, small);
    const sending = read(chat.send('c'.repeat(200), few));
    await expect(sending).rejects.toEqual(error('range', /Shorten the message/));
    expect(chat.messages).toEqual([system, ...three]);
    expect(onShift).not.toHaveBeenCalled();
  });
});

test('what the user writes never becomes a control token', async () => {
  const chat = await open();
  const eos = model.tokenizer.token(model.tokenizer.eosIds[0]);
  await read(chat.send(`a${eos}b`, { maxTokens: 0 }));
  expect(chat.session.tokens).not.toContain(model.tokenizer.eosIds[0]);
  expect(model.tokenizer.decode(chat.session.tokens)).toContain(`a${eos}b`);
});
