import { ensure, KvError } from '../errors/errors.ts';
import { byteLevelBytes, byteLevelEncoder } from './byte-level.ts';
import { findPreTokenizer } from './pre-tokenizers.ts';
import { sentencePieceEncoder } from './sentencepiece.ts';
import { streamDecoder, utf8Decoder } from './stream-decoder.ts';
import type { Tokenizer } from './tokenizer.ts';
import {
  type Metadata,
  readFlag,
  readNumbers,
  readStrings,
  readVocabulary,
  TokenType,
  type Vocabulary,
} from './vocabulary.ts';

/** What the two kinds of vocabulary do differently. */
interface Scheme {
  /** Ids of text without control tokens. */
  readonly encode: (text: string) => number[];
  /** Bytes of an ordinary token. */
  readonly bytes: (piece: string) => Uint8Array;
  /** Put a space before a text that begins, or follows a control token. */
  readonly addSpacePrefix: boolean;
  readonly addBos: boolean;
}

const utf8 = new TextEncoder();
const nothing = new Uint8Array();
const space = 0x20;

/**
 * The tokenizer of a GGUF file.
 * @param metadata the file's keys and values; arrays may be typed, numbers may be bigint
 * @throws KvError "format" if there is no tokenizer or it contradicts itself; "unsupported" if it
 *   is of a kind that this version lacks
 */
export function tokenizerFromGguf(metadata: Metadata): Tokenizer {
  const model = metadata.get('tokenizer.ggml.model');
  ensure(
    typeof model === 'string',
    'format',
    () =>
      'tokenizer: tokenizer.ggml.model is missing; supported: gpt2 llama. Use a model file that holds its tokenizer.',
  );
  const vocabulary = readVocabulary(metadata);
  const scheme = readScheme(model, metadata, vocabulary);
  const { tokens, types, bosId, eosId } = vocabulary;
  const addBosByDefault = readFlag(metadata, 'add_bos_token') ?? scheme.addBos;
  ensure(
    bosId !== undefined || metadata.get('tokenizer.ggml.add_bos_token') !== true,
    'format',
    () =>
      'tokenizer: add_bos_token is true but bos_token_id is missing; both or neither. Convert the model again.',
  );
  const addEosByDefault = readFlag(metadata, 'add_eos_token') ?? false;
  const specials = specialTokens(vocabulary, metadata);

  const check = (id: number) =>
    ensure(
      Number.isInteger(id) && id >= 0 && id < tokens.length,
      'range',
      () =>
        `tokenizer: token id is ${id}; it must be a whole number below ${tokens.length}. Decode ids with the tokenizer that made them.`,
    );

  const bytesOf = (id: number, special: boolean): Uint8Array => {
    check(id);
    switch (types[id]) {
      case TokenType.normal:
        return scheme.bytes(tokens.at(id));
      case TokenType.control:
      case TokenType.unknown:
        return special ? utf8.encode(tokens.at(id)) : nothing;
      case TokenType.userDefined:
        return utf8.encode(tokens.at(id));
      case TokenType.byte:
        return Uint8Array.of(Number.parseInt(tokens.at(id).slice(3, 5), 16));
      default:
        return nothing; // unused tokens have no text
    }
  };

  return {
    vocabSize: tokens.length,
    bosId,
    eosIds: vocabulary.eosIds,

    encode(text, { parseSpecial = false, addBos } = {}) {
      const ids: number[] = [];
      if (addBos ?? (addBosByDefault && bosId !== undefined)) {
        ensure(
          bosId !== undefined,
          'unsupported',
          () => 'tokenizer: the model has no BOS token. Leave out addBos.',
        );
        ids.push(bosId);
      }
      let begins = true;
      const wellFormed = text.replace(/\p{Surrogate}/gu, '\ufffd');
      for (const part of splitSpecials(wellFormed, specials(parseSpecial))) {
        if (typeof part === 'number') {
          ids.push(part);
        } else {
          const encoded = scheme.encode(scheme.addSpacePrefix && begins ? ` ${part}` : part);
          for (const id of encoded) ids.push(id);
        }
        begins = typeof part === 'number';
      }
      if (addEosByDefault && addBos !== false && eosId !== undefined) ids.push(eosId);
      return Int32Array.from(ids);
    },

    decode(ids, { special = false } = {}) {
      const decoder = utf8Decoder();
      let text = '';
      let begins = scheme.addSpacePrefix;
      for (const id of ids) {
        let bytes = bytesOf(id, special);
        if (begins && bytes.length > 0) {
          if (bytes[0] === space) bytes = bytes.subarray(1);
          begins = false;
        }
        text += decoder.decode(bytes, { stream: true });
      }
      return text + decoder.decode();
    },

    stream: () => streamDecoder((id) => bytesOf(id, false)),

    token(id) {
      check(id);
      return tokens.at(id);
    },
  };
}

function readScheme(model: string, metadata: Metadata, vocabulary: Vocabulary): Scheme {
  if (model === 'gpt2') {
    const name = metadata.get('tokenizer.ggml.pre') ?? 'default';
    const pre = findPreTokenizer(String(name));
    const merges = readStrings(metadata, 'tokenizer.ggml.merges');
    return {
      encode: byteLevelEncoder(vocabulary, merges, pre),
      bytes: byteLevelBytes,
      addSpacePrefix: false,
      addBos: pre.addBos ?? false,
    };
  }
  if (model === 'llama') {
    const scores = readNumbers(metadata, 'tokenizer.ggml.scores', vocabulary.tokens.length);
    ensure(
      scores !== undefined,
      'format',
      () =>
        'tokenizer: tokenizer.ggml.scores is missing; a "llama" tokenizer needs one per token. Convert the model again.',
    );
    const encode = sentencePieceEncoder(vocabulary, scores);
    return {
      encode: (text) => encode(text.replaceAll(' ', '\u2581')),
      bytes: (piece) => utf8.encode(piece.replaceAll('\u2581', ' ')),
      addSpacePrefix: readFlag(metadata, 'add_space_prefix') ?? true,
      addBos: true,
    };
  }
  throw new KvError(
    'unsupported',
    `tokenizer: tokenizer.ggml.model is "${model}"; supported: gpt2 llama. Use a model with one of these.`,
  );
}

interface Special {
  readonly text: string;
  readonly id: number;
  /** White space that follows it is dropped. */
  readonly stripAfter: boolean;
}

/**
 * The tokens that are read in text as they stand, longest first: user-defined ones always, control
 * and unknown ones only on request.
 */
function specialTokens(
  { tokens, types }: Vocabulary,
  metadata: Metadata,
): (parse: boolean) => Special[] {
  // GGUF has no field for this property of Phi-3's tokens; llama.cpp goes by the name as well.
  const isPhi3 = /phi-?3/i.test(String(metadata.get('general.name')));
  const never = ['<unk>', '<s>', '<|endoftext|>'];
  const ofTypes = (...wanted: number[]): Special[] =>
    Array.from(types)
      .flatMap((type, id) => (wanted.includes(type) ? { id, text: tokens.at(id) } : []))
      .filter(({ text }) => text !== '')
      .map(({ id, text }) => ({ text, id, stripAfter: isPhi3 && !never.includes(text) }))
      .sort((a, b) => b.text.length - a.text.length);
  const always = ofTypes(TokenType.userDefined);
  const onRequest = ofTypes(TokenType.userDefined, TokenType.control, TokenType.unknown);
  return (parse) => (parse ? onRequest : always);
}

/** Cuts every occurrence of the first special out of the text, then of the second, and so on. */
function splitSpecials(text: string, specials: readonly Special[]): (string | number)[] {
  let parts: (string | number)[] = [text];
  for (const special of specials) {
    if (!text.includes(special.text)) continue;
    parts = parts.flatMap((part) => (typeof part === 'number' ? part : cut(part, special)));
  }
  return parts.filter((part) => part !== '');
}

function cut(text: string, { text: name, id, stripAfter }: Special): (string | number)[] {
  const [first, ...rest] = text.split(name);
  const strip = (piece: string) => (stripAfter ? piece.replace(/^[ \t\n\v\f\r]+/, '') : piece);
  return [first, ...rest.flatMap((piece) => [id, strip(piece)])];
}
