/** The tasks on data sets with real caches: shared prefixes change nothing, runs go on, real files are read. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fittingPrompt } from '../src/eval/benchmark.ts';
import { readData } from '../src/eval/data-node.ts';
import { evaluate, runIdentity } from '../src/eval/evaluate.ts';
import { openJournal } from '../src/eval/journal-node.ts';
import { mmluQuestions } from '../src/eval/mmlu-data.ts';
import { SharedPrefix } from '../src/eval/shared-prefix.ts';
import type { EvalResult, EvalSettings, EvalText, TaskContext } from '../src/eval/task.ts';
import { feed } from '../src/generate/generate.ts';
import type { Model } from '../src/model/model.ts';
import { forgeModel, inShared, say, temporaryFolder } from './forged.ts';

const folder = temporaryFolder();
let model: Model;
let withBos: Model;
beforeAll(async () => {
  model = await forgeModel();
  withBos = await forgeModel({ tokenizer: 'spm' });
});
afterAll(() => {
  model.dispose();
  withBos.dispose();
});

const specs = ['f16', 'h1b:b=64', 'bitplane:k=1,v=2', 'kivi:2'];
const shots = [1, 2, 3, 4].map((i) => `Question: are there ${i} cats?\nAnswer: yes, ${i}.\n\n`);
const question = (asked: string, count = 4) => ({
  head: 'About cats.\n\n',
  shots: shots.slice(0, count),
  asked,
  room: 8,
});

describe.each(['bpe', 'spm'])('a prefix that is read once (%s)', (kind) => {
  test.each(specs)('leads to the same logits with %s', async (spec) => {
    const of = kind === 'spm' ? withBos : model;
    const prefixes = new SharedPrefix(of);
    // Fewer shots, then all again; and one that begins where the prefix's last token may grow.
    const asked = [
      question('Question: how many?\nAnswer:'),
      question('Question: which?\nAnswer:'),
      question('Question: fewer?\nAnswer:', 2),
      question('\n\nQuestion: why?\nAnswer:'),
    ];
    for (const each of asked) {
      const { prefix, prompt } = fittingPrompt(of, each);
      const forked = await prefixes.fork(spec, prefix, prompt);
      const held = forked.length;
      const alone = await of.createCache(spec);
      const logits = [...(await feed(of, forked, prompt.fed))];
      expect(logits).toEqual([...(await feed(of, alone, prompt.fed))]);
      expect(forked.length).toBe(alone.length);
      if (spec === 'f16') {
        // All of the shots but for a last token or two came from the fork.
        expect(held).toBeGreaterThan(of.tokenizer.encode(prefix).length - 4);
      }
      forked.dispose();
      alone.dispose();
    }
    prefixes.dispose();
  });
});

const csv = 'Q1?,a,b,c,d,A\nQ2?,a,b,c,d,B\nQ3?,a,b,c,d,C\n';
const mmlu: readonly EvalText[] = ['art', 'tea'].flatMap((subject) => [
  { name: `${subject}_dev.csv`, text: csv },
  { name: `${subject}_test.csv`, text: csv },
]);

const timeless = (results: readonly EvalResult[]) =>
  results.map(({ seconds: _, ...result }) => result);

function contextOf(
  data: Readonly<Record<string, readonly EvalText[]>>,
  change: Partial<EvalSettings> = {},
): TaskContext {
  const settings = { methods: ['f16', 'h1b:b=64'], seed: 1, set: {}, ...change };
  const runPython = async () => ({ ok: false });
  return { model, texts: [], shuffled: false, settings, data, runPython };
}

test('a run on a data set that was stopped gives what it would have given', async () => {
  const context = contextOf({ mmlu }, { set: { shots: 2 } });
  const whole = await evaluate(['mmlu'], context);
  const path = join(folder, 'stopped.jsonl');
  const run = async (stopAfter: number) => {
    const journal = openJournal(path, await runIdentity(['mmlu'], context));
    let worked = 0;
    const append = (...entry: Parameters<typeof journal.append>) => {
      journal.append(...entry);
      if (++worked === stopAfter) throw new Error('killed');
    };
    const results = await evaluate(['mmlu'], context, { journal: { ...journal, append } }).catch(
      () => undefined,
    );
    return { results, worked };
  };
  expect((await run(4)).results).toBeUndefined();
  const rest = await run(Infinity);
  expect(rest.worked).toBe(2);
  expect(timeless(rest.results ?? [])).toEqual(timeless(whole));
});

const files = {
  gsm8k: ['gsm8k-test.jsonl', 'gsm8k-train.jsonl'],
  mmlu: ['mmlu.tar.gz'],
  humaneval: ['HumanEval.jsonl.gz'],
  lambada: ['lambada_test.jsonl'],
};
const pathOf = (file: string) => inShared(join('data', 'eval', file));
const isThere = Object.values(files)
  .flat()
  .every((file) => existsSync(pathOf(file)));
if (!isThere) say('skipped: part of test/benchmarks.test.ts: ../shared/data/eval is not there');

describe.skipIf(!isThere)('the real files', () => {
  const data = () =>
    Object.fromEntries(
      Object.entries(files).map(([task, names]) => [
        task,
        names.flatMap((name) => readData(pathOf(name))),
      ]),
    );

  test('have the questions that they are known to have', () => {
    const { mmlu: tables } = data();
    const tests = tables.filter(({ name }) => name.endsWith('_test.csv'));
    expect(tests.length).toBe(57);
    expect(tests.flatMap(mmluQuestions).length).toBe(14042);
    const dev = tables.filter(({ name }) => name.endsWith('_dev.csv')).flatMap(mmluQuestions);
    expect(dev.length).toBe(57 * 5);
  });

  test('run, one item each, in one call', { timeout: 120_000 }, async () => {
    const { mmlu: tables, ...rest } = data();
    const subjects = tables.filter(({ name }) => /^(anatomy|astronomy)_(dev|test)/.test(name));
    const context = contextOf({ ...rest, mmlu: subjects }, { limit: 1, methods: ['f16'] });
    const results = await evaluate(Object.keys(files), context);
    expect(results.map(({ task, subject, items }) => [task, subject, items])).toEqual([
      ['gsm8k', undefined, 1],
      ['mmlu', 'anatomy', 1],
      ['mmlu', 'astronomy', 1],
      ['mmlu', 'mean of subjects', 2],
      ['mmlu', 'all questions', 2],
      ['humaneval', undefined, 1],
      ['lambada', undefined, 1],
    ]);
    // Eight examples do not fit the small model's context beside the answer.
    expect(results[0]).toMatchObject({ shots: 8, shortened: 1 });
  });
});
