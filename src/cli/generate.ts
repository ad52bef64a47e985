import { existsSync, readFileSync } from 'node:fs';
import { Option, type Command } from 'commander';
import { KvError } from '../errors/errors.ts';
import type { GenerateOptions, GenerateStats } from '../generate/generate.ts';
import { encodeSession } from '../generate/session-file.ts';
import { readSessionFile, writeSessionFile } from '../generate/session-file-node.ts';
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
  readonly context?: number;
}

interface GenerateFlags extends ModelFlags, SamplingFlags {
  readonly cache: string;
  readonly text?: string;
  readonly session?: string;
  readonly shift?: boolean;
  readonly keep?: number;
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
    .option('--stop <text>', 'end before this text; may be repeated', collectTexts, [])
    .option(
      '--context <n>',
      'tokens seen at most (default: all the model can)',
      wholeNumber(2, 1e9),
    );
}

/** Parser for flags that may be repeated. */
function collectTexts(text: string, all: readonly string[]): string[] {
  return [...all, text];
}

export function define(command: Command): void {
  addSamplingFlags(addModelFlags(command))
    .argument('[prompt]', 'the text to continue; - reads it from standard input')
    .option('--text <file>', 'read the prompt from a file')
    .option('--cache <spec>', 'cache method, such as f16, h1b or h1b:b=128', 'h1b')
    .option(
      '--session <file>',
      'go on with the session in this file, if it is there; save it after',
    )
    .option('--shift', 'when the context is full, forget the oldest tokens and go on')
    .addOption(
      new Option('--keep <n>', 'the first tokens that --shift never forgets (default: BOS)')
        .argParser(wholeNumber(0, 1e9))
        .implies({ shift: true }),
    )
    .option('--special', 'read control tokens in the prompt as such')
    .option('--json', 'print one JSON document on standard output')
    .addHelpText(
      'after',
      '\nExample:\n  h1bkv generate "It was a dark" --cache h1b --max-tokens 60',
    )
    .action((prompt: string | undefined, flags: GenerateFlags) =>
      run(prompt, flags, command.getOptionValueSource('cache') === 'cli'),
    );
}

async function run(
  prompt: string | undefined,
  flags: GenerateFlags,
  isCacheGiven: boolean,
): Promise<void> {
  const text = readPrompt(prompt, flags.text);
  const model = await loadFromFlags(flags);
  try {
    const { session, method } = await openSession(model, flags, isCacheGiven);
    const restoredTokens = session.cache.length;
    session.append(text, { parseSpecial: flags.special ?? false });
    const interrupt = new AbortController();
    process.once('SIGINT', () => interrupt.abort());
    const { keep } = flags;
    const shift = flags.shift ? (keep === undefined ? {} : { keep }) : undefined;
    const options = { ...flags, shift, signal: interrupt.signal };
    let shown = flags.json ? undefined : text;
    const { answer, stats } = await collect(session, options, (piece) => {
      // The prompt waits for the first piece: until then the call may yet be refused.
      if (shown !== undefined) process.stdout.write(shown + piece);
      if (shown) shown = '';
    });
    const saved = await saveSession(session, flags, stats);
    const report = {
      ...(await summarize(model, session, method, stats)),
      ...(saved && { session: { ...saved, restoredTokens } }),
    };
    if (flags.json) console.log(JSON.stringify({ text: answer, ...report }, null, 2));
    else console.error(`\n\n${sentence(report)}`);
    session.dispose();
  } finally {
    model.dispose();
  }
}

/**
 * The session of `--session`, where its file is there; else a new one.
 * @returns it, and the spec that the caller chose, by `--cache` or by the file
 */
async function openSession(
  model: Model,
  { cache, session: file }: GenerateFlags,
  isCacheGiven: boolean,
): Promise<{ session: Session; method: string }> {
  if (file === undefined || !existsSync(file)) {
    return { session: await Session.create(model, { cache }), method: cache };
  }
  const state = await readSessionFile(file);
  if (state.messages) {
    throw new KvError(
      'usage',
      `generate: ${file} holds a conversation of ${state.messages.length} messages. Go on with it by h1bkv chat and /load, or name another file.`,
    );
  }
  const method = isCacheGiven ? cache : state.spec;
  const session = await Session.create(model, { cache: method });
  await session.restore(state);
  console.error(
    `${file}: ${session.tokens.length} tokens restored; ${session.cache.length} of them are in the cache and are not computed again`,
  );
  return { session, method };
}

/** Saves to the file of `--session`. Interrupted before its first token, a run leaves it as it was. */
async function saveSession(
  session: Session,
  { session: file }: GenerateFlags,
  { ended, tokens }: RunStats,
): Promise<{ file: string; tokens: number } | undefined> {
  if (file === undefined || (ended === 'aborted' && tokens === 0)) return undefined;
  await writeSessionFile(file, encodeSession(await session.save()));
  return { file, tokens: session.tokens.length };
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
 * @returns its text, and what the generator returned, or counts and times of our own if it was aborted
 */
async function collect(
  session: Session,
  options: GenerateOptions,
  onText: (text: string) => void,
): Promise<{ answer: string; stats: RunStats }> {
  const promptTokens = session.tokens.length;
  const pieces = session.generate(options);
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
    const forgotten = promptTokens + tokens - session.tokens.length;
    const counts = { promptTokens, tokens, forgotten };
    return { answer, stats: { ...counts, prefillMs, decodeMs, ended: 'aborted' } };
  }
}

type RunStats = Omit<GenerateStats, 'ended'> & {
  readonly ended: GenerateStats['ended'] | 'aborted';
};

async function summarize(model: Model, session: Session, method: string, stats: RunStats) {
  const bytes = session.bytes().total;
  const bytesF16 = (await plannedBytes('f16', model.layers, session.cache.length)).total;
  return {
    tokens: stats.tokens,
    promptTokens: stats.promptTokens,
    forgotten: stats.forgotten,
    ended: stats.ended,
    prefillTokensPerSecond: perSecond(stats.promptTokens, stats.prefillMs),
    decodeTokensPerSecond: perSecond(stats.tokens - 1, stats.decodeMs),
    cache: {
      method,
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

type Report = Awaited<ReturnType<typeof summarize>> & {
  readonly session?: { readonly file: string; readonly tokens: number };
};

function sentence(report: Report): string {
  const { cache, session } = report;
  return [
    `${report.tokens} tokens, ${report.decodeTokensPerSecond.toFixed(1)} tokens/s after a prompt of ${report.promptTokens} at ${report.prefillTokensPerSecond.toFixed(0)} tokens/s (${report.backend}, ${report.threads} threads)`,
    `cache ${cache.spec}: ${formatBytes(cache.bytes)}; f16 would have taken ${formatBytes(cache.bytesF16)}`,
    ...(report.forgotten > 0 ? [`${report.forgotten} tokens were forgotten to make room`] : []),
    ...(report.ended === 'context'
      ? ['the context is full; --shift goes on, without the oldest tokens']
      : []),
    ...(session ? [`session of ${session.tokens} tokens saved to ${session.file}`] : []),
  ].join('\n');
}
