import { existsSync, readFileSync } from 'node:fs';
import { Tokenizer as Library } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { inShared, skipBecause } from '../../test/forged.ts';
import { KvError } from '../errors/errors.ts';
import { forgeBytes } from '../bench/forge-node.ts';
import { hfJson } from '../../test/hf-twin.ts';
import { tokenizerFromGguf } from '../tokenizer/gguf-tokenizer.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { openFileSource } from './file-node.ts';
import { readGguf } from './gguf.ts';
import { getNumbers, getStrings } from './gguf-access.ts';
import { ggufTokenizerMetadata, type TokenFacts } from './hf-tokenizer.ts';

interface TokenizerJson {
  added_tokens: object[];
  normalizer: unknown;
  pre_tokenizer: unknown;
  post_processor: unknown;
  model: Record<string, unknown> & { vocab: Record<string, number>; merges: unknown[] };
}

const facts: TokenFacts = { vocabSize: 330, bosId: undefined, eosIds: [] };

const byteLevel: { tokenizerJson: TokenizerJson; tokenizerConfig: object } = await hfJson(
  await forgeBytes({
    nLayers: 1,
    nHeads: 1,
    nKvHeads: 1,
    headDim: 8,
    dFeedForward: 8,
    vocab: 320,
    type: 'F32',
    tied: true,
    contextLength: 8,
    seed: 1,
    tokenizer: 'bpe',
  }),
);

/** The metadata of the byte-level tokenizer above, with something changed. */
function metadataOf(
  change: Partial<TokenizerJson> = {},
  settings: object = {},
  some: Partial<TokenFacts> = {},
) {
  const json = { ...byteLevel.tokenizerJson, ...change };
  return ggufTokenizerMetadata(
    json,
    { ...byteLevel.tokenizerConfig, ...settings },
    { ...facts, ...some },
  );
}

const valueOf = (metadata: ReturnType<typeof metadataOf>, key: string) =>
  metadata.get(`tokenizer.ggml.${key}`)?.value;

function tokenizerOf(metadata: ReturnType<typeof metadataOf>): Tokenizer {
  return tokenizerFromGguf(new Map([...metadata].map(([key, { value }]) => [key, value])));
}

const byteLevelStep = (useRegex: boolean) => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  use_regex: useRegex,
});

/** As Llama 3 and Qwen 2 have it. */
const split = (digits: string) => ({
  type: 'Split',
  pattern: {
    Regex: String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  },
  behavior: 'Isolated',
  invert: false,
});

const sequence = (...pretokenizers: object[]) => ({ type: 'Sequence', pretokenizers });

describe('byte-level BPE', () => {
  test('tokens keep their ids, gaps become unused tokens, added ones have their types', () => {
    const added = [
      { id: 256, content: '<|endoftext|>', special: true },
      { id: 325, content: '<tool>', special: false },
      { id: 329, content: '<|im_start|>', special: true },
    ];
    const metadata = metadataOf({ added_tokens: added });
    const tokens = valueOf(metadata, 'tokens') as string[];
    const types = valueOf(metadata, 'token_type') as Int32Array;
    expect(tokens.length).toBe(330);
    expect([tokens[0], tokens[256], tokens[325], tokens[329]]).toEqual([
      'Ā',
      '<|endoftext|>',
      '<tool>',
      '<|im_start|>',
    ]);
    expect([types[0], types[256], types[324], types[325], types[329]]).toEqual([1, 3, 5, 4, 3]);
    expect(new Set(tokens).size).toBe(330);
    const tokenizer = tokenizerOf(metadata);
    expect([...tokenizer.encode('<|im_start|><tool>', { parseSpecial: true })]).toEqual([329, 325]);
    expect(tokenizer.eosIds).toEqual([256]);
  });

  test.each<[string, Partial<TokenizerJson>, boolean]>([
    ['gpt-2', { pre_tokenizer: byteLevelStep(true) }, false],
    [
      'smollm',
      {
        pre_tokenizer: sequence({ type: 'Digits', individual_digits: true }, byteLevelStep(true)),
      },
      false,
    ],
    [
      'llama-bpe',
      { pre_tokenizer: sequence(split(String.raw`\p{N}{1,3}`), byteLevelStep(false)) },
      true,
    ],
    [
      'qwen2',
      {
        normalizer: { type: 'NFC' },
        pre_tokenizer: sequence(split(String.raw`\p{N}`), byteLevelStep(false)),
      },
      false,
    ],
  ])('%s is recognized, and gives the ids of the tokenizer.json', (name, change, ignoreMerges) => {
    const model = { ...byteLevel.tokenizerJson.model, ignore_merges: ignoreMerges };
    const json = { ...byteLevel.tokenizerJson, ...change, model };
    const metadata = metadataOf(json);
    expect(valueOf(metadata, 'pre')).toBe(name);
    const ours = tokenizerOf(metadata);
    // Made as the model's files have it, without our way through GGUF.
    const library = new Library(structuredClone(json), {});
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.constantFrom(' the', "'S", "it's", '1234', '\r\n', '  ', 'É', 'ßt', '!?', '\t'),
            fc.string({ unit: 'grapheme', maxLength: 4 }),
          ),
          { maxLength: 12 },
        ),
        (pieces) => {
          const text = pieces.join('').normalize('NFC');
          expect([...ours.encode(text)]).toEqual(library.encode(text).ids);
        },
      ),
    );
  });

  test('BOS and EOS are put where the template or the config says', () => {
    const special = (id: string) => ({ SpecialToken: { id, type_id: 0 } });
    const text = { Sequence: { id: 'A', type_id: 0 } };
    const end = '<|endoftext|>';
    const processed = (...single: object[]) => ({
      type: 'Sequence',
      processors: [{ type: 'ByteLevel' }, { type: 'TemplateProcessing', single }],
    });
    const flags = (post_processor: unknown, settings: object = {}) => {
      const metadata = metadataOf({ post_processor }, settings);
      return [valueOf(metadata, 'add_bos_token'), valueOf(metadata, 'add_eos_token')];
    };
    expect(flags(null)).toEqual([false, false]);
    expect(flags(processed(special(end), text))).toEqual([true, false]);
    expect(flags(processed(text, special(end)))).toEqual([false, true]);
    expect(flags(processed(special('[CLS]'), text))).toEqual([false, false]);
    expect(flags(processed(special(end), text), { add_bos_token: false })).toEqual([false, false]);
  });

  test('the chat template comes along, of several the default one', () => {
    const template = (chat: unknown) =>
      metadataOf({}, { chat_template: chat }).get('tokenizer.chat_template')?.value;
    expect(template(undefined)).toBeUndefined();
    expect(template('{{ x }}')).toBe('{{ x }}');
    const several = [
      { name: 'rag', template: 'a' },
      { name: 'default', template: 'b' },
    ];
    expect(template(several)).toBe('b');
  });

  test('merges may be written as one text', () => {
    const { model } = byteLevel.tokenizerJson;
    const merges = model.merges.map((pair) => (pair as string[]).join(' '));
    expect(metadataOf({ model: { ...model, merges } })).toEqual(metadataOf());
  });

  test.each<[string, Partial<TokenizerJson>, object, string, RegExp]>([
    [
      'WordPiece',
      { model: { ...byteLevel.tokenizerJson.model, type: 'WordPiece' } },
      {},
      'unsupported',
      /model "type" is "WordPiece"; supported: "BPE"/,
    ],
    [
      'suffixes',
      { model: { ...byteLevel.tokenizerJson.model, end_of_word_suffix: '</w>' } },
      {},
      'unsupported',
      /"end_of_word_suffix" is "<\/w>"/,
    ],
    [
      'an unknown pattern',
      { pre_tokenizer: split('x') },
      {},
      'unsupported',
      /pre-tokenizer \[Split .*supported: those of gpt-2/,
    ],
    [
      'a prefix space',
      { pre_tokenizer: { ...byteLevelStep(true), add_prefix_space: true } },
      {},
      'unsupported',
      /"add_prefix_space":true/,
    ],
    [
      'a normalizer',
      { normalizer: { type: 'Lowercase' } },
      {},
      'unsupported',
      /normalizer \[\{"type":"Lowercase"\}\]/,
    ],
    [
      'a merge of three',
      { model: { ...byteLevel.tokenizerJson.model, merges: ['a b c'] } },
      {},
      'format',
      /merge "a b c"; need two/,
    ],
    [
      'an id too large',
      { added_tokens: [{ id: 330, content: 'x' }] },
      {},
      'format',
      /token "x" has id 330/,
    ],
    [
      'one id twice',
      { added_tokens: [{ id: 5, content: 'x' }] },
      {},
      'format',
      /token "x" and id 5 are there twice/,
    ],
    ['an unknown BOS', {}, { bos_token: 'nobody' }, 'format', /"bos_token" is "nobody"/],
    [
      'no vocabulary',
      { model: { type: 'BPE' } as unknown as TokenizerJson['model'] },
      {},
      'format',
      /"vocab" is missing/,
    ],
  ])('refuses %s', (_, change, settings, code, message) => {
    const make = () => metadataOf(change, settings);
    expect(make).toThrow(message);
    expect(make).toThrow(expect.objectContaining({ name: 'KvError', code }));
  });

  test('a tokenizer.json with any value in any place is read or refused', () => {
    const steps = ['Prepend', 'Replace', 'Digits', 'ByteLevel', 'Split', 'Metaspace', 'Sequence'];
    const wild = fc.oneof(
      fc.jsonValue({ maxDepth: 2 }),
      fc.constant({ toString: 1, valueOf: 1 }),
      fc.record({
        type: fc.constantFrom('TemplateProcessing', ...steps),
        prepend: fc.jsonValue({ maxDepth: 1 }),
        pattern: fc.jsonValue({ maxDepth: 1 }),
        single: fc.jsonValue({ maxDepth: 2 }),
      }),
    );
    const { model } = byteLevel.tokenizerJson;
    fc.assert(
      fc.property(
        fc.constantFrom('', ...Object.keys(byteLevel.tokenizerJson)),
        fc.constantFrom('', 'unk_token', ...Object.keys(model)),
        wild,
        wild,
        (key, modelKey, value, settings) => {
          const json = {
            ...byteLevel.tokenizerJson,
            model: { ...model, ...(modelKey && { [modelKey]: value }) },
            ...(key && { [key]: value }),
          };
          try {
            ggufTokenizerMetadata(json, { bos_token: settings, chat_template: settings }, facts);
          } catch (error) {
            expect(error).toBeInstanceOf(KvError);
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  test('a real tokenizer.json gives the ids that it gives by itself', ({ skip }) => {
    const file = inShared('data/tokenizers/smollm2-style-tokenizer.json');
    const corpus = inShared('data/eval/wikitext-2-test.txt');
    if (!existsSync(file) || !existsSync(corpus)) {
      skipBecause(skip, 'real tokenizer.json', 'no development data at ../shared');
    }
    const json = JSON.parse(readFileSync(file, 'utf8')) as TokenizerJson;
    const metadata = ggufTokenizerMetadata(json, {}, { ...facts, vocabSize: 49152 });
    const ours = tokenizerOf(metadata);
    const library = new Library({ ...json, truncation: null } as never, {});
    const paragraphs = readFileSync(corpus, 'utf8')
      .split('\n')
      .filter((line) => line.trim() !== '');
    let compared = 0;
    for (let i = 0; i < paragraphs.length; i += 10) {
      const text = paragraphs[i].replaceAll(/<[^>]*>/g, '');
      expect([...ours.encode(text)], text.slice(0, 60)).toEqual(library.encode(text).ids);
      compared++;
    }
    expect(compared).toBeGreaterThan(100);
  });
});

/** A tokenizer.json as made from a SentencePiece model: every way to make every token, by score. */
function fromSentencePiece(
  tokens: readonly string[],
  scores: ArrayLike<number>,
  types: ArrayLike<number>,
): TokenizerJson {
  const normal = new Map(
    tokens.map((t, id) => [t, id] as const).filter(([, id]) => types[id] === 1),
  );
  const merges: { pair: [string, string]; score: number }[] = [];
  for (const [token, id] of normal) {
    const chars = [...token];
    for (let cut = 1; cut < chars.length; cut++) {
      const pair: [string, string] = [chars.slice(0, cut).join(''), chars.slice(cut).join('')];
      if (pair.every((part) => normal.has(part))) merges.push({ pair, score: scores[id] });
    }
  }
  merges.sort((a, b) => b.score - a.score);
  return {
    added_tokens: tokens.slice(0, 3).map((content, id) => ({ id, content, special: true })),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '\u2581' },
        { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.map(({ pair }) => pair),
    },
  };
}

const bytes = Array.from(
  { length: 256 },
  (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`,
);
const pieces = ['\u2581', 'a', 'b', 'c', 'ab', 'bc', 'abc', '\u2581a', '\u2581ab', '\u2581\u2581'];
const spm = {
  tokens: ['<unk>', '<s>', '</s>', ...bytes, ...pieces],
  scores: Float32Array.from([...new Array<number>(263).fill(0), -6, -5, -4, -3, -2, -1]),
  types: [2, 3, 3, ...bytes.map(() => 6), ...pieces.map(() => 1)],
};
const spmFacts: TokenFacts = { vocabSize: spm.tokens.length, bosId: 1, eosIds: [2] };

describe('SentencePiece BPE', () => {
  const json = fromSentencePiece(spm.tokens, spm.scores, spm.types);
  const original = tokenizerFromGguf(
    new Map<string, unknown>([
      ['tokenizer.ggml.model', 'llama'],
      ['tokenizer.ggml.tokens', spm.tokens],
      ['tokenizer.ggml.scores', spm.scores],
      ['tokenizer.ggml.token_type', spm.types],
      ['tokenizer.ggml.bos_token_id', 1],
      ['tokenizer.ggml.eos_token_id', 2],
      ['tokenizer.ggml.unknown_token_id', 0],
    ]),
  );

  test('types, flags and ids are those of the SentencePiece model', () => {
    const metadata = ggufTokenizerMetadata(json, {}, spmFacts);
    expect([...(valueOf(metadata, 'token_type') as Int32Array)]).toEqual(spm.types);
    expect(valueOf(metadata, 'model')).toBe('llama');
    expect(valueOf(metadata, 'add_bos_token')).toBe(true);
    expect(valueOf(metadata, 'unknown_token_id')).toBe(0);
    const ours = tokenizerOf(metadata);
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', 'b', 'c', ' ', 'é', '🙂') }), (text) => {
        expect([...ours.encode(text)]).toEqual([...original.encode(text)]);
      }),
    );
  });

  test('a Metaspace pre-tokenizer says the same, and whether a space is put in front', () => {
    const prefix = (scheme: string) => {
      const metaspace = {
        type: 'Metaspace',
        replacement: '\u2581',
        prepend_scheme: scheme,
        split: false,
      };
      const changed = { ...json, normalizer: null, pre_tokenizer: metaspace };
      return valueOf(ggufTokenizerMetadata(changed, {}, spmFacts), 'add_space_prefix');
    };
    expect(prefix('first')).toBe(true);
    expect(prefix('never')).toBe(false);
    expect(() => prefix('sometimes')).toThrow(/Metaspace sometimes/);
  });

  test('merges that leave out a way to make a token are no SentencePiece model', () => {
    const merges = json.model.merges.filter((pair) => (pair as string[])[0] !== 'ab');
    expect(merges.length).toBeLessThan(json.model.merges.length);
    const change = { ...json, model: { ...json.model, merges } };
    expect(() => ggufTokenizerMetadata(change, {}, spmFacts)).toThrow(
      /"ab" and "c" make a token but no merge says so/,
    );
  });

  test('Llama 2’s vocabulary gives its ids for any text', async ({ skip }) => {
    const file = inShared('data/tokenizers/ggml-vocab-llama-spm.gguf');
    if (!existsSync(file)) skipBecause(skip, 'Llama 2', 'no development data at ../shared');
    const source = await openFileSource(file);
    const gguf = await readGguf(source);
    await source.close();
    const tokens = getStrings(gguf, 'tokenizer.ggml.tokens');
    const scores = getNumbers(gguf, 'tokenizer.ggml.scores');
    const types = getNumbers(gguf, 'tokenizer.ggml.token_type');
    const real = fromSentencePiece(tokens, scores, types);
    const metadata = ggufTokenizerMetadata(real, {}, { ...spmFacts, vocabSize: tokens.length });
    const [ours, theirs] = [tokenizerOf(metadata), tokenizerFromGguf(gguf.metadata)];
    const words = fc.constantFrom(
      'the',
      ' quick',
      '  ',
      'über',
      '\n',
      'int main() {',
      '漢字',
      '42',
    );
    fc.assert(
      fc.property(
        fc.array(fc.oneof(words, fc.string({ unit: 'binary', maxLength: 5 })), { maxLength: 15 }),
        (parts) => {
          const text = parts.join('');
          expect([...ours.encode(text)]).toEqual([...theirs.encode(text)]);
        },
      ),
      { numRuns: 200 },
    );
    const corpus = inShared('data/eval/wikitext-2-valid.txt');
    if (!existsSync(corpus)) return;
    const text = readFileSync(corpus, 'utf8').slice(0, 100_000);
    expect([...ours.encode(text)]).toEqual([...theirs.encode(text)]);
  });
});
