import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { skipBecause } from '../../../test/forged.ts';
import { KvError } from '../../errors/errors.ts';
import { skill as chat } from './chat.ts';
import { families, python } from './python-functions.ts';
import { Draw, exercise, splitOf, type Exercise, type Skill, type Split } from './skill.ts';
import { skill as tinyGsm } from './tiny-gsm.ts';
import { skill as tinyHumaneval } from './tiny-humaneval.ts';
import { skill as tinyMmlu } from './tiny-mmlu.ts';
import { skill as tinyWorld } from './tiny-world.ts';
import { inventions, topics, towns } from './world.ts';

/** Finds everything out again from the text alone. */
interface Reader {
  readonly skill: Skill;
  /** settings that are out of range */
  readonly wrong: Readonly<Record<string, number>>;
  /** every instance in a whole exercise, as `Draw.fresh` was given it */
  keys(whole: string): string[];
}

/** Worlds have questions without values of their own; these are theirs. */
const worldQuestions = new Set(
  topics.flatMap(({ facts, questions }) =>
    facts.flatMap(([subject]) => questions.map((ask) => ask(subject))),
  ),
);
/** Every sentence about the world, and what comes before its value. */
const worldSentences = new Map(
  topics.flatMap(({ facts, statements, questions }) =>
    facts.flatMap(([subject, value]) =>
      [...statements, ...questions].map((say) => [`${say(subject)} ${value}.`, say(subject)]),
    ),
  ),
);
const recalls =
  /^(?:Your name is|You live at|You keep|You like to eat|You will go|You were born|Your friends are) (.+)\.$/;

const readers: Readonly<Record<string, Reader>> = {
  'tiny-gsm': {
    skill: tinyGsm,
    wrong: { steps: 4 },
    keys: (whole) => [...whole.matchAll(/^Question: (.+)$/gm)].map(([, question]) => question),
  },
  'tiny-mmlu': {
    skill: tinyMmlu,
    wrong: { facts: 29 },
    keys: (whole) => factsIn(whole),
  },
  'tiny-world': {
    skill: tinyWorld,
    wrong: { questions: 0 },
    keys: (whole) => [
      ...fourChoicesIn(whole).map(({ question, options }) =>
        ['tiny-world', question, ...options.sort()].join('|'),
      ),
      ...[...clozesIn(whole).map(({ question }) => question), ...wordingsIn(whole)].map(
        (wording) => `tiny-world|${wording}`,
      ),
    ],
  },
  'tiny-humaneval': {
    skill: tinyHumaneval,
    wrong: { functions: 1.5 },
    keys: (whole) =>
      [...whole.matchAll(/^def (.+):\n {4}"""(.+)$/gm)].map(
        ([, signature, sentence]) => `${signature}: ${sentence}`,
      ),
  },
  chat: {
    skill: chat,
    wrong: { turns: 2 },
    keys: (whole) =>
      turnsIn(whole).flatMap(({ user, assistant }) => {
        if (recalls.test(assistant)) return [`chat ${assistant}`];
        const sum = /\d (plus|minus|times) \d/.test(user);
        return sum || worldQuestions.has(user) ? [`chat ${user}`] : [];
      }),
  },
};

describe.each(Object.entries(readers))('%s', (_name, { skill, wrong, keys }) => {
  test('the same seed gives the same exercise, another index another', () => {
    for (const split of ['train', 'held-out'] as const) {
      expect(exercise(skill, split, 7, 3)).toEqual(exercise(skill, split, 7, 3));
      expect(exercise(skill, split, 7, 3)).not.toEqual(exercise(skill, split, 7, 4));
      expect(exercise(skill, split, 7, 3)).not.toEqual(exercise(skill, split, 8, 3));
    }
  });

  test('no text ends in a space or meets another', () => {
    for (const { pieces } of draws(skill, 'train', 500)) {
      pieces.forEach((piece, i) => {
        if (piece.kind === 'answer') expect(pieces[i - 1].kind).toBe('text');
        if (piece.kind !== 'text') return;
        expect(piece.text).toMatch(/[^ ]$/);
        expect(pieces[i + 1]?.kind).not.toBe('text');
      });
    }
  });

  test('the shares of filler are positive and sum to 1', () => {
    for (const { pieces } of draws(skill, 'train', 500)) {
      const shares = pieces.flatMap((piece) => (piece.kind === 'filler' ? [piece.share] : []));
      expect(shares.every((share) => share > 0)).toBe(true);
      if (skill !== tinyMmlu) expect(shares).toEqual([]);
      if (shares.length > 0) expect(shares.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
    }
  });

  test('evaluation asks one question, without filler', () => {
    for (const { pieces } of evaluated(skill, 100)) {
      expect(pieces.filter(({ kind }) => kind === 'answer')).toHaveLength(skill === chat ? 4 : 1);
      expect(pieces.some(({ kind }) => kind === 'filler')).toBe(false);
    }
  });

  test('training and held-out share no instance', () => {
    const collect = (split: Split, count: number) => {
      const found = new Set(draws(skill, split, count).flatMap((made) => keys(wholeOf(made))));
      for (const key of found) expect(splitOf(key), key).toBe(split);
      return found;
    };
    const train = collect('train', 20_000);
    const heldOut = collect('held-out', 2_000);
    expect(train.size).toBeGreaterThan(3_000);
    expect(heldOut.size).toBeGreaterThan(400);
    expect([...heldOut].filter((key) => train.has(key))).toEqual([]);
  }, 120_000);

  test('refuses settings out of range', () => {
    expect(() => exercise(skill, 'train', 1, 1, { ...skill.settings, ...wrong })).toThrow(KvError);
  });
});

describe('tiny-gsm', () => {
  test.each([1, 2, 3])('%i steps, each with the right result', (steps) => {
    for (let i = 0; i < 1000; i++) {
      const made = exercise(tinyGsm, i % 2 ? 'train' : 'held-out', 3, i, { steps, shots: 0 });
      const [, question, work, result] =
        /^Question: (.+)\nAnswer: (.+)\n#### (\d+)\n\n$/.exec(wholeOf(made)) ?? fail(made);
      const done = [...work.matchAll(/(\d+) ([-+*/]) (\d+) = (\d+)/g)];
      expect(done).toHaveLength(steps);
      // Every number comes from the question or from a step before.
      const known = new Set(question.match(/\d+/g));
      for (const [text, a, operator, b, value] of done) {
        expect(Number(value), text).toBe(calculate(Number(a), operator, Number(b)));
        expect([known.has(a), known.has(b)], `${text} in ${question}`).toEqual([true, true]);
        known.add(value);
      }
      expect(result).toBe(done.at(-1)?.[4]);
      expect(Number(result)).toBeLessThan(100);
    }
  });

  test('shots are solved problems before the asked one', () => {
    const { pieces } = exercise(tinyGsm, 'held-out', 1, 1, { steps: 2, shots: 3 });
    expect(pieces.map(({ kind }) => kind).join(' ')).toBe('text answer '.repeat(4).trim());
  });

  test('sums to learn from are right', () => {
    for (let i = 0; i < 300; i++) {
      const made = exercise(tinyGsm, 'train', 3, i, { sums: 20 });
      const sums = [...wholeOf(made).matchAll(/^(\d+) ([-+*/]) (\d+) = (\d+)$/gm)];
      expect(sums).toHaveLength(20);
      for (const [text, a, operator, b, value] of sums) {
        expect(Number(value), text).toBe(calculate(Number(a), operator, Number(b)));
      }
    }
  });

  test.each([20, 99])('with numbers to %i the commonest result is as common as `chance`', (max) => {
    const counts = new Map<string, number>();
    const made = Array.from({ length: 5000 }, (_, i) =>
      exercise(tinyGsm, 'held-out', 5, i, { max }),
    );
    for (const one of made) {
      const numbers = wholeOf(one).split('Answer:')[1].match(/\d+/g) ?? [];
      expect(Math.max(...numbers.map(Number))).toBeLessThanOrEqual(max);
      const result = wholeOf(one).split('#### ')[1];
      counts.set(result, (counts.get(result) ?? 0) + 1);
    }
    const commonest = Math.max(...counts.values()) / made.length;
    expect(commonest).toBeLessThan(made[0].chance + 0.006); // 3 sigma of 5000
    expect(commonest).toBeGreaterThan(0.7 * made[0].chance);
  });
});

describe('tiny-mmlu', () => {
  test('one option answers, and the others stand in the context as well', () => {
    let steps = 0;
    for (const made of draws(tinyMmlu, 'train', 1000)) {
      const facts = factsIn(wholeOf(made));
      for (const { question, options, step, letter } of fourChoicesIn(wholeOf(made))) {
        const right = options['ABCD'.indexOf(letter)];
        const rest = /^Who (.+)\?$/.exec(question)?.[1];
        // The name is the only capitalized word after the first one.
        const name = rest === undefined ? (/ ([A-Z]\w+)/.exec(question)?.[1] ?? '') : undefined;
        const says = (option: string) =>
          rest === undefined
            ? facts.filter((fact) => fact.startsWith(`${name} `) && fact.endsWith(` ${option}.`))
            : facts.filter((fact) => fact === `${option} ${rest}.`);
        expect(options.filter((option) => says(option).length > 0)).toEqual([right]);
        if (step !== undefined) {
          steps++;
          expect(rest === undefined ? `${step}.` : step).toBe(
            rest === undefined ? says(right)[0] : `The one who ${rest} is ${right}`,
          );
        }
        expect(new Set(options).size).toBe(4);
        for (const option of options) {
          expect(facts.some((fact) => fact.includes(option), option)).toBe(true);
        }
      }
    }
    expect(steps).toBeGreaterThan(500);
  });

  test('without options, the answer follows from the context and is among the choices', () => {
    let asked = 0;
    for (const made of draws(tinyMmlu, 'train', 1000)) {
      const facts = factsIn(wholeOf(made));
      for (const { question, value } of clozesIn(wholeOf(made))) {
        asked++;
        const rest = /^Who (.+)\?$/.exec(question)?.[1];
        const says = facts.some((fact) =>
          rest === undefined ? fact.endsWith(` ${value}.`) : fact === `${value} ${rest}.`,
        );
        expect(says, `${question} ${value}`).toBe(true);
      }
      const last = made.pieces.findLast(({ kind }) => kind === 'answer');
      if (last?.kind !== 'answer') fail(last);
      if (made.judge.kind === 'choices') expect(made.judge.choices).toContain(last.text);
      else expect(made.judge.kind).toBe('last-letter');
    }
    expect(asked).toBeGreaterThan(500);
  });

  test.each([4, 6, 28])('%i facts', (facts) => {
    for (let i = 0; i < 50; i++) {
      const made = exercise(tinyMmlu, 'held-out', 1, i, { facts, questions: 1, blocks: 2 });
      expect(new Set(factsIn(wholeOf(made))).size).toBe(facts);
      expect(made.pieces.filter(({ kind }) => kind === 'filler').length).toBeGreaterThan(1);
    }
  });
});

describe('tiny-world', () => {
  test('one option is true, and statements are', () => {
    const facts = new Map<string, string>();
    for (const topic of topics) {
      for (const [subject, value] of topic.facts) {
        for (const say of [...topic.statements, ...topic.questions]) {
          expect(facts.has(say(subject)), say(subject)).toBe(false);
          facts.set(say(subject), value);
        }
      }
    }
    const said = new Set<string>();
    for (const made of draws(tinyWorld, 'train', 2000)) {
      for (const { question, options, step, letter } of fourChoicesIn(wholeOf(made))) {
        expect(options['ABCD'.indexOf(letter)]).toBe(facts.get(question));
        if (step !== undefined) expect(worldSentences.get(`${step}.`)).toBeDefined();
        expect(new Set(options).size).toBe(4);
      }
      for (const { question, value } of clozesIn(wholeOf(made))) {
        expect(value).toBe(facts.get(question));
      }
      made.pieces.forEach((piece, i) => {
        const before = made.pieces[i - 1];
        if (piece.kind !== 'answer' || before.kind !== 'text' || !piece.text.endsWith('.')) return;
        const begin = before.text.trim();
        expect(piece.text).toBe(` ${facts.get(begin)}.`);
        said.add(begin);
      });
    }
    // One wording in eight is held out.
    expect(said.size / facts.size).toBeGreaterThan(0.8);
  });

  test('its towns and inventions can be told apart', () => {
    expect(towns).toHaveLength(24);
    expect(inventions).toHaveLength(13);
    for (const { facts } of topics.filter(({ facts }) => facts.length === 13)) {
      expect(new Set(facts.map(([, value]) => value)).size).toBe(13);
    }
    for (const key of ['name', 'river', 'ruler'] as const) {
      expect(new Set(towns.map((town) => town[key])).size).toBe(24);
    }
  });

  test('is the world that models have learnt', () => {
    const hash = createHash('sha256').update(JSON.stringify({ towns, inventions }));
    expect(hash.digest('hex').slice(0, 16)).toBe('5461ad894259ad5c');
  });
});

describe.each([
  ['tiny-mmlu', tinyMmlu],
  ['tiny-world', tinyWorld],
])('%s', (_name, skill) => {
  test('every letter is right as often', () => {
    const counts = [0, 0, 0, 0];
    for (const made of evaluated(skill, 4000)) {
      counts['ABCD'.indexOf(fourChoicesIn(wholeOf(made))[0].letter)]++;
    }
    const chiSquare = counts.reduce((sum, n) => sum + (n - 1000) ** 2 / 1000, 0);
    expect(chiSquare, `chi-square of ${counts}`).toBeLessThan(16.3); // p = 0.001 at 3 degrees
  });
});

describe('chat', () => {
  test('what is recalled was told once before', () => {
    let asked = 0;
    for (const made of [...draws(chat, 'train', 1000), ...evaluated(chat, 500)]) {
      const turns = turnsIn(wholeOf(made));
      turns.forEach(({ assistant }, i) => {
        const value = recalls.exec(assistant)?.[1];
        if (value === undefined) return;
        asked++;
        const telling = turns.slice(0, i).filter(({ user }) => user.includes(value));
        expect(telling, assistant).toHaveLength(1);
      });
    }
    expect(asked).toBeGreaterThan(1000);
  });

  test('evaluation asks for something told', () => {
    for (const made of evaluated(chat, 200)) {
      const turns = turnsIn(wholeOf(made));
      expect(turns).toHaveLength(4);
      expect(turns.at(-1)?.assistant).toMatch(recalls);
    }
  });

  test('sums are right', () => {
    const signs: Readonly<Record<string, string>> = { plus: '+', minus: '-', times: '*' };
    const replies = draws(chat, 'train', 1000).flatMap((made) => turnsIn(wholeOf(made)));
    const sums = replies.flatMap(
      ({ assistant }) => /^(\d+) (\w+) (\d+) is (\d+)\.$/.exec(assistant) ?? [],
    );
    expect(sums.length).toBeGreaterThan(500);
    for (let i = 0; i < sums.length; i += 5) {
      const [text, a, word, b, result] = sums.slice(i, i + 5);
      expect(Number(result), text).toBe(calculate(Number(a), signs[word], Number(b)));
    }
  });
});

const hasPython = spawnSync('python3', ['-c', 'pass']).status === 0;
const why = 'there is no python3 here to run programs';

describe('tiny-humaneval', () => {
  /** Program and tests, as they would be judged. */
  const programs = (change: (body: string) => string) => [
    ...evaluated(tinyHumaneval, 300).map(({ pieces: [prompt, answer], judge }) => {
      if (prompt.kind !== 'text' || answer.kind !== 'answer' || judge.kind !== 'python')
        fail(judge);
      return `${prompt.text}${change(answer.text)}${judge.tests}`;
    }),
    ...families.flatMap((family, i) =>
      Array.from({ length: 12 }, (_, j) => {
        const { name, argument, body, calls } = family(new Draw('train', 100 * i + j));
        const tests = calls.map(([a, b]) => `assert ${name}(${python(a)}) == ${python(b)}\n`);
        return `def ${name}(${argument}):\n${change(`    return ${body}\n`)}${tests.join('')}`;
      }),
    ),
  ];

  test('every family passes its tests in Python', ({ skip }) => {
    if (!hasPython) skipBecause(skip, 'tiny-humaneval', why);
    const all = programs((body) => body);
    const passed = runPython(all);
    expect(all.filter((_, i) => !passed[i])).toEqual([]);
  });

  test('the example in the docstring is true', ({ skip }) => {
    if (!hasPython) skipBecause(skip, 'tiny-humaneval', why);
    const examples = evaluated(tinyHumaneval, 300).map((made) => {
      const whole = wholeOf(made);
      const [, call, value] = />>> (.+)\n {4}(.+)\n/.exec(whole) ?? fail(whole);
      return `${whole}assert repr(${call}) == ${JSON.stringify(value)}`;
    });
    expect(runPython(examples)).toEqual(examples.map(() => true));
  });

  test('a wrong constant, letter or result fails', ({ skip }) => {
    if (!hasPython) skipBecause(skip, 'tiny-humaneval', why);
    const changes: ((body: string) => string)[] = [
      // the last number that is no part of a name, one up and one down
      (body) => body.replace(/\b(\d+)\b(?!.*\b\d)/, (n) => String(Number(n) + 1)),
      (body) => body.replace(/\b(\d+)\b(?!.*\b\d)/, (n) => String(Number(n) - 1)),
      (body) => body.replace(/'(\w)'/, "'z'"),
      (body) => body.replace(/return .+/, 'return None'),
      (body) => body.replace(/return .+/, 'return True'),
      (body) => body.replace(/return .+/, 'return False'),
    ];
    const right = programs((body) => body);
    for (const change of changes) {
      const changed = programs(change).filter((program, i) => program !== right[i]);
      const passed = runPython(changed);
      expect(changed.length).toBeGreaterThan(50);
      expect(changed.filter((_, i) => passed[i])).toEqual([]);
    }
  });

  test('every task has 4 or 5 tests, and a name that Python allows', () => {
    for (const { judge } of evaluated(tinyHumaneval, 500)) {
      if (judge.kind !== 'python') fail(judge);
      const lines = judge.tests.trimEnd().split('\n');
      expect([4, 5]).toContain(lines.length);
      for (const line of lines) expect(line).toMatch(/^assert [a-z]\w*\(.+\) == .+$/);
    }
  });
});

/** Whether each program runs through, all in one Python process. */
function runPython(programs: readonly string[]): boolean[] {
  const script = [
    'import json, sys',
    'passed = []',
    'for program in json.load(sys.stdin):',
    '    try:',
    '        exec(program, {})',
    '        passed.append(True)',
    '    except Exception:',
    '        passed.append(False)',
    'print(json.dumps(passed))',
  ].join('\n');
  const { stdout } = spawnSync('python3', ['-c', script], {
    input: JSON.stringify(programs),
    encoding: 'utf8',
  });
  return JSON.parse(stdout) as boolean[];
}

/** As training draws them, and every fourth with the settings of evaluation. */
function draws(skill: Skill, split: Split, count: number): Exercise[] {
  return Array.from({ length: count }, (_, i) => {
    const settings = i % 4 === 0 ? skill.settings : skill.vary(new Draw(split, i));
    return exercise(skill, split, 11, i, settings);
  });
}

function evaluated(skill: Skill, count: number): Exercise[] {
  return Array.from({ length: count }, (_, i) => exercise(skill, 'held-out', 5, i));
}

/** The text with its answers, without filler. */
function wholeOf({ pieces }: Exercise): string {
  return pieces.map((piece) => (piece.kind === 'filler' ? '' : piece.text)).join('');
}

function calculate(a: number, operator: string, b: number): number {
  if (operator === '+') return a + b;
  if (operator === '-') return a - b;
  if (operator === '*') return a * b;
  if (operator === '/') return a / b;
  return fail(operator);
}

/** The lines of a context; an option ends in no full stop. */
function factsIn(whole: string): string[] {
  return [...whole.matchAll(/^[A-Z][a-z]+ .+\.$/gm)].map(([fact]) => fact);
}

interface FourChoicesRead {
  readonly question: string;
  readonly options: string[];
  /** the fact written before the letter, if any */
  readonly step: string | undefined;
  readonly letter: string;
}

function fourChoicesIn(whole: string): FourChoicesRead[] {
  const form =
    /^Question: (.+)\nA\. (.+)\nB\. (.+)\nC\. (.+)\nD\. (.+)\nAnswer: (?:Let's think step by step\.\n(.+): )?([ABCD])$/gm;
  return [...whole.matchAll(form)].map(([, question, a, b, c, d, step, letter]) => ({
    question,
    options: [a, b, c, d],
    step,
    letter,
  }));
}

function clozesIn(whole: string): { question: string; value: string }[] {
  return [...whole.matchAll(/^Question: (.+)\nAnswer: (.+)\n\n/gm)].map(([, question, value]) => ({
    question,
    value,
  }));
}

/** Facts of the world that a text states, each by what comes before its value. */
function wordingsIn(whole: string): string[] {
  return whole.split('\n').flatMap((line) => worldSentences.get(line) ?? []);
}

function turnsIn(whole: string): { user: string; assistant: string }[] {
  const form = /<\|im_start\|>user\n(.+)<\|im_end\|>\n<\|im_start\|>assistant\n(.+)<\|im_end\|>\n/g;
  return [...whole.matchAll(form)].map(([, user, assistant]) => ({ user, assistant }));
}

function fail(found: unknown): never {
  throw new Error(`unexpected: ${JSON.stringify(found)}`);
}
