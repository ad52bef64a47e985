/** The tasks on data sets, asked of a model that says what it was told, on made-up data. */
import { describe, expect, test } from 'vitest';
import type { Model } from '../model/model.ts';
import { fittingPrompt, meanOf } from './benchmark.ts';
import { evaluate, runIdentity } from './evaluate.ts';
import { flexibleAnswer, strictAnswer } from './gsm8k.ts';
import { passAtK } from './humaneval.ts';
import { splitWord } from './lambada.ts';
import { mmluQuestions } from './mmlu-data.ts';
import { parrot } from './parrot.ts';
import type { EvalSettings, EvalText, RunPython } from './task.ts';

const failure = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

const lines = (name: string, rows: readonly object[]): EvalText => ({
  name,
  text: rows.map((row) => `${JSON.stringify(row)}\n`).join(''),
});

function contextOf(
  model: Model,
  task: string,
  files: readonly EvalText[],
  change: Partial<EvalSettings> = {},
  runPython?: RunPython,
) {
  const settings = { methods: ['f16'], seed: 1, set: {}, ...change };
  const data = { [task]: files };
  return { model, texts: [], shuffled: false, settings, data, ...(runPython && { runPython }) };
}

const run = (...args: Parameters<typeof contextOf>) => evaluate([args[1]], contextOf(...args));

describe('answers of GSM8K', () => {
  test.each([
    ['so 3 + 4 = 7.\n#### 7', '7', '7'],
    ['#### 1,234', '1234', '1234'],
    ['#### -5.', '-5', '-5'],
    ['#### 18 eggs, and 3 left over', '18', '3'],
    ['#### $18', undefined, '18'],
    ['#### 7\n\n#### 8', '7', '8'],
    ['She pays $1,080.50.', undefined, '1080.50'],
    ['It is 5', undefined, '5'],
    ['####7', undefined, '7'],
    ['no number', undefined, undefined],
    ['', undefined, undefined],
  ])('%j: strict %s, flexible %s', (text, strict, flexible) => {
    expect(strictAnswer(text)).toBe(strict);
    expect(flexibleAnswer(text)).toBe(flexible);
  });
});

describe('pass@k', () => {
  test('is the share of all choices of k attempts that hold a right one', () => {
    /** counted, one choice after another: a number's bits say who is in */
    const counted = (n: number, right: number, k: number) => {
      let [all, good] = [0, 0];
      for (let choice = 0; choice < 2 ** n; choice++) {
        const chosen = Array.from({ length: n }, (_, i) => (choice >> i) & 1);
        if (chosen.reduce((sum, x) => sum + x, 0) !== k) continue;
        all++;
        if (chosen.slice(0, right).includes(1)) good++;
      }
      return good / all;
    };
    for (let n = 1; n <= 8; n++) {
      for (let right = 0; right <= n; right++) {
        for (let k = 1; k <= n; k++) {
          expect(passAtK(n, right, k)).toBeCloseTo(counted(n, right, k), 12);
        }
      }
    }
  });

  test('of many attempts', () => {
    expect(passAtK(200, 20, 1)).toBeCloseTo(0.1, 12);
    expect(passAtK(200, 0, 100)).toBe(0);
    expect(passAtK(200, 150, 100)).toBe(1);
  });
});

test('a mean and how sure it is', () => {
  expect(meanOf([1, 0, 0, 1])).toEqual({ mean: 0.5, stderr: expect.closeTo(0.288675, 6) });
  expect(meanOf([3])).toEqual({ mean: 3, stderr: 0 });
});

describe('a prompt that does not fit', () => {
  const model = { ...parrot({}), contextLength: 30 } as Model;
  const question = { head: 'HEAD', shots: ['11111', '22222', '33333'], asked: 'asked', room: 10 };

  test('loses shots, the last ones first', () => {
    const { prefix, prompt, shortened } = fittingPrompt(model, question);
    expect(prefix).toBe('HEAD1111122222');
    expect(prompt.text).toBe('HEAD1111122222asked');
    expect(prompt.fed).toEqual([...prompt.ids]);
    expect(shortened).toBe(true);
    expect(fittingPrompt(model, { ...question, room: 5 }).shortened).toBe(false);
  });

  test('loses its beginning where no shots are left', () => {
    const asked = 'abcdefghijklmnopqrstuvwxyz';
    const { prefix, prompt, shortened } = fittingPrompt(model, { ...question, asked });
    expect(String.fromCharCode(...prompt.fed)).toBe('ghijklmnopqrstuvwxyz');
    expect(prompt.text).toBe(`HEAD${asked}`);
    expect({ prefix, shortened }).toEqual({ prefix: '', shortened: true });
  });

  test('is refused where not even the answer fits', () => {
    expect(() => fittingPrompt(model, { ...question, room: 30 })).toThrow(
      failure('range', /answer needs 30 tokens; the context of "parrot" is 30/),
    );
  });
});

describe('gsm8k', () => {
  const train = lines('train.jsonl', [
    { question: 'One?', answer: 'It is 1.\n#### 1' },
    { question: 'Two?', answer: 'It is 2.\n#### 2' },
    { question: 'Three?', answer: 'It is 3.\n#### 3' },
  ]);
  const testFile = lines('test.jsonl', [
    { question: 'A?', answer: '#### 1,100' },
    { question: 'B?', answer: '#### 7' },
    { question: 'C?', answer: '#### 7' },
    { question: 'D?', answer: '#### 7' },
  ]);
  const files = [testFile, train];
  const shots =
    'Question: One?\nAnswer: It is 1.\n#### 1\n\nQuestion: Two?\nAnswer: It is 2.\n#### 2\n\n';
  const asks = (letter: string) => `${shots}Question: ${letter}?\nAnswer:`;
  const model = parrot({
    [asks('A')]: ' Eleven hundred.\n#### 1100\n\nQuestion: no more #### 5',
    [asks('B')]: ' That makes 7. Question:',
    [asks('C')]: ' #### 8 Question:',
    [asks('D')]: ' #### 7 then 9. Question:',
  });

  test('asks after the first examples and reads answers in both ways', async () => {
    const [result] = await run(model, 'gsm8k', files, { set: { shots: 2 } });
    expect(result).toMatchObject({
      task: 'gsm8k',
      method: 'f16',
      items: 4,
      shots: 2,
      accuracy: 0.5,
      accuracyStderr: expect.closeTo(0.288675, 6),
      accuracyFlexible: 0.5,
    });
    expect(result).not.toHaveProperty('shortened');
    expect(result.tokens).toBeGreaterThan(4 * asks('A').length);
    expect(result.bytesPerToken).toBe(2);
  });

  test('draws examples by the seed if asked to', async () => {
    const tokens = async (seed: number) => {
      const set = { shots: 1, drawn: 1 };
      return (await run(parrot({}), 'gsm8k', files, { set, seed, limit: 1 }))[0].tokens;
    };
    const drawn = await Promise.all([1, 2, 3, 4, 5, 6].map(tokens));
    expect(await tokens(1)).toBe(drawn[0]);
    expect(new Set(drawn).size).toBeGreaterThan(1);
  });

  test.each([
    [{ shots: 4 }, files, 'range', /the train file has 3 problems/],
    [{ shots: -1 }, files, 'range', /shots=-1/],
    [{ drawn: 2 }, files, 'range', /drawn=2/],
    [{}, [train], 'usage', /gsm8k is given train.jsonl; it needs .* test and a train file/],
    [{}, [testFile], 'usage', /gsm8k is given test.jsonl/],
    [{}, [lines('test.jsonl', [{ q: 'A?' }]), train], 'format', /"question"; it has q/],
    [{}, [{ name: 'test.jsonl', text: '' }, train], 'format', /empty/],
  ] as const)('%j is refused', async (set, given, code, message) => {
    await expect(run(model, 'gsm8k', given, { set })).rejects.toThrow(failure(code, message));
  });
});

describe('mmlu', () => {
  const dev = (subject: string) => ({
    name: `${subject}_dev.csv`,
    text: 'Which is first?,one,two,three,four,A\n"Last, then?",1,2,3,4,D\n',
  });
  const files = [
    { name: 'high_tea_test.csv', text: 'Best drink?,oil,tea,ink,mud,B\nHot?,no,yes,x,y,B\n' },
    dev('high_tea'),
    {
      name: 'art_test.csv',
      text: 'question,choice0,choice1,choice2,choice3,answer\n Blue? ,a,b,c,d,2\n',
    },
    dev('art'),
  ];
  const solved =
    'Which is first?\nA. one\nB. two\nC. three\nD. four\nAnswer: A\n\n' +
    'Last, then?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\n';
  const head = (subject: string) =>
    `The following are multiple choice questions (with answers) about ${subject}.\n\n${solved}`;
  const model = parrot({
    [`${head('high tea')}Best drink?\nA. oil\nB. tea\nC. ink\nD. mud\nAnswer:`]: ' B',
    [`${head('high tea')}Hot?\nA. no\nB. yes\nC. x\nD. y\nAnswer:`]: ' C',
    [`${head('art')}Blue?\nA. a\nB. b\nC. c\nD. d\nAnswer:`]: ' C',
  });

  test('takes the likeliest letter; a row for each subject, their mean, all questions', async () => {
    const change = { set: { shots: 2 }, methods: ['f16', 'f32'] };
    const results = await run(model, 'mmlu', files, change);
    const rows = results.map(({ subject, method, items, accuracy }) => [
      subject,
      method,
      items,
      accuracy,
    ]);
    expect(rows).toEqual([
      ['art', 'f16', 1, 1],
      ['art', 'f32', 1, 1],
      ['high_tea', 'f16', 2, 0.5],
      ['high_tea', 'f32', 2, 0.5],
      ['mean of subjects', 'f16', 3, 0.75],
      ['mean of subjects', 'f32', 3, 0.75],
      ['all questions', 'f16', 3, expect.closeTo(2 / 3, 9)],
      ['all questions', 'f32', 3, expect.closeTo(2 / 3, 9)],
    ]);
    // The subjects' standard errors are 0 (one question) and 0.5; their mean's is half of that.
    expect(results[4].accuracyStderr).toBeCloseTo(0.25, 9);
    expect(results[0].chance).toBe(0.25);
  });

  test('a limit takes from each subject', async () => {
    const results = await run(model, 'mmlu', files, { set: { shots: 2 }, limit: 1 });
    expect(results.map(({ items }) => items)).toEqual([1, 1, 2, 2]);
  });

  test('reads the rows of the Hugging Face data set as well', () => {
    const row = { question: 'Blue?', subject: 'art', choices: ['a', 'b', 'c', 'd'], answer: 2 };
    const expected = { subject: 'art', question: 'Blue?', options: row.choices, right: 2 };
    expect(mmluQuestions(lines('test.jsonl', [row]))).toEqual([expected]);
    expect(mmluQuestions({ name: 'art_test.csv', text: 'Blue?,a,b,c,d,C' })).toEqual([expected]);
  });

  test.each([
    ['art_test.csv', 'a,b,c\n', /question 1 of art_test.csv has 3 columns/],
    ['art_test.csv', 'Q?,a,b,c,d,E\n', /the answer "E", not one of A to D/],
    ['art_test.csv', '', /is empty/],
    ['t.jsonl', '{"question":"Q?","subject":"s","choices":["a"],"answer":1}', /no four "choices"/],
  ])('%s of %j is refused', (name, text, message) => {
    expect(() => mmluQuestions({ name, text })).toThrow(failure('format', message));
  });

  test('a subject without enough examples is refused', async () => {
    await expect(run(model, 'mmlu', files)).rejects.toThrow(
      failure('range', /shots=5; the dev file of art has 2 questions/),
    );
  });
});

describe('humaneval', () => {
  const problem = (n: number) => ({
    task_id: `Made/${n}`,
    prompt: `def add${n}(x):\n    """Adds ${n}."""\n`,
    test: `def check(f):\n    assert f(1) == ${n + 1}\n`,
    entry_point: `add${n}`,
  });
  const files = [lines('made.jsonl', [problem(1), problem(2)])];
  const body = (n: number) => `    return x + ${n}\n`;
  const model = parrot({
    [problem(1).prompt]: `${body(1)}\nprint(add1(2))`,
    [problem(2).prompt]: `${body(3)}\nclass More:`,
  });
  /** Stands for Python: right is a program that adds what its name says. */
  const programs: string[] = [];
  const python: RunPython = async (code) => {
    programs.push(code);
    const [, name, added] = /def add(\d)[^]*return x \+ (\d)/.exec(code) ?? [];
    return name === added ? { ok: true } : { ok: false, error: 'AssertionError' };
  };

  test('runs the function up to the stop, then its tests', async () => {
    programs.length = 0;
    const [result] = await run(model, 'humaneval', files, {}, python);
    expect(programs[0]).toBe(`${problem(1).prompt}${body(1)}\n${problem(1).test}\ncheck(add1)\n`);
    expect(result).toMatchObject({ items: 2, accuracy: 0.5, passAt1: 0.5, passAt: { 1: 0.5 } });
  });

  test('several samples differ, are the same for a seed, and give pass@k', async () => {
    // After the prompt two digits are about as likely: about half of the attempts are right.
    const prompt = `${problem(1).prompt}    return x + `;
    const one = [lines('made.jsonl', [{ ...problem(1), prompt }])];
    const unsure = parrot({}, { '+ 1': 50, '+ 3': 50, '1\n': 50, '3\n': 50, '\n#': 50 });
    const sampled = async (seed: number) => {
      programs.length = 0;
      const [result] = await run(unsure, 'humaneval', one, { set: { samples: 12 }, seed }, python);
      return { result, written: [...programs] };
    };
    const { result, written } = await sampled(1);
    expect(written.length).toBe(12);
    expect(new Set(written).size).toBe(2);
    const right = written.filter((code) => code.includes('+ 1')).length;
    expect(right).toBeGreaterThan(0);
    expect(result.passAt?.['1']).toBeCloseTo(right / 12, 9);
    expect(result.passAt?.['10']).toBeCloseTo(passAtK(12, right, 10), 9);
    expect(result.passAt?.['12']).toBe(1);
    expect((await sampled(1)).written).toEqual(written);
    expect((await sampled(2)).written).not.toEqual(written);
  });

  test.each([
    [{ samples: 2, temperature: 0 }, python, 'range', /temperature=0 with samples=2/],
    [{ samples: 0 }, python, 'range', /samples=0/],
    [{}, undefined, 'unsupported', /nothing to run it/],
  ] as const)('%j is refused', async (set, runPython, code, message) => {
    const refused = run(model, 'humaneval', files, { set }, runPython);
    await expect(refused).rejects.toThrow(failure(code, message));
  });
});

describe('lambada', () => {
  test('the last word must be the likeliest; its perplexity is by passages', async () => {
    const files = [lines('l.jsonl', [{ text: 'the cat sat' }, { text: 'a dog "ran."' }])];
    const model = parrot({ 'the cat': ' sat', 'a dog': ' "run' });
    const [result] = await run(model, 'lambada', files);
    expect(result).toMatchObject({ items: 2, accuracy: 0.5 });
    // Four characters are sure; of the other seven: three are, one is e^-50, three are 1 of 128.
    const sure = Math.log(1 + 127 * Math.exp(-50));
    const loss = (4 * sure + (3 * sure + (50 + sure) + 3 * Math.log(128))) / 2;
    expect(Math.log(result.perplexity ?? 0)).toBeCloseTo(loss, 4);
    expect(result.tokens).toBe('the cat sa'.length + 'a dog "ran.'.length);
  });

  test('splits at the last space', () => {
    const split = (text: string) => splitWord({ where: 'line 1 of f', cells: { text } });
    expect(split('one two\n\n"three four."\n')).toEqual({
      passage: 'one two\n\n"three',
      word: ' four."',
    });
    expect(() => split('one')).toThrow(failure('format', /line 1 of f has one word/));
  });
});

describe('data of a run', () => {
  const files = [lines('l.jsonl', [{ text: 'the cat sat' }])];

  test('is refused where no task reads it', async () => {
    const context = contextOf(parrot({}), 'gsm8k', files);
    await expect(evaluate(['lambada'], context)).rejects.toThrow(
      failure('usage', /data for "gsm8k"; tasks of this run that read data: lambada/),
    );
    const data = { passkey: files };
    await expect(evaluate(['passkey'], { ...context, data })).rejects.toThrow(
      failure('usage', /data for "passkey".*: none/),
    );
  });

  test('is part of what a journal belongs to', async () => {
    const identity = async (given: readonly EvalText[]) =>
      (await runIdentity(['lambada'], contextOf(parrot({}), 'lambada', given))).data;
    const other = [lines('l.jsonl', [{ text: 'the cat ran' }])];
    expect(await identity(files)).toEqual(await identity(files));
    expect(await identity(files)).not.toEqual(await identity(other));
  });
});
