import { describe, expect, test } from 'vitest';
import { KvError } from '../../errors/errors.ts';
import { skill as copy } from './copy.ts';
import { skill as kvRecall } from './kv-recall.ts';
import { skill as needle } from './needle.ts';
import { skill as passkey } from './passkey.ts';
import { Draw, exercise, splitOf, type Exercise, type Skill, type Split } from './skill.ts';
import { skill as varTrack } from './var-track.ts';
import * as words from './words.ts';

/** Finds everything out again from the text alone. */
interface Reader {
  readonly skill: Skill;
  /** every instance in the text before the last answer, as `Draw.fresh` was given it */
  keys(before: string): string[];
  /** what must be answered after `before`, and where that stands among the places it could, 0 to 1 */
  solve(before: string): { answer: string; place: number };
}

const prose = 'Some prose of a book.';
const readers: Readonly<Record<string, Reader>> = {
  passkey: {
    skill: passkey,
    keys: (before) => [`passkey ${/ is (\d+)/.exec(before)?.[1]}`],
    solve(before) {
      const [statement, key] = / is (\d+)\./.exec(before) ?? fail(before);
      return { answer: ` ${key}`, place: wordsBefore(before, before.indexOf(statement)) };
    },
  },
  needle: {
    skill: needle,
    keys: (before) => factsIn(before).map((fact) => `needle ${fact.slice(0, -1)}`),
    solve(before) {
      const facts = factsIn(before);
      const [, start] = /\?\s(.+)$/.exec(before) ?? fail(before);
      const found = facts.filter((fact) => fact.startsWith(`${start} `));
      expect(found).toHaveLength(1);
      return {
        answer: found[0].slice(start.length, -1),
        place: facts.indexOf(found[0]) / facts.length,
      };
    },
  },
  'kv-recall': {
    skill: kvRecall,
    keys: (before) => pairsIn(before).map(([key, value]) => `kv-recall ${key}: ${value}`),
    solve(before) {
      const pairs = pairsIn(before);
      const asked = before.slice(before.lastIndexOf('\n') + 1, -1);
      const found = pairs.filter(([key]) => key === asked);
      expect(found).toHaveLength(1);
      return { answer: ` ${found[0][1]}`, place: pairs.indexOf(found[0]) / pairs.length };
    },
  },
  'var-track': {
    skill: varTrack,
    keys: (before) => chainsIn(before).map((chain) => `var-track ${chain.join(' ')}`),
    solve(before) {
      const chains = chainsIn(before);
      const [, asked] = /What is the value of (\w+)\?$/.exec(before) ?? fail(before);
      const chain = chains.findIndex((names) => names.slice(0, -1).includes(asked));
      return { answer: ` ${chains[chain].at(-1)}`, place: chain / chains.length };
    },
  },
  copy: {
    skill: copy,
    keys: (before) => [`copy ${passageIn(before)}`],
    solve(before) {
      const passage = passageIn(before);
      const cue = before.slice(before.lastIndexOf('\n') + 1);
      expect(passage.startsWith(`${cue} `)).toBe(true);
      expect(` ${passage} `.split(` ${cue} `), `the cue once in ${passage}`).toHaveLength(2);
      return {
        answer: passage.slice(cue.length),
        place: wordsBefore(before, before.indexOf(passage)),
      };
    },
  },
};

describe.each(Object.entries(readers))('%s', (_name, { skill, keys, solve }) => {
  test('the same seed gives the same exercise, another index another', () => {
    for (const split of ['train', 'held-out'] as const) {
      expect(exercise(skill, split, 7, 3)).toEqual(exercise(skill, split, 7, 3));
      expect(exercise(skill, split, 7, 3)).not.toEqual(exercise(skill, split, 7, 4));
      expect(exercise(skill, split, 7, 3)).not.toEqual(exercise(skill, split, 8, 3));
    }
  });

  test('every answer follows from the text before it', () => {
    for (const made of [...draws(skill, 'train', 500), ...draws(skill, 'held-out', 500)]) {
      for (const { before, answer } of questionsOf(made)) expect(solve(before).answer).toBe(answer);
    }
  });

  test('texts meet answers at a space, and never each other', () => {
    for (const { pieces } of draws(skill, 'train', 500)) {
      pieces.forEach((piece, i) => {
        if (piece.kind === 'answer') expect(piece.text).toMatch(/^ \S/);
        if (piece.kind !== 'text') return;
        expect(piece.text).toMatch(/[^ ]$/);
        expect(pieces[i + 1]?.kind).not.toBe('text');
      });
    }
  });

  test('the judge stops right after the last answer, not in it', () => {
    for (const { pieces, judge } of draws(skill, 'held-out', 200)) {
      const at = pieces.findLastIndex(({ kind }) => kind === 'answer');
      const [answer, after] = [pieces[at], pieces[at + 1]];
      if (judge.kind !== 'exact' || answer.kind !== 'answer' || after.kind !== 'text') fail(judge);
      expect(answer.text).not.toContain(judge.stop);
      expect(after.text.startsWith(judge.stop)).toBe(true);
    }
  });

  test('the shares of filler are positive and sum to 1', () => {
    for (const { pieces } of [...draws(skill, 'train', 500), ...draws(skill, 'held-out', 100)]) {
      const shares = pieces.flatMap((piece) => (piece.kind === 'filler' ? [piece.share] : []));
      expect(shares.every((share) => share > 0)).toBe(true);
      const mayHaveNone = skill === kvRecall || skill === varTrack;
      if (shares.length > 0 || !mayHaveNone) {
        expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 12);
      }
    }
  });

  test('training and held-out share no instance', () => {
    const collect = (split: Split, count: number) => {
      const found = new Set(draws(skill, split, count).flatMap((made) => keys(textOf(made))));
      expect([...found].filter((key) => splitOf(key) !== split)).toEqual([]);
      return found;
    };
    const train = collect('train', 20_000);
    const heldOut = collect('held-out', 2_000);
    expect(train.size).toBeGreaterThan(5_000);
    expect(heldOut.size).toBeGreaterThan(1_000);
    expect([...heldOut].filter((key) => train.has(key))).toEqual([]);
  }, 60_000);

  test('what is asked last stands anywhere', () => {
    const bins = new Array<number>(8).fill(0);
    const many = { needles: 8, pairs: 32, chains: 8, hops: 2, questions: 2, blocks: 3 };
    const count = 2000;
    for (let i = 0; i < count; i++) {
      const made = exercise(skill, 'held-out', 5, i, { ...skill.settings, ...many });
      bins[Math.floor(8 * solve(textOf(made)).place)]++;
    }
    const expected = count / bins.length;
    const chiSquare = bins.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
    expect(chiSquare, `chi-square of ${bins}`).toBeLessThan(24.3); // p = 0.001 at 7 degrees
  });

  test('refuses settings out of range', () => {
    const wrong = { digits: 2, needles: 0, pairs: 0, chains: 17, words: 2.5 };
    expect(() => exercise(skill, 'train', 1, 1, { ...skill.settings, ...wrong })).toThrow(KvError);
  });
});

describe('settings', () => {
  test('passkey: digits and depth', () => {
    const { pieces } = exercise(passkey, 'held-out', 1, 1, { digits: 7, depth: 0.25 });
    expect(pieces[0]).toEqual({ kind: 'filler', share: 0.25 });
    expect(pieces.at(-2)).toMatchObject({ text: expect.stringMatching(/^ \d{7}$/) });
    const [first] = exercise(passkey, 'held-out', 1, 1, { depth: 0 }).pieces;
    expect(first.kind).toBe('text');
    expect(() => exercise(passkey, 'train', 1, 1, { depth: 1.5 })).toThrow(KvError);
  });

  test('needle: needles, questions, and the depth of the one asked last', () => {
    for (let i = 0; i < 50; i++) {
      const made = exercise(needle, 'held-out', 1, i, { needles: 5, questions: 3, depth: 0 });
      const facts = factsIn(textOf(made));
      expect(facts).toHaveLength(5);
      expect(new Set(facts.map((fact) => fact.split(' ').at(-1))).size).toBe(5);
      expect(new Set(questionsOf(made).map(({ answer }) => answer)).size).toBe(3);
      expect(readers.needle.solve(textOf(made)).place).toBe(0);
    }
  });

  test('needle: early questions stand between filler', () => {
    const chosen = { needles: 6, questions: 6, early: 1 };
    const { pieces } = exercise(needle, 'train', 1, 1, chosen);
    const lastFiller = pieces.findLastIndex(({ kind }) => kind === 'filler');
    expect(pieces.slice(0, lastFiller).filter(({ kind }) => kind === 'answer')).toHaveLength(5);
  });

  test.each([2, 64, 200])('kv-recall: %i pairs, all different', (pairs) => {
    const made = exercise(kvRecall, 'held-out', 1, 1, { pairs, questions: 2, blocks: 2 });
    const found = pairsIn(textOf(made));
    expect(found).toHaveLength(pairs);
    expect(new Set(found.flat()).size).toBe(2 * pairs);
    expect(questionsOf(made)).toHaveLength(2);
    expect(made.pieces.filter(({ kind }) => kind === 'filler')).toHaveLength(3);
  });

  test('kv-recall: no filler unless asked for', () => {
    const { pieces } = exercise(kvRecall, 'held-out', 1, 1);
    expect(pieces.map(({ kind }) => kind)).toEqual(['text', 'answer', 'text']);
  });

  test('var-track: chains, hops, and the end of a chain asked last', () => {
    for (let i = 0; i < 50; i++) {
      const made = exercise(varTrack, 'held-out', 1, i, { chains: 5, hops: 3, questions: 4 });
      const chains = chainsIn(textOf(made));
      expect(chains.map(({ length }) => length)).toEqual([5, 5, 5, 5, 5]);
      expect(new Set(chains.map((chain) => chain.at(-1))).size).toBe(5);
      expect(new Set(chains.flat()).size).toBe(25);
      expect(questionsOf(made)).toHaveLength(4);
      const asked = /(\w+)\?$/.exec(textOf(made))?.[1];
      expect(chains.map((chain) => chain[3])).toContain(asked);
    }
  });

  test('copy: words and cue', () => {
    const made = exercise(copy, 'held-out', 1, 1, { words: 40, cue: 4 });
    expect(passageIn(textOf(made)).split(' ')).toHaveLength(40);
    expect(questionsOf(made)[0].answer.split(' ')).toHaveLength(1 + 36);
  });

  test('copy: the cue comes once, in long passages too', () => {
    for (let i = 0; i < 100; i++) {
      const made = exercise(copy, 'train', 1, i, { words: 300, cue: 2 });
      for (const { before, answer } of questionsOf(made)) {
        expect(readers.copy.solve(before).answer).toBe(answer);
      }
    }
  });
});

test('no word stands twice in a list', () => {
  for (const list of Object.values(words)) expect(new Set(list).size).toBe(list.length);
});

/** As evaluation draws them and as training does, whatever the split. */
function draws(skill: Skill, split: Split, count: number): Exercise[] {
  return Array.from({ length: count }, (_, i) => {
    const settings = i % 4 === 0 ? skill.settings : skill.vary(new Draw(split, i));
    return exercise(skill, split, 11, i, settings);
  });
}

function questionsOf({ pieces }: Exercise): { before: string; answer: string }[] {
  let before = '';
  return pieces.flatMap((piece) => {
    const here = before;
    before +=
      piece.kind === 'filler' ? `${prose} `.repeat(Math.ceil(200 * piece.share)) : piece.text;
    return piece.kind === 'answer' ? [{ before: here, answer: piece.text }] : [];
  });
}

/** Everything before the last answer. */
function textOf(made: Exercise): string {
  return questionsOf(made).at(-1)?.before ?? fail(made);
}

/** The share of all filler that stands before a place in the text. */
function wordsBefore(text: string, at: number): number {
  const count = (part: string) => part.split(prose).length - 1;
  return count(text.slice(0, at)) / (count(text) + 1);
}

function factsIn(before: string): string[] {
  return [...before.matchAll(/^(?!Some prose)[^?\n]+\.$/gm)].map(([fact]) => fact);
}

function pairsIn(before: string): [string, string][] {
  const list = before.slice(0, before.search(/\n[a-z ]+:$/));
  const seen = new Map<string, string>();
  for (const [, key, value] of list.matchAll(/^([a-z ]+): (\w+)$/gm)) {
    // A question answered earlier looks like the pair itself.
    if ((seen.get(key) ?? value) !== value) fail(before);
    seen.set(key, value);
  }
  return [...seen];
}

/** Variables in the order of assignment, then the value. */
function chainsIn(before: string): string[][] {
  const chains: string[][] = [];
  for (const [, name, from] of before.matchAll(/^VAR (\w+) = (\w+)$/gm)) {
    const chain = chains.find((names) => names.at(-2) === from);
    if (chain) chain.splice(-1, 0, name);
    else chains.push([name, from]);
  }
  if (!chains.every((chain) => /^\d+$/.test(chain.at(-1) ?? ''))) fail(before);
  return chains;
}

function passageIn(before: string): string {
  return before.split('\n').find((line) => line !== '' && !line.includes(prose)) ?? fail(before);
}

function fail(found: unknown): never {
  throw new Error(`unexpected: ${JSON.stringify(found)}`);
}
