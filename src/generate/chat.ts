import { ensure, KvError } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import { encodeChat } from '../tokenizer/chat-template.ts';
import type { ChatTurn } from './chat-turn.ts';
import {
  defaultMaxTokens,
  type GenerateOptions,
  type GenerateStats,
  type Piece,
} from './generate.ts';
import { Session } from './session.ts';

export interface ChatOptions {
  /** spec of the cache, default `h1b` */
  readonly cache?: string;
  /** Jinja template of the model (`chatTemplateOf`); undefined takes the plain format. */
  readonly template?: string | undefined;
  /** More variables for the template. */
  readonly variables?: Readonly<Record<string, unknown>>;
  /** The conversation so far, such as a system message. */
  readonly messages?: readonly ChatTurn[];
  /**
   * What to do when the conversation outgrows the model's context: `stop` (the default) refuses
   * the message, `shift` forgets the oldest exchanges after the system message.
   */
  readonly overflow?: 'stop' | 'shift';
  /** Told how many exchanges `shift` forgot, once the answer to the new message is kept. */
  readonly onShift?: (dropped: number) => void;
}

/** For models without a template: base models continue a script like this. */
const plainTemplate = `{%- for message in messages -%}
{%- if message.role == 'user' -%}{{ 'User: ' + message.content | trim + '\\n' }}
{%- elif message.role == 'assistant' -%}{{ 'Assistant: ' + message.content | trim + '\\n' }}
{%- else -%}{{ message.content | trim + '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}Assistant:{%- endif -%}`;

/** Ends an answer in the plain format: the model goes on with the user's part. */
const plainStop = '\nUser:';

/** Answers get this part of the context before `shift` forgets more to make room for them. */
const answerShare = 1 / 4;

/**
 * A conversation in the model's own chat format. Every message encodes the whole conversation
 * anew and runs only what differs from what the cache holds, so that `undo`, `regenerate` and
 * `shift` need no bookkeeping of tokens.
 *
 * ```ts
 * const chat = await Chat.create(model, { template });
 * for await (const { text } of chat.send('Hello!')) process.stdout.write(text);
 * ```
 */
export class Chat {
  readonly session: Session;
  /** `plain` if the model has no template: then it writes a script of "User:" and "Assistant:". */
  readonly format: 'template' | 'plain';
  private readonly options: ChatOptions;
  private turns: readonly ChatTurn[];
  private answering = false;

  private constructor(session: Session, options: ChatOptions) {
    this.session = session;
    this.options = options;
    this.format = options.template === undefined ? 'plain' : 'template';
    this.turns = [...(options.messages ?? [])];
  }

  static async create(model: Model, options: ChatOptions = {}): Promise<Chat> {
    const { cache } = options;
    return new Chat(await Session.create(model, cache === undefined ? {} : { cache }), options);
  }

  /** What was said, oldest first. */
  get messages(): readonly ChatTurn[] {
    return this.turns;
  }

  /**
   * Says `text` as the user and streams the answer; both are kept when the answer ends. Cut short
   * by an abort, or by leaving the loop, they are kept with what was said so far, if anything was.
   * After any other error the conversation is as it was before.
   * @throws KvError "range" if the conversation does not fit the context, "format" if the template
   *   refuses it, "usage" while another answer is being given; as `generate` otherwise
   */
  send(text: string, options: GenerateOptions = {}): AsyncGenerator<Piece, GenerateStats> {
    return this.answer(() => [...this.turns, { role: 'user', content: text }], options);
  }

  /**
   * Streams another answer to the last message of the user. The old one is kept until then.
   * @throws KvError "usage" if there is no message of the user; as `send` otherwise
   */
  regenerate(options: GenerateOptions = {}): AsyncGenerator<Piece, GenerateStats> {
    return this.answer(() => {
      const last = this.lastUserTurn();
      ensure(last >= 0, 'usage', () => 'chat: there is nothing to answer. Send a message first.');
      return this.turns.slice(0, last + 1);
    }, options);
  }

  /**
   * Forgets the last message of the user and everything after it.
   * @returns what was forgotten, oldest first; empty if the user has said nothing
   * @throws KvError "usage" while an answer is being given
   */
  undo(): readonly ChatTurn[] {
    this.ensureIdle();
    const last = this.lastUserTurn();
    if (last < 0) return [];
    const forgotten = this.turns.slice(last);
    this.turns = this.turns.slice(0, last);
    return forgotten;
  }

  /** Releases the cache. The model lives on. */
  dispose(): void {
    this.session.dispose();
  }

  private async *answer(
    question: () => readonly ChatTurn[],
    options: GenerateOptions,
  ): AsyncGenerator<Piece, GenerateStats> {
    this.ensureIdle();
    const { turns, ids, dropped } = this.fit(question(), options.maxTokens ?? defaultMaxTokens);
    const stop = [...(options.stop ?? []), ...(this.format === 'plain' ? [plainStop] : [])];
    let said = '';
    let outcome: 'ended' | 'interrupted' | 'failed' = 'interrupted';
    this.answering = true;
    try {
      this.rewind(ids);
      const pieces = this.session.generate({ ...options, stop });
      for (;;) {
        const next = await pieces.next();
        if (next.done) {
          outcome = 'ended';
          return next.value;
        }
        said += next.value.text;
        yield next.value;
      }
    } catch (error) {
      if (!(error instanceof KvError && error.code === 'aborted')) outcome = 'failed';
      throw error;
    } finally {
      // Also reached, as interrupted, when the caller leaves its loop over the pieces.
      this.answering = false;
      if (outcome === 'ended' || (outcome === 'interrupted' && said !== '')) {
        const reply = { role: 'assistant', content: said };
        this.turns = [...turns, outcome === 'ended' ? reply : { ...reply, interrupted: true }];
        if (dropped > 0) this.options.onShift?.(dropped);
      }
    }
  }

  /** Makes the session's tokens `ids`, and keeps of its cache what they have in common. */
  private rewind(ids: Int32Array): void {
    const { tokens } = this.session;
    let common = 0;
    while (common < ids.length && ids[common] === tokens[common]) common++;
    this.session.truncate(common);
    for (const id of ids.subarray(common)) tokens.push(id);
  }

  /** The conversation, without as many of its oldest exchanges as must go. */
  private fit(
    conversation: readonly ChatTurn[],
    maxTokens: number,
  ): { turns: readonly ChatTurn[]; ids: Int32Array; dropped: number } {
    const { contextLength, name } = this.session.model;
    const room = Math.min(maxTokens, Math.floor(contextLength * answerShare));
    let turns = conversation;
    let ids = this.encode(turns);
    let dropped = 0;
    while (this.options.overflow === 'shift' && ids.length + room > contextLength) {
      const shorter = withoutOldestExchange(turns);
      if (!shorter) break;
      turns = shorter;
      ids = this.encode(turns);
      dropped++;
    }
    ensure(ids.length < contextLength, 'range', () => {
      const next =
        this.options.overflow === 'shift'
          ? 'Shorten the message.'
          : 'Undo, start a new chat, or choose overflow "shift".';
      return `chat: the conversation has ${ids.length} tokens; the context of "${name}" is ${contextLength}, one of them for the answer. ${next}`;
    });
    return { turns, ids, dropped };
  }

  private encode(messages: readonly ChatTurn[]): Int32Array {
    const { template = plainTemplate, variables } = this.options;
    return encodeChat(this.session.model.tokenizer, template, messages, {
      addGenerationPrompt: true,
      ...(variables && { variables }),
    });
  }

  private lastUserTurn(): number {
    return this.turns.findLastIndex(({ role }) => role === 'user');
  }

  private ensureIdle(): void {
    ensure(
      !this.answering,
      'usage',
      () => 'chat: an answer is being given. Read it to its end, or leave it, first.',
    );
  }
}

/** Without the first message of a user up to the next one; undefined if there is no next one. */
function withoutOldestExchange(turns: readonly ChatTurn[]): readonly ChatTurn[] | undefined {
  const first = turns.findIndex(({ role }) => role !== 'system');
  const next = turns.findIndex(({ role }, i) => i > first && role === 'user');
  return next < 0 ? undefined : [...turns.slice(0, first), ...turns.slice(next)];
}
