import { Template } from '@huggingface/jinja';
import { ensure, KvError } from '../errors/errors.ts';
import type { Tokenizer } from './tokenizer.ts';
import type { Metadata } from './vocabulary.ts';

export interface ChatMessage {
  /** `system`, `user`, `assistant`, or what else the template knows, such as `tool` */
  readonly role: string;
  readonly content: string;
}

export interface ChatTemplateOptions {
  /** End with the words that make the model answer. */
  readonly addGenerationPrompt: boolean;
  /** What the template writes as `bos_token`; `encodeChat` takes the tokenizer's by default. */
  readonly bosToken?: string;
  readonly eosToken?: string;
  /** More variables for the template, such as `enable_thinking`; trusted like the template itself. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/**
 * The chat template of a GGUF file, in Jinja; undefined if it has none.
 * @throws KvError "format" if it is not text
 */
export function chatTemplateOf(metadata: Metadata): string | undefined {
  const template = metadata.get('tokenizer.chat_template');
  ensure(
    template === undefined || typeof template === 'string',
    'format',
    () =>
      `chat template: tokenizer.chat_template is ${typeof template}; it must be text. Convert the model again.`,
  );
  return template === '' ? undefined : template;
}

/**
 * The conversation as the model saw conversations in training. `raise_exception`, `strftime_now`
 * and `range` are there for the template.
 * @throws KvError "format" if the template is broken or refuses the conversation, "usage" for a
 *   role that is no plain word
 */
export function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions,
): string {
  for (const { role } of messages) {
    // Templates write the role between control tokens, so it must not be able to hold one.
    ensure(
      /^[\w-]+$/.test(role),
      'usage',
      () =>
        `chat: the role is ${JSON.stringify(role.slice(0, 40))}; it must be a word of letters, digits, _ and -. Use system, user or assistant.`,
    );
  }
  const parsed = parse(template);
  try {
    return parsed.render({
      ...options.variables,
      messages: messages.map(({ role, content }) => ({ role, content })),
      add_generation_prompt: options.addGenerationPrompt,
      bos_token: options.bosToken ?? '',
      eos_token: options.eosToken ?? '',
    });
  } catch (cause) {
    const roles = messages.map(({ role }) => role).join(', ');
    throw new KvError(
      'format',
      `chat template: ${reason(cause)}, for messages of ${roles || 'nobody'}. ` +
        `Change the conversation to what the template allows, or give another template.`,
      { cause },
    );
  }
}

function parse(template: string): Template {
  try {
    return new Template(template);
  } catch (cause) {
    // The library's parser runs off the end of its tokens when a block is not closed.
    const endsEarly =
      cause instanceof TypeError || /^(Unexpected|Missing) end\b/.test(reason(cause));
    const [line, what] = endsEarly
      ? [lineAt(template, template.length), 'it ends inside a tag or block']
      : [lineOfError(template, reason(cause)), reason(cause)];
    throw new KvError(
      'format',
      `chat template: line ${line}: ${what}. Correct it, or give another template.`,
      { cause },
    );
  }
}

/** The library names no place: it is where the shortest beginning with the same error ends. */
function lineOfError(template: string, error: string): number {
  for (const { index } of template.matchAll(/[%}#]\}/g)) {
    try {
      new Template(template.slice(0, index + 2));
    } catch (cause) {
      if (reason(cause) === error) return lineAt(template, index);
    }
  }
  return lineAt(template, template.length);
}

const lineAt = (text: string, index: number) => text.slice(0, index).split('\n').length;

/** Text of the conversation, and whether the template (true) or a message (false) wrote it. */
interface Part {
  readonly text: string;
  readonly trusted: boolean;
}

/**
 * Token ids of the conversation, i32 [n], for which text of messages never becomes a control
 * token. Where no message spells one, they are the ids of the whole rendered text.
 *
 * How: every message is rendered with a private character before its first and after its last
 * visible character, so that filters such as `trim` do as they would without. Outside these marks
 * control tokens are read; inside they are plain text. Words are not cut at the marks, so merges
 * across them stay. Should the marks change what the template does (one that looks at how a
 * message begins, or cuts messages up), then each control token that a message spells is replaced
 * by a private character instead, and put back as plain text after rendering.
 *
 * What cannot be told apart: markup that is no token, as `[INST]` of Llama 2, reads the same
 * whoever wrote it. User-defined tokens are read in any text; one that the template uses as a mark,
 * such as `<|im_start|>` in some files, gets a word joiner (U+2060) inside when a message spells it.
 *
 * BOS comes first if the model asks for it, once, also when the template writes it.
 * @throws KvError as `renderChat`; "unsupported" if the text uses up the private characters
 */
export function encodeChat(
  tokenizer: Tokenizer,
  template: string,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions,
): Int32Array {
  const { bosId, eosIds } = tokenizer;
  const filled = {
    ...(bosId !== undefined && { bosToken: tokenizer.token(bosId) }),
    ...(eosIds.length > 0 && { eosToken: tokenizer.token(eosIds[0]) }),
    ...options,
  };
  const render = (change: (content: string) => string) =>
    renderChat(
      template,
      messages.map(({ role, content }) => ({ role, content: change(content) })),
      filled,
    );
  const freeCharacter = privateCharacters([template, ...messages.map(({ content }) => content)]);
  const parts =
    markedParts(render, freeCharacter(), freeCharacter()) ??
    replacedParts(render, tokenizer, freeCharacter);
  const ids = encodeParts(tokenizer, parts);
  const addBos = bosId !== undefined && ids[0] !== bosId && tokenizer.encode('')[0] === bosId;
  return Int32Array.from(addBos ? [bosId, ...ids] : ids);
}

/** Gives out characters of Unicode's private use area that occur in none of the texts. */
function privateCharacters(texts: readonly string[]): () => string {
  const taken = new Set(texts.flatMap((text) => text.match(/[\ue000-\uf8ff]/g) ?? []));
  let code = 0xe000;
  return () => {
    while (taken.has(String.fromCharCode(code))) code++;
    ensure(
      code <= 0xf8ff,
      'unsupported',
      () =>
        'chat: the messages use all 6400 characters U+E000 to U+F8FF; a few must be free. Leave some out.',
    );
    return String.fromCharCode(code++);
  };
}

/** Undefined if the marks do not come out as they went in. */
function markedParts(
  render: (change: (content: string) => string) => string,
  open: string,
  close: string,
): Part[] | undefined {
  const plain = render((content) => content);
  let marked: string;
  try {
    // `\S(...)` from the first to the last visible character; a blank message stays as it is.
    marked = render((content) => content.replace(/\S(?:[^]*\S)?/, (core) => open + core + close));
  } catch {
    return undefined;
  }
  const parts: Part[] = [];
  let inside = false;
  for (const piece of marked.split(new RegExp(`([${open}${close}])`))) {
    if (piece === open || piece === close) {
      if (inside === (piece === open)) return undefined;
      inside = piece === open;
    } else {
      parts.push({ text: piece, trusted: !inside });
    }
  }
  const same = parts.map(({ text }) => text).join('') === plain;
  return same && !inside ? parts : undefined;
}

function replacedParts(
  render: (change: (content: string) => string) => string,
  tokenizer: Tokenizer,
  freeCharacter: () => string,
): Part[] {
  const characters = new Map<string, string>();
  const replace = (content: string): string => {
    let text = content;
    // Again and again: the longest token hides shorter ones inside and around it.
    for (let found = controlsIn(tokenizer, text); found.length > 0;) {
      for (const spelling of found) {
        const character = characters.get(spelling) ?? freeCharacter();
        characters.set(spelling, character);
        text = text.replaceAll(spelling, character);
      }
      found = controlsIn(tokenizer, text);
    }
    return text;
  };
  const rendered = render(replace);
  const spellings = new Map(
    Array.from(characters, ([spelling, character]) => [character, spelling]),
  );
  if (spellings.size === 0) return [{ text: rendered, trusted: true }];
  return rendered.split(new RegExp(`([${[...spellings.keys()].join('')}])`)).map((piece) => {
    const spelling = spellings.get(piece);
    return { text: spelling ?? piece, trusted: spelling === undefined };
  });
}

/** Spellings of the control tokens that `text` would become, longest first. */
function controlsIn(tokenizer: Tokenizer, text: string): string[] {
  const spellings = tokensIn(tokenizer, text).filter(
    ({ id, spelling }) => isControl(tokenizer, id) && text.includes(spelling),
  );
  return spellings.map(({ spelling }) => spelling).sort((a, b) => b.length - a.length);
}

function tokensIn(tokenizer: Tokenizer, text: string): { id: number; spelling: string }[] {
  const ids = new Set(tokenizer.encode(text, { parseSpecial: true, addBos: false }));
  return Array.from(ids, (id) => ({ id, spelling: tokenizer.token(id) }));
}

function isControl(tokenizer: Tokenizer, id: number): boolean {
  return tokenizer.decode([id]) === '' && tokenizer.decode([id], { special: true }) !== '';
}

/** Ids of the parts; between two control tokens of trusted parts the text is encoded as one. */
function encodeParts(tokenizer: Tokenizer, parts: readonly Part[]): number[] {
  const trusted = parts.filter((part) => part.trusted).map(({ text }) => text);
  const tokens = trusted.flatMap((text) => tokensIn(tokenizer, text));
  const controls = new Map<string, number>();
  const marks = new Set<string>();
  for (const { id, spelling } of tokens) {
    if (isControl(tokenizer, id)) controls.set(spelling, id);
    else if (/^<.+>$|^\[.+\]$/.test(spelling)) marks.add(spelling);
  }
  const longestFirst = [...controls.keys()].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(`(${longestFirst.map(escape).join('|')})`);

  const ids: number[] = [];
  let run = '';
  let previous = '';
  const flush = () => {
    const text = dropsSpaceAfter(tokenizer, previous) ? run.replace(/^[ \t\n\v\f\r]+/, '') : run;
    for (const id of text ? tokenizer.encode(text, { addBos: false }) : []) ids.push(id);
    run = '';
  };
  for (const { text, trusted } of parts) {
    if (!trusted) {
      run += disarm(text, marks);
      continue;
    }
    for (const piece of controls.size > 0 ? text.split(pattern) : [text]) {
      const id = controls.get(piece);
      if (id === undefined) {
        run += piece;
      } else {
        flush();
        ids.push(id);
        previous = piece;
      }
    }
  }
  flush();
  return ids;
}

/** Phi-3's control tokens swallow the white space that follows them. */
function dropsSpaceAfter(tokenizer: Tokenizer, control: string): boolean {
  if (control === '') return false;
  return tokenizer.encode(`${control}\n`, { parseSpecial: true, addBos: false }).length === 1;
}

function disarm(text: string, marks: ReadonlySet<string>): string {
  let safe = text;
  for (const mark of marks) safe = safe.replaceAll(mark, `${mark[0]}\u2060${mark.slice(1)}`);
  return safe;
}

const escape = (text: string) => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');

function reason(cause: unknown): string {
  return (cause instanceof Error ? cause.message : String(cause)).replace(/\.$/, '');
}
