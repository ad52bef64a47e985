import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline/promises';
import { Option, type Command } from 'commander';
import { KvError } from '../errors/errors.ts';
import { openFileSource } from '../format/file-node.ts';
import type { ChatTurn } from '../generate/chat-turn.ts';
import { Chat, type ChatOptions } from '../generate/chat.ts';
import type { GenerateOptions, GenerateStats, Piece } from '../generate/generate.ts';
import { encodeSession, isSession } from '../generate/session-file.ts';
import { readSessionFile, writeSessionFile } from '../generate/session-file-node.ts';
import type { SessionState } from '../generate/session-state.ts';
import type { Model } from '../model/model.ts';
import { plannedBytes } from '../plan/plan.ts';
import { addSamplingFlags, type SamplingFlags } from './generate.ts';
import { addModelFlags, formatBytes, loadFromFlags, type ModelFlags } from './options.ts';

interface ChatFlags extends ModelFlags, SamplingFlags {
  readonly cache: string;
  readonly system?: string;
  readonly overflow: 'stop' | 'shift';
}

const help = `\
/save <file>     write the conversation and its cache to a file
/load <file>     go on with a saved one, without computing it again
/undo            forget the last exchange
/regenerate      another answer to the last message
/context         how much of the context is used
/cache           bytes of the cache, and what f16 would take
/exit            leave (or Ctrl-D)
Ctrl-C stops an answer, not the program.`;

export function define(command: Command): void {
  addSamplingFlags(addModelFlags(command))
    .option('--cache <spec>', 'cache method, such as f16, h1b or h1b:b=128', 'h1b')
    .option('--system <text>', 'system message')
    .addOption(
      new Option('--overflow <how>', 'when the context is full: refuse, or forget the oldest turns')
        .choices(['stop', 'shift'])
        .default('stop'),
    )
    .addHelpText('after', `\nIn the chat:\n${help}\n\nExample:\n  h1bkv chat --model model.gguf`)
    .action((flags: ChatFlags) => run(flags, command.getOptionValueSource('cache') === 'cli'));
}

async function run(flags: ChatFlags, isCacheGiven: boolean): Promise<void> {
  const model = await loadFromFlags(flags);
  const conversation = new Conversation(model, flags, isCacheGiven);
  try {
    await conversation.open(flags.system ? [{ role: 'system', content: flags.system }] : []);
    console.log(
      `${model.name}, cache ${conversation.chat.session.cache.spec}. /help lists commands.`,
    );
    if (conversation.chat.format === 'plain') {
      console.log('This model has no chat template: it continues a script of User and Assistant.');
    }
    const terminal = createInterface({ input: process.stdin, output: process.stdout });
    terminal.on('SIGINT', () => {
      if (!conversation.stop()) terminal.close();
    });
    // Piped input may end while its lines are still being taken.
    let isOpen = true;
    terminal.on('close', () => (isOpen = false));
    const prompt = () => (isOpen ? terminal.prompt() : undefined);
    terminal.setPrompt('\n> ');
    prompt();
    for await (const line of terminal) {
      if (line.trim() === '/exit') break;
      await conversation.take(line.trim());
      prompt();
    }
    terminal.close();
  } finally {
    conversation.close();
    model.dispose();
  }
}

/** What `/save` wrote before sessions had files: JSON. The cache is built again from it. */
interface SavedChat {
  readonly format: 'h1b-kv chat';
  readonly version: 1;
  readonly messages: readonly ChatTurn[];
}

class Conversation {
  private current: Chat | undefined;
  private answering: AbortController | undefined;
  /** Every answer has a seed of its own, or /regenerate would only repeat it. */
  private answers = 0;

  constructor(
    private readonly model: Model,
    private readonly flags: ChatFlags,
    private readonly isCacheGiven: boolean,
  ) {}

  get chat(): Chat {
    if (this.current) return this.current;
    throw new KvError('usage', 'chat: there is no conversation yet.');
  }

  /** @param saved what the cache held when these messages were saved */
  async open(messages: readonly ChatTurn[], saved?: SessionState): Promise<void> {
    const { cache, overflow } = this.flags;
    const options: ChatOptions = {
      cache: saved && !this.isCacheGiven ? saved.spec : cache,
      template: this.model.chatTemplate,
      messages,
      overflow,
      onShift: (dropped) => console.log(`\n(the ${dropped} oldest exchanges were forgotten)`),
    };
    const opened = await Chat.create(this.model, options);
    try {
      if (saved) await opened.session.restore(saved);
    } catch (error) {
      opened.dispose();
      throw error;
    }
    this.close();
    this.current = opened;
  }

  /** Stops the answer that is being given. @returns false if there is none */
  stop(): boolean {
    this.answering?.abort();
    return this.answering !== undefined;
  }

  close(): void {
    this.current?.dispose();
    this.current = undefined;
  }

  /** A line of the user: a command or a message. What goes wrong is said, and nothing is lost. */
  async take(line: string): Promise<void> {
    try {
      if (line.startsWith('/')) await this.command(line);
      else if (line !== '') await this.answer((options) => this.chat.send(line, options));
    } catch (error) {
      if (!(error instanceof KvError)) throw error;
      console.log(error.code === 'aborted' ? '\n(stopped)' : `error: ${error.message}`);
    }
  }

  private async command(line: string): Promise<void> {
    const [name, ...rest] = line.split(/\s+/);
    const file = rest.join(' ');
    switch (name) {
      case '/help':
        return console.log(help);
      case '/undo':
        return console.log(`(${this.chat.undo().length} messages forgotten)`);
      case '/regenerate':
        return this.answer((options) => this.chat.regenerate(options));
      case '/context':
        return console.log(
          `${this.chat.session.tokens.length} of ${this.model.contextLength} tokens, ${this.chat.messages.length} messages`,
        );
      case '/cache':
        return this.describeCache();
      case '/save':
        return this.save(file);
      case '/load':
        return this.load(file);
      default:
        return console.log(`${name} is no command; /help lists them.`);
    }
  }

  private async answer(
    ask: (options: GenerateOptions) => AsyncGenerator<Piece, GenerateStats>,
  ): Promise<void> {
    this.answering = new AbortController();
    const { signal } = this.answering;
    const seed = this.flags.seed + this.answers++;
    try {
      for await (const { text } of ask({ ...this.flags, seed, signal })) {
        process.stdout.write(text);
      }
      process.stdout.write('\n');
    } finally {
      this.answering = undefined;
    }
  }

  private async describeCache(): Promise<void> {
    const { cache } = this.chat.session;
    const { total } = cache.bytes();
    const f16 = (await plannedBytes('f16', this.model.layers, cache.length)).total;
    console.log(
      `${cache.spec}: ${cache.length} positions in ${formatBytes(total)}; f16 would take ${formatBytes(f16)}`,
    );
  }

  private async save(file: string): Promise<void> {
    if (!file) throw new KvError('usage', '/save: no file name. Example: /save talk.session');
    const { messages, session } = this.chat;
    await writeSessionFile(file, encodeSession({ ...(await session.save()), messages }));
    console.log(
      `(${messages.length} messages and ${session.cache.length} positions of the cache written to ${file})`,
    );
  }

  private async load(file: string): Promise<void> {
    if (!file) throw new KvError('usage', '/load: no file name. Example: /load talk.session');
    if (!(await beginsAsSession(file))) {
      const messages = parseSaved(await readText(file), file);
      await this.open(messages);
      return console.log(`(${messages.length} messages)`);
    }
    const saved = await readSessionFile(file);
    const { messages } = saved;
    if (!messages) {
      throw new KvError(
        'format',
        `/load: ${file} is a session without a conversation. Go on with it by h1bkv generate --session.`,
      );
    }
    await this.open(messages, saved);
    console.log(
      `(${messages.length} messages; ${saved.cache.length} positions of the cache restored: they are not computed again)`,
    );
  }
}

async function beginsAsSession(file: string): Promise<boolean> {
  const source = await openFileSource(file);
  try {
    const start = new Uint8Array(Math.min(8, source.sizeBytes));
    await source.read(0, start);
    return isSession(start);
  } finally {
    await source.close();
  }
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new KvError('io', `/load: ${file} cannot be read. Check the path.`, { cause });
  }
}

function parseSaved(json: string, file: string): readonly ChatTurn[] {
  let saved: Partial<SavedChat> | null = null;
  try {
    saved = JSON.parse(json) as Partial<SavedChat> | null;
  } catch {
    // said below: what is not JSON is not a saved chat either
  }
  const isTurn = (turn: Partial<ChatTurn> | null) =>
    typeof turn?.role === 'string' && typeof turn.content === 'string';
  if (
    saved?.format === 'h1b-kv chat' &&
    saved.version === 1 &&
    Array.isArray(saved.messages) &&
    saved.messages.every(isTurn)
  ) {
    return saved.messages;
  }
  throw new KvError(
    'format',
    `/load: ${file} is not a saved chat: neither a session nor one of the older JSON files. Use one that /save wrote.`,
  );
}
