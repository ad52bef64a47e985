/**
 * The last word of a passage that only the whole passage tells (LAMBADA, Paperno et al. 2016,
 * arXiv:1606.06031), as text with its punctuation, after Radford et al. 2019.
 */
import { KvError } from '../errors/errors.ts';
import { feed } from '../generate/generate.ts';
import { Prediction } from './agreement.ts';
import { benchmarkTask, meanOf } from './benchmark.ts';
import { continuation, scoreContinuation, type Score } from './continuation.ts';
import { dataFiles, jsonLines, textIn, type DataRow } from './data.ts';
import type { Task, TaskContext } from './task.ts';

/** Tokens that the word may take. */
const wordTokens = 32;

export async function prepare(context: TaskContext): Promise<Task> {
  const { model, settings } = context;
  const rows = dataFiles(context, 'lambada', 'JSON lines with "text"').flatMap(jsonLines);
  const items = rows.slice(0, settings.limit).map(splitWord);
  return benchmarkTask<Score>(context, {
    task: 'lambada',
    items: items.length,
    heeds: [],
    ask: (index) => ({ head: '', shots: [], asked: items[index].passage, room: wordTokens }),
    async answer(index, prompt, cache) {
      const ids = continuation(model, prompt, items[index].word);
      const next = new Prediction(await feed(model, cache, prompt.fed));
      return scoreContinuation(model, cache, next, ids);
    },
    rows(answers) {
      const right = meanOf(answers.map(({ outcome }) => Number(outcome.greedy)));
      const loss = meanOf(answers.map(({ outcome }) => -outcome.logProbability));
      const perplexity = Math.exp(loss.mean);
      const figures = {
        accuracy: right.mean,
        accuracyStderr: right.stderr,
        perplexity,
        perplexityStderr: perplexity * loss.stderr,
      };
      return [{ figures, answers }];
    },
  });
}

/** The passage up to its last space, and the rest with the space before it. */
export function splitWord(row: DataRow): { passage: string; word: string } {
  const text = textIn(row, 'text').trimEnd();
  const at = text.lastIndexOf(' ');
  if (at > 0) return { passage: text.slice(0, at), word: text.slice(at) };
  throw new KvError(
    'format',
    `data: ${row.where} has one word; a passage needs more. Give the LAMBADA test set.`,
  );
}
