import { ensure, KvError } from '../errors/errors.ts';
import { TokenTable, type StringList } from './token-table.ts';

/**
 * Keys and values of a model file. Arrays of strings may be lists of another kind, such as one that
 * decodes its strings as they are asked for.
 */
export type Metadata = ReadonlyMap<string, unknown>;

/** GGUF's `tokenizer.ggml.token_type`. */
export const TokenType = {
  normal: 1,
  unknown: 2,
  control: 3,
  userDefined: 4,
  unused: 5,
  byte: 6,
} as const;

/**
 * Tokens that end a turn, known by name because files often fail to list them or mark them as
 * ordinary text. llama.cpp stops at them too.
 */
const endOfTurnNames = [
  '</s>',
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end|>',
  '<end_of_turn>',
  '<end_of_utterance>',
  '<EOT>',
];

/** The tokens of a model file, checked. */
export interface Vocabulary {
  readonly tokens: TokenTable;
  /** One `TokenType` per id. */
  readonly types: ArrayLike<number>;
  /** The id of a token that text may become: any but control, unknown and byte tokens. */
  readonly textId: (token: string) => number | undefined;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly unknownId: number | undefined;
  /** Generation stops at any of these. */
  readonly eosIds: readonly number[];
}

/** @throws KvError "format" if the metadata has no vocabulary or contradicts itself */
export function readVocabulary(metadata: Metadata): Vocabulary {
  const tokens = new TokenTable(readStrings(metadata, 'tokenizer.ggml.tokens'));
  const types = Int32Array.from(
    readNumbers(metadata, 'tokenizer.ggml.token_type', tokens.length) ??
      new Int32Array(tokens.length).fill(TokenType.normal),
  );
  types.forEach((type, id) =>
    ensure(
      type !== TokenType.byte || /^<0x[0-9A-F]{2}>$/i.test(tokens.at(id)),
      'format',
      () =>
        `tokenizer: byte token ${id} is ${JSON.stringify(tokens.at(id))}; it must look like <0x0A>. Convert the model again.`,
    ),
  );

  const endOfTurnIds = endOfTurnNames.flatMap((name) => tokens.idOf(name) ?? []);
  for (const id of endOfTurnIds) types[id] = TokenType.control;
  const notText: readonly number[] = [TokenType.control, TokenType.unknown, TokenType.byte];
  const textId = (token: string) => {
    const id = tokens.idOf(token);
    return id === undefined || notText.includes(types[id]) ? undefined : id;
  };

  const id = (name: string) => readTokenId(metadata, name, tokens.length);
  const eosId = id('eos_token_id');
  const given = [eosId, id('eot_token_id'), id('eom_token_id')].filter((x) => x !== undefined);
  return {
    tokens,
    types,
    textId,
    bosId: id('bos_token_id'),
    eosId,
    unknownId: id('unknown_token_id'),
    eosIds: Array.from(new Set([...given, ...endOfTurnIds])),
  };
}

/** @throws KvError "format" if `key` is missing or is not an array of strings */
export function readStrings(metadata: Metadata, key: string): StringList {
  const value = metadata.get(key);
  ensure(
    isStrings(value) && value.length > 0,
    'format',
    () =>
      `tokenizer: ${key} is ${describe(value)}; it must be an array of strings. Use a model file that holds its tokenizer.`,
  );
  return value;
}

function isStrings(value: unknown): value is StringList {
  if (Array.isArray(value)) return value.every((item) => typeof item === 'string');
  const isList = typeof value === 'object' && value !== null && Symbol.iterator in value;
  return isList && 'length' in value && !ArrayBuffer.isView(value);
}

/**
 * Numbers, one per token; undefined if `key` is missing.
 * @throws KvError "format" if they are not numbers or not `length` many
 */
export function readNumbers(
  metadata: Metadata,
  key: string,
  length: number,
): ArrayLike<number> | undefined {
  const value = metadata.get(key);
  if (value === undefined) return undefined;
  const isArray = Array.isArray(value) || ArrayBuffer.isView(value);
  const numbers = isArray ? Array.from(value as ArrayLike<unknown>, Number) : [];
  ensure(
    numbers.length === length && !numbers.some(Number.isNaN),
    'format',
    () =>
      `tokenizer: ${key} is ${describe(value)}; it must be ${length} numbers, one per token. Convert the model again.`,
  );
  return numbers;
}

/** A yes or no of the file; undefined if it says nothing. */
export function readFlag(metadata: Metadata, name: string): boolean | undefined {
  const value = metadata.get(`tokenizer.ggml.${name}`);
  if (value === undefined || typeof value === 'boolean') return value;
  throw new KvError(
    'format',
    `tokenizer: tokenizer.ggml.${name} is ${describe(value)}; it must be true or false. Convert the model again.`,
  );
}

function readTokenId(metadata: Metadata, name: string, vocabSize: number): number | undefined {
  const value = metadata.get(`tokenizer.ggml.${name}`);
  if (value === undefined) return undefined;
  const id = typeof value === 'bigint' ? Number(value) : value;
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabSize) return id;
  throw new KvError(
    'format',
    `tokenizer: tokenizer.ggml.${name} is ${describe(value)}; it must be a token id below ${vocabSize}. Convert the model again.`,
  );
}

function describe(value: unknown): string {
  if (value === undefined) return 'missing';
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (ArrayBuffer.isView(value)) return `an array of ${(value as Uint8Array).length} numbers`;
  return typeof value === 'object' ? 'an object' : String(value);
}
