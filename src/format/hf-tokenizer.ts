/** A tokenizer.json as GGUF metadata, so that one tokenizer serves both kinds of model. */
import { KvError, ensure } from '../errors/errors.ts';
import { maxArrayLength } from './gguf-limits.ts';
import type { HfMetadata } from './hf-config.ts';
import { asObject, describe, readList, readText, type JsonObject } from './hf-json.ts';
import { recognizeTreatment } from './hf-pre-tokenizer.ts';
import { sentencePieceScores } from './hf-sentencepiece.ts';

const where = 'tokenizer.json';

/** GGUF's `tokenizer.ggml.token_type`. */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 };

/** What the model's config knows about its tokens. */
export interface TokenFacts {
  /** Rows of the embedding: ids without a token become unused ones. */
  readonly vocabSize: number;
  /** Used where tokenizer_config.json names no BOS token. */
  readonly bosId: number | undefined;
  /** Generation stops at any of these, besides the one that tokenizer_config.json names. */
  readonly eosIds: readonly number[];
}

interface Tokens {
  readonly texts: string[]; // [vocabSize]
  readonly types: Int32Array<ArrayBuffer>; // [vocabSize]
  readonly ids: ReadonlyMap<string, number>;
}

/**
 * The keys `tokenizer.*` of a GGUF file.
 * @throws KvError "unsupported" for a tokenizer that is neither byte-level BPE nor SentencePiece
 *   BPE, or that cuts text in a way that GGUF has no name for; "format" if it contradicts itself
 */
export function ggufTokenizerMetadata(
  tokenizerJson: unknown,
  tokenizerConfig: unknown,
  facts: TokenFacts,
): HfMetadata {
  const tokenizer = asObject(tokenizerJson, where);
  const settings = asObject(tokenizerConfig ?? {}, 'tokenizer_config.json');
  const model = asObject(tokenizer.model, `${where}: "model"`);
  refuseOtherModels(model);
  const treatment = recognizeTreatment(tokenizer, model);
  const unknown = treatment.model === 'llama' ? model.unk_token : undefined;
  const tokens = readTokens(tokenizer, model, facts.vocabSize, unknown);
  const merges = readMerges(model);

  const metadata: HfMetadata = new Map();
  const put = (key: string, entry: Entry) => metadata.set(`tokenizer.ggml.${key}`, entry);
  put('model', { type: 'string', value: treatment.model });
  if (treatment.model === 'gpt2') {
    put('pre', { type: 'string', value: treatment.pre });
    put('merges', { type: 'string[]', value: merges.map((pair) => pair.join(' ')) });
  } else {
    markBytes(tokens);
    const isText = (id: number) => tokens.types[id] === tokenType.normal;
    put('pre', { type: 'string', value: 'default' });
    put('scores', { type: 'f32[]', value: sentencePieceScores(tokens, isText, merges) });
    put('add_space_prefix', { type: 'bool', value: treatment.addSpacePrefix });
  }
  put('tokens', { type: 'string[]', value: tokens.texts });
  put('token_type', { type: 'i32[]', value: tokens.types });
  for (const [key, entry] of specialIds(tokenizer, settings, tokens, facts)) put(key, entry);
  const unknownId = typeof unknown === 'string' ? tokens.ids.get(unknown) : undefined;
  if (unknownId !== undefined) put('unknown_token_id', { type: 'u32', value: unknownId });
  const template = chatTemplate(settings);
  if (template !== undefined) {
    metadata.set('tokenizer.chat_template', { type: 'string', value: template });
  }
  return metadata;
}

type Entry = HfMetadata extends Map<string, infer E> ? E : never;

/** Settings that change ids and that GGUF cannot express. Files before 2021 do not say the type. */
function refuseOtherModels(model: JsonObject): void {
  const only: readonly [key: string, allowed: unknown][] = [
    ['type', 'BPE'],
    ['dropout', undefined],
    ['continuing_subword_prefix', ''],
    ['end_of_word_suffix', ''],
  ];
  for (const [key, allowed] of only) {
    const found = model[key] ?? allowed;
    if (found !== allowed) {
      throw new KvError(
        'unsupported',
        `${where}: model "${key}" is ${describe(found)}; supported: ${describe(allowed)}. ` +
          `Use the model's GGUF file.`,
      );
    }
  }
}

/** Texts and types of all ids below `vocabSize`; ids without a token become unused ones. */
function readTokens(
  tokenizer: JsonObject,
  model: JsonObject,
  vocabSize: number,
  unknown: unknown,
): Tokens {
  const texts = new Array<string | undefined>(vocabSize).fill(undefined);
  const types = new Int32Array(vocabSize).fill(tokenType.unused);
  const ids = new Map<string, number>();
  const add = (text: unknown, id: unknown, type: number) => {
    ensure(
      typeof text === 'string' && isId(id, vocabSize),
      'format',
      () =>
        `${where}: token ${describe(text)} has id ${describe(id)}; need a text, and a whole ` +
        `number below vocab_size ${vocabSize}. Fetch it and config.json again.`,
    );
    ensure(
      (texts[id] ?? text) === text && (ids.get(text) ?? id) === id,
      'format',
      () =>
        `${where}: token ${describe(text)} and id ${id} are there twice and differ. ` +
        `Fetch the file again.`,
    );
    texts[id] = text;
    types[id] = type;
    ids.set(text, id);
  };
  for (const [text, id] of Object.entries(asObject(model.vocab, `${where}: "vocab"`))) {
    add(text, id, text === unknown ? tokenType.unknown : tokenType.normal);
  }
  for (const item of readList(tokenizer, 'added_tokens', where, maxArrayLength)) {
    const { content, id, special } = asObject(item, `${where}: added token`);
    const type = special === true ? tokenType.control : tokenType.userDefined;
    add(content, id, content === unknown ? tokenType.unknown : type);
  }
  return { texts: texts.map((text, id) => text ?? `[unused ${id}]`), types, ids };
}

function isId(id: unknown, vocabSize: number): id is number {
  return typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabSize;
}

/** Merges as pairs; the file has them as `[left, right]` or, before 2024, as `"left right"`. */
function readMerges(model: JsonObject): [string, string][] {
  return readList(model, 'merges', `${where}: model`, maxArrayLength).map((merge) => {
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    const isPair =
      Array.isArray(pair) &&
      pair.length === 2 &&
      pair.every((part) => typeof part === 'string' && part !== '' && !part.includes(' '));
    ensure(
      isPair,
      'format',
      () => `${where}: merge ${describe(merge)}; need two texts. Fetch the file again.`,
    );
    return pair as [string, string];
  });
}

/** SentencePiece names the tokens of single bytes <0x00> to <0xFF>. */
function markBytes({ texts, types }: Tokens): void {
  texts.forEach((text, id) => {
    if (/^<0x[0-9A-F]{2}>$/.test(text)) types[id] = tokenType.byte;
  });
}

/** Ids of BOS and of the ends, and whether texts begin and end with them. */
function specialIds(
  tokenizer: JsonObject,
  settings: JsonObject,
  { ids, texts }: Tokens,
  facts: TokenFacts,
): [string, Entry][] {
  const named = (key: string) => namedToken(settings, key, ids);
  const bos = named('bos_token') ?? facts.bosId;
  const eos = named('eos_token') ?? facts.eosIds[0];
  // A GGUF file has three fields for tokens at which generation stops.
  const ends = [...new Set([eos, ...facts.eosIds])].filter((id) => id !== undefined).slice(0, 3);
  const endKeys = ['eos_token_id', 'eot_token_id', 'eom_token_id'];
  const found: [string, number | undefined][] = [
    ['bos_token_id', bos],
    ...ends.map((id, i): [string, number] => [endKeys[i], id]),
    ['padding_token_id', named('pad_token')],
  ];
  const entries: [string, Entry][] = [];
  for (const [key, value] of found) {
    if (value === undefined) continue;
    ensure(
      value < texts.length,
      'format',
      () => `config.json: ${key} is ${value}; need an id below vocab_size ${texts.length}.`,
    );
    entries.push([key, { type: 'u32', value }]);
  }
  const { begin, end } = templateTokens(tokenizer);
  const flags: [key: string, inTemplate: boolean][] = [
    ['add_bos_token', begin !== undefined && ids.get(begin) === bos],
    ['add_eos_token', end !== undefined && ids.get(end) === eos],
  ];
  for (const [key, inTemplate] of flags) {
    const value = typeof settings[key] === 'boolean' ? settings[key] : inTemplate;
    entries.push([key, { type: 'bool', value }]);
  }
  return entries;
}

/** The id of a token that tokenizer_config.json names, as a text or as an object with one. */
function namedToken(
  settings: JsonObject,
  key: string,
  ids: ReadonlyMap<string, number>,
): number | undefined {
  const value = settings[key] ?? undefined;
  if (value === undefined) return undefined;
  const file = 'tokenizer_config.json';
  const text =
    typeof value === 'string'
      ? value
      : readText(asObject(value, `${file}: "${key}"`), 'content', file);
  const id = ids.get(text);
  ensure(
    id !== undefined,
    'format',
    () => `${file}: "${key}" is ${describe(text)}, which tokenizer.json lacks. Fetch both again.`,
  );
  return id;
}

/** What the post-processor puts before and after a text: the last template counts. */
function templateTokens(tokenizer: JsonObject): { begin?: string; end?: string } {
  const post = tokenizer.post_processor ?? undefined;
  if (post === undefined) return {};
  const step = asObject(post, `${where}: "post_processor"`);
  const steps = step.type === 'Sequence' ? readList(step, 'processors', where, 16) : [step];
  const template = steps
    .map((item) => asObject(item, `${where}: post-processor`))
    .findLast(({ type }) => type === 'TemplateProcessing');
  if (!template) return {};
  const parts = readList(template, 'single', where, 16).map((part) => {
    const { SpecialToken: token } = asObject(part, `${where}: template`);
    return token === undefined ? undefined : asObject(token, `${where}: template`).id;
  });
  const text = parts.indexOf(undefined);
  const begin = parts[text - 1];
  const end = parts[text + 1];
  return {
    ...(typeof begin === 'string' ? { begin } : {}),
    ...(typeof end === 'string' ? { end } : {}),
  };
}

/** The template, or of several the one named "default". */
function chatTemplate(settings: JsonObject): string | undefined {
  const found = settings.chat_template ?? undefined;
  if (found === undefined || typeof found === 'string') return found;
  const named = readList(settings, 'chat_template', 'tokenizer_config.json', 64).map((item) =>
    asObject(item, 'tokenizer_config.json: chat template'),
  );
  const chosen = named.find(({ name }) => name === 'default');
  return chosen && readText(chosen, 'template', 'tokenizer_config.json');
}
