/**
 * Python functions from their docstring (HumanEval, Chen et al. 2021, arXiv:2107.03374), run on the
 * tests that come with them.
 */
import type { KvCache } from '../cache/cache.ts';
import { ensure } from '../errors/errors.ts';
import { feed } from '../generate/generate.ts';
import type { Model } from '../model/model.ts';
import { benchmarkTask, meanOf, type Answered, type Row } from './benchmark.ts';
import { write, type Prompt, type WriteOptions } from './continuation.ts';
import { dataFiles, jsonLines, textIn, type DataRow } from './data.ts';
import { pythonTimeoutMs } from './judge.ts';
import { checkSetting } from './skills/pieces.ts';
import type { Task, TaskContext } from './task.ts';

/**
 * - `samples` attempts at each function
 * - `temperature` default 0 (the likeliest tokens) for one sample, 0.8 for several, as in the paper
 */
const defaults = { samples: 1 };
const severalTemperature = 0.8;
const topP = 0.95;
const functionTokens = 512;
/** What ends a function, section 3.1 of the paper. */
const stop = ['\nclass', '\ndef', '\n#', '\nif', '\nprint'];
const needs = 'the JSON lines of HumanEval with "prompt", "test" and "entry_point"';

interface Outcome {
  readonly attempts: readonly {
    readonly written: string;
    readonly right: boolean;
    readonly error?: string;
  }[];
}

interface Problem {
  readonly prompt: string;
  readonly test: string;
  readonly entryPoint: string;
}

export async function prepare(context: TaskContext): Promise<Task> {
  const { model, settings, runPython } = context;
  const { samples, temperature = samples > 1 ? severalTemperature : 0 } = {
    temperature: undefined,
    ...defaults,
    ...settings.set,
  };
  checkSetting('humaneval', 'samples', samples, 1, 1000);
  ensure(
    temperature >= 0 && temperature <= 2 && (temperature > 0 || samples === 1),
    'range',
    () =>
      `humaneval: temperature=${temperature} with samples=${samples}; allowed: above 0 up to 2, and 0 for one sample. Choose another temperature.`,
  );
  ensure(
    runPython !== undefined,
    'unsupported',
    () => 'humaneval: the answers are Python, and there is nothing to run it. Give runPython.',
  );
  const rows = dataFiles(context, 'humaneval', needs).flatMap(jsonLines);
  const items = rows.slice(0, settings.limit).map(problemOf);
  // In a small context an answer may have half of it.
  const maxTokens = Math.min(functionTokens, Math.floor(model.contextLength / 2));
  return benchmarkTask<Outcome>(context, {
    task: 'humaneval',
    items: items.length,
    heeds: ['set.samples', 'set.temperature'],
    ask: (index) => ({ head: '', shots: [], asked: items[index].prompt, room: maxTokens }),
    async answer(index, prompt, cache) {
      const attempts: Outcome['attempts'][number][] = [];
      for (let sample = 0; sample < samples; sample++) {
        const written = await attempt(model, cache, prompt, sample === samples - 1, {
          maxTokens,
          stop,
          temperature,
          topP,
          seed: seedOf(settings.seed, index, sample),
        });
        const program = programOf(items[index], written);
        const { ok, error } = await runPython(program, { timeoutMs: pythonTimeoutMs });
        attempts.push({ written, right: ok, ...(error !== undefined && { error }) });
      }
      return { attempts };
    },
    rows: (answers) => [rowOf(answers, samples)],
  });
}

function problemOf(row: DataRow): Problem {
  return {
    prompt: textIn(row, 'prompt'),
    test: textIn(row, 'test'),
    entryPoint: textIn(row, 'entry_point'),
  };
}

/** The program whose end without an exception means that the attempt is right. */
export function programOf({ prompt, test, entryPoint }: Problem, written: string): string {
  return `${prompt}${written}\n${test}\ncheck(${entryPoint})\n`;
}

/** @param isLast writes into the cache itself, whose length and bytes then count */
async function attempt(
  model: Model,
  cache: KvCache,
  prompt: Prompt,
  isLast: boolean,
  options: WriteOptions,
): Promise<string> {
  if (isLast) return write(model, cache, prompt, options);
  // Attempts share the prompt; its last token is left for each, as its logits are wanted.
  const shared = prompt.fed.slice(0, -1);
  if (cache.length < shared.length) await feed(model, cache, shared);
  const fork = cache.fork();
  try {
    return await write(model, fork, prompt, options);
  } finally {
    fork.dispose();
  }
}

/** A seed of its own for each attempt, whatever the methods and the limit. */
function seedOf(seed: number, index: number, sample: number): number {
  return (
    (Math.imul(seed, 0x9e3779b1) ^
      Math.imul(index + 1, 0x85ebca6b) ^
      Math.imul(sample + 1, 0xc2b2ae35)) >>>
    0
  );
}

function rowOf(answers: readonly Answered<Outcome>[], samples: number): Row<Outcome> {
  const rights = answers.map(({ outcome }) => outcome.attempts.filter(({ right }) => right).length);
  const passing = (k: number) => meanOf(rights.map((right) => passAtK(samples, right, k)));
  const ks = [...new Set([1, 10, 100, samples])].filter((k) => k <= samples).sort((a, b) => a - b);
  const { mean, stderr } = passing(1);
  return {
    figures: {
      accuracy: mean,
      accuracyStderr: stderr,
      passAt1: mean,
      passAt: Object.fromEntries(ks.map((k) => [k, passing(k).mean])),
    },
    answers,
  };
}

/**
 * Estimates without bias how likely at least one of k attempts is right, from n attempts of which
 * `right` are: 1 - C(n - right, k) / C(n, k), as a product (Chen et al. 2021, equation 1).
 */
export function passAtK(n: number, right: number, k: number): number {
  if (n - right < k) return 1;
  let allWrong = 1;
  for (let i = n - right + 1; i <= n; i++) allWrong *= 1 - k / i;
  return 1 - allWrong;
}
