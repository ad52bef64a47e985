import { describe, expect, test } from 'vitest';
import type { KvCache } from '../cache/cache.ts';
import type { Model } from '../model/model.ts';
import { answersRight, lastLetter, lastNumber } from './judge.ts';
import { Characters, parrot } from './parrot.ts';
import { skills } from './skills/registry.ts';
import { exercise, type Judge } from './skills/skill.ts';
import type { RunPython } from './task.ts';

interface Ask {
  readonly prompt?: string;
  readonly code?: string;
  readonly run?: RunPython;
}

function ask(model: Model, judge: Judge, answer: string, { prompt = 'Q:', code, run }: Ask = {}) {
  const cache = new Characters() as unknown as KvCache;
  return answersRight(model, cache, { prompt, code: code ?? prompt, answer, judge }, run);
}

describe('exact', () => {
  test.each([
    [' 48213.\nMore', ' 48213', '.', true],
    [' 48213 .', ' 48213', '.', true],
    [' 48214.', ' 48213', '.', false],
    [' 482130.', ' 48213', '.', false],
    ['.', ' 48213', '.', false],
    [' lily\nlily', ' lily\n', '\n', true],
    [' Your name is Anna.<|im_end|>\n', ' Your name is Anna.<|im_end|>\n', '<|im_end|>', true],
    [' Your name is Tom.<|im_end|>\n', ' Your name is Anna.<|im_end|>\n', '<|im_end|>', false],
  ])('%j for %j up to %j: %s', async (written, answer, stop, right) => {
    const model = parrot({ 'Q:': written });
    expect(await ask(model, { kind: 'exact', stop }, answer)).toBe(right);
  });

  test('64 tokens are the most it may take, or what the answer needs', async () => {
    const judge: Judge = { kind: 'exact', stop: '.' };
    const says = (text: string, answer: string) => ask(parrot({ 'Q:': text }), judge, answer);
    // Only the stop tells an answer from one that goes on.
    expect(await says(`a${' '.repeat(70)}b.`, 'a')).toBe(true);
    expect(await says(`a${' '.repeat(50)}b.`, 'a')).toBe(false);
    expect(await says(`${'a'.repeat(90)}.`, 'a'.repeat(90))).toBe(true);
    expect(await says(`${'a'.repeat(100)}.`, 'a'.repeat(90))).toBe(false);
  });
});

describe('choices', () => {
  const judge: Judge = { kind: 'choices', choices: [' A', ' B', ' CD'] };

  test('sums the log-probabilities of all tokens of a choice', async () => {
    // After "Q:" a space is sure; then A leads, until the D after C outweighs it.
    const tastes = { 'Q: ': 50, 'Q: A': 3, 'Q: B': 2, 'Q: C': 3.5, 'Q: CD': 50 };
    expect(await ask(parrot({}, tastes), judge, ' CD')).toBe(true);
    expect(await ask(parrot({}, tastes), judge, ' A')).toBe(false);
    // D is one of 128 equal characters here: C alone is likelier than A, C and D is not.
    const unsure = { ...tastes, 'Q: CD': 0 };
    expect(await ask(parrot({}, unsure), judge, ' A')).toBe(true);
    expect(await ask(parrot({}, unsure), judge, ' CD')).toBe(false);
  });
});

describe('last-number', () => {
  test.each([
    ['3 * 4 = 12. 12 - 5 = 7.\n#### 7', 7],
    ['#### 1,234 apples and 9 pears', 1234],
    ['first #### 3 then #### -4.5', -4.5],
    ['12 - 5 = 7 are left.', 7],
    ['#### none, 3', 3],
    ['no number', undefined],
    ['####', undefined],
  ])('%j is %s', (text, number) => expect(lastNumber(text)).toBe(number));

  test('compares results, not the way there', async () => {
    const judge: Judge = { kind: 'last-number', stop: '\n\n' };
    const answer = ' 2 + 5 = 7\n#### 7\n\n';
    const says = (text: string) => ask(parrot({ 'Q:': text }), judge, answer);
    expect(await says(' Seven.\n#### 7.0\n\nQuestion: 8')).toBe(true);
    expect(await says(' 2 + 5 = 7\n#### 8\n\n')).toBe(false);
    expect(await says(' I do not know.\n\n7')).toBe(false);
  });
});

describe('last-letter', () => {
  test.each([
    ['Anna keeps a cat: B', 'B'],
    ['A cat, so C.', 'C'],
    ['ABC and D4', undefined],
    ['', undefined],
  ])('%j is %s', (text, letter) => expect(lastLetter(text)).toBe(letter));

  test('compares letters, not the way there', async () => {
    const judge: Judge = { kind: 'last-letter', stop: '\n\n' };
    const says = (text: string) => ask(parrot({ 'Q:': text }), judge, 'Anna keeps a cat: B\n\n');
    expect(await says(' Anna has a cat: B\n\nQuestion: D')).toBe(true);
    expect(await says(' Anna keeps a cat: D\n\nB')).toBe(false);
    expect(await says(' I do not know.\n\nB')).toBe(false);
  });
});

describe('python', () => {
  const judge: Judge = { kind: 'python', stop: '\n\n', tests: 'assert f(1) == 2' };
  const prompt = 'Some prose.\ndef f(x):\n';

  test('runs the function as written, without the prose, then the tests', async () => {
    const model = parrot({ [prompt]: '    return x + 1\n\nprint(7)' });
    const programs: string[] = [];
    const runs = (ok: boolean) => async (code: string) => {
      programs.push(code);
      return { ok };
    };
    const options = { prompt, code: 'def f(x):\n' };
    expect(await ask(model, judge, '', { ...options, run: runs(true) })).toBe(true);
    expect(await ask(model, judge, '', { ...options, run: runs(false) })).toBe(false);
    expect(programs[0]).toBe('def f(x):\n    return x + 1\n\nassert f(1) == 2\n');
  });

  test('is refused where nothing can run it', async () => {
    const model = parrot({ [prompt]: '\n\n' });
    await expect(ask(model, judge, '', { prompt })).rejects.toThrow(
      expect.objectContaining({ code: 'unsupported' }),
    );
  });
});

describe('every skill', () => {
  test.each(Object.keys(skills))(
    '%s: its own answer is right, that of another exercise is wrong',
    async (name) => {
      const skill = await skills[name].load();
      const asked = (index: number) => {
        const { pieces, judge } = exercise(skill, 'held-out', 3, index);
        const last = pieces.findLastIndex(({ kind }) => kind === 'answer');
        const texts = pieces.map((piece) => (piece.kind === 'filler' ? '' : piece.text));
        return { judge, prompt: texts.slice(0, last).join(''), answer: texts[last] };
      };
      const { judge, prompt, answer } = asked(0);
      const other = [1, 2, 3, 4, 5].map((index) => asked(index).answer);
      const wrong = other.find((text) => text !== answer) ?? '';
      // Stands for Python: right is the function as it should be.
      const run: RunPython = async (code) => ({
        ok: code.startsWith(`${prompt}${answer.trimEnd()}`),
      });
      const says = (text: string) => {
        const follow = judge.kind === 'choices' ? '' : judge.stop;
        return ask(parrot({ [prompt]: text + follow }), judge, answer, { prompt, run });
      };
      expect(await says(answer)).toBe(true);
      expect(await says(wrong)).toBe(false);
    },
  );
});

test('a prompt beyond the context is refused', async () => {
  const prompt = 'x'.repeat(4000);
  await expect(ask(parrot({}), { kind: 'exact', stop: '.' }, 'y', { prompt })).rejects.toThrow(
    expect.objectContaining({ code: 'range' }),
  );
});
