import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { KvError } from '../errors/errors.ts';
import type { GenerateStats, Piece } from '../generate/generate.ts';
import { Session } from '../generate/session.ts';
import type { Model } from '../model/model.ts';
import { plannedBytes } from '../plan/plan.ts';
import {
  addModelFlags,
  anyNumber,
  formatBytes,
  loadFromFlags,
  wholeNumber,
  type ModelFlags,
} from './options.ts';

/** Flags of everything that generates; the fields of `GenerateOptions`. */
export interface SamplingFlags {
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repeatPenalty: number;
  readonly seed: number;
  readonly stop: string[];
}

interface GenerateFlags extends ModelFlags, SamplingFlags {
  readonly cache: string;
  readonly text?: string;
  readonly special?: boolean;
  readonly json?: boolean;
}

export function addSamplingFlags(command: Command): Command {
  return command
    .option('--max-tokens <n>', 'stop after n tokens', wholeNumber(0, 1e9), 128)
    .option('--temperature <t>', '0 takes the most likely token', anyNumber, 0)
    .option('--top-k <k>', 'keep the k most likely tokens, 0 is off', anyNumber, 0)
    .option('--top-p <p>', 'keep the tokens that make up p, 1 is off', anyNumber, 1)
    .option('--min-p <p>', 'keep tokens at least p as likely as the best', anyNumber, 0)
    .option('--repeat-penalty <r>', 'above 1 avoids recent tokens', anyNumber, 1)
    .option('--seed <n>', 'of the random choices', anyNumber, 0)
    .option('--stop <text...>', 'end before any of these texts', []);
}

export function define(command: Command): void {
  addSamplingFlags(addModelFlags(command))
    .argument('[prompt]', 'the text to continue; - reads it from standard input')
    .option('--text <file>', 'read the prompt from a file')
    .option('--cache <spec>', 'cache method, such as f16, h1b or h1b:b=128', 'h1b')
    .option('--special', 'read control tokens in the prompt as such')
    .option('--json', 'print one JSON document on standard output')
    .addHelpText(
      'after',
      '\nExample:\n  h1bkv generate "It was a dark" --cache h1b --max-tokens 60',
    )
    .action((prompt: string | undefined, flags: GenerateFlags) => run(prompt, flags));
}

async function run(prompt: string | undefined, flags: GenerateFlags): Promise<void> {
  const text = readPrompt(prompt, flags.text);
  const model = await loadFromFlags(flags);
  try {
    const session = await Session.create(model, { cache: flags.cache });
    session.append(text, { parseSpecial: flags.special ?? false });
    const interrupt = new AbortController();
    process.once('SIGINT', () => interrupt.abort());
    const pieces = session.generate({ ...flags, signal: interrupt.signal });
    let shown = flags.json ? undefined : text;
    const { answer, stats } = await collect(pieces, session.tokens.length, (piece) => {
      // The prompt waits for the first piece: until then the call may yet be refused.
      if (shown !== undefined) process.stdout.write(shown + piece);
      if (shown) shown = '';
    });
    const report = await summarize(model, session, flags, stats);
    if (flags.json) console.log(JSON.stringify({ text: answer, ...report }, null, 2));
    else console.error(`\n\n${sentence(report)}`);
    session.dispose();
  } finally {
    model.dispose();
  }
}

function readPrompt(prompt: string | undefined, file: string | undefined): string {
  if ((prompt === undefined) === (file === undefined)) {
    throw new KvError(
      'usage',
      `generate: ${prompt === undefined ? 'no prompt' : 'two prompts'}; give either a text or --text file. Example: h1bkv generate "It was a dark".`,
    );
  }
  if (prompt !== undefined && prompt !== '-') return prompt;
  try {
    return readFileSync(file ?? 0, 'utf8');
  } catch (cause) {
    throw new KvError(
      'io',
      `generate: ${file ?? 'standard input'} cannot be read. Check the path.`,
      {
        cause,
      },
    );
  }
}

/**
 * Runs a generation until it ends or is aborted.
 * @param promptTokens tokens that it begins with
 * @returns its text, and what the generator returned, or counts and times of our own if it was aborted
 */
export async function collect(
  pieces: AsyncGenerator<Piece, GenerateStats>,
  promptTokens: number,
  onText: (text: string) => void,
): Promise<{ answer: string; stats: RunStats }> {
  let answer = '';
  let tokens = 0;
  const began = performance.now();
  let prefillMs = 0;
  try {
    for (;;) {
      const { done, value } = await pieces.next();
      if (done) return { answer, stats: value };
      if (tokens++ === 0) prefillMs = performance.now() - began;
      answer += value.text;
      onText(value.text);
    }
  } catch (error) {
    if (!(error instanceof KvError && error.code === 'aborted')) throw error;
    const decodeMs = performance.now() - began - prefillMs;
    return { answer, stats: { promptTokens, tokens, prefillMs, decodeMs, ended: 'aborted' } };
  }
}

export type RunStats = Omit<GenerateStats, 'ended'> & {
  readonly ended: GenerateStats['ended'] | 'aborted';
};

async function summarize(model: Model, session: Session, flags: GenerateFlags, stats: RunStats) {
  const bytes = session.bytes().total;
  const bytesF16 = (await plannedBytes('f16', model.layers, session.cache.length)).total;
  return {
    tokens: stats.tokens,
    promptTokens: stats.promptTokens,
    ended: stats.ended,
    prefillTokensPerSecond: perSecond(stats.promptTokens, stats.prefillMs),
    decodeTokensPerSecond: perSecond(stats.tokens - 1, stats.decodeMs),
    cache: {
      method: flags.cache,
      spec: session.cache.spec,
      bytes,
      bytesF16,
      ratio: bytes / bytesF16,
    },
    backend: model.kernels.backend,
    threads: model.kernels.threads,
    model: model.name,
  };
}

export function perSecond(count: number, elapsedMs: number): number {
  return count > 0 && elapsedMs > 0 ? count / (elapsedMs / 1000) : 0;
}

function sentence(report: Awaited<ReturnType<typeof summarize>>): string {
  const { cache } = report;
  return [
    `${report.tokens} tokens, ${report.decodeTokensPerSecond.toFixed(1)} tokens/s after a prompt of ${report.promptTokens} at ${report.prefillTokensPerSecond.toFixed(0)} tokens/s (${report.backend}, ${report.threads} threads)`,
    `cache ${cache.spec}: ${formatBytes(cache.bytes)}; f16 would have taken ${formatBytes(cache.bytesF16)}`,
  ].join('\n');
}
