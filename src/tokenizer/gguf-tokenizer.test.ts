import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KvError, type ErrorCode } from '../errors/errors.ts';
import { tokenizerFromGguf } from './gguf-tokenizer.ts';
import type { Tokenizer } from './tokenizer.ts';

const control = 3;
const userDefined = 4;

/** The byte alphabet of GPT-2, in byte order. */
const alphabet = (() => {
  const printable = [...range(0x21, 0x7e), ...range(0xa1, 0xac), ...range(0xae, 0xff)];
  let next = 0x100;
  return range(0, 255).map((b) => String.fromCharCode(printable.includes(b) ? b : next++));
})();

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/** A byte-level vocabulary: ids 0 to 255 are the bytes, then one token per merge, then `extra`. */
function byteLevel(options: {
  pre?: string;
  merges?: string[];
  extra?: [string, number][];
  more?: [string, unknown][];
}): Map<string, unknown> {
  const merges = options.merges ?? ['t h', 'th e', 'Ġ the', '3 3', '33 3', "' S", '! Ċ', 'Ġ Ġ'];
  const extra = options.extra ?? [
    ['<|endoftext|>', control],
    ['<|im_end|>', control],
    ['<tool>', userDefined],
  ];
  const tokens = [...alphabet, ...merges.map((m) => m.replace(' ', '')), ...extra.map(([t]) => t)];
  const types = tokens.map((token) => extra.find(([t]) => t === token)?.[1] ?? 1);
  return new Map<string, unknown>([
    ['tokenizer.ggml.model', 'gpt2'],
    ['tokenizer.ggml.pre', options.pre ?? 'gpt-2'],
    ['tokenizer.ggml.tokens', tokens],
    ['tokenizer.ggml.token_type', Int32Array.from(types)],
    ['tokenizer.ggml.merges', merges],
    ['tokenizer.ggml.eos_token_id', 256 + merges.length],
    ...(options.more ?? []),
  ]);
}

/** A SentencePiece vocabulary: <unk> <s> </s>, the bytes, then `pieces` with their scores. */
function sentencePiece(
  pieces: [string, number][],
  more: [string, unknown][] = [],
): Map<string, unknown> {
  const bytes = range(0, 255).map((b) => `<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`);
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, ...pieces.map(([piece]) => piece)];
  return new Map<string, unknown>([
    ['tokenizer.ggml.model', 'llama'],
    ['tokenizer.ggml.tokens', tokens],
    ['tokenizer.ggml.token_type', [2, 3, 3, ...bytes.map(() => 6), ...pieces.map(() => 1)]],
    ['tokenizer.ggml.scores', [0, 0, 0, ...bytes.map(() => 0), ...pieces.map(([, s]) => s)]],
    ['tokenizer.ggml.bos_token_id', 1n],
    ['tokenizer.ggml.eos_token_id', 2],
    ['tokenizer.ggml.unknown_token_id', 0],
    ...more,
  ]);
}

const pieces = (tokenizer: Tokenizer, text: string, parseSpecial = false) =>
  Array.from(tokenizer.encode(text, { addBos: false, parseSpecial }), (id) => tokenizer.token(id));

function expectError(code: ErrorCode, pattern: RegExp, run: () => unknown): void {
  let thrown: unknown;
  try {
    run();
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(KvError);
  expect(thrown).toMatchObject({ code, message: expect.stringMatching(pattern) });
}

const text = fc.string({ unit: 'binary', maxLength: 60 });
const wellFormed = (s: string) => s.replace(/\p{Surrogate}/gu, '\ufffd');

describe('byte-level BPE', () => {
  const tokenizer = tokenizerFromGguf(byteLevel({}));

  it('merges by rank and keeps the space with the word', () => {
    expect(pieces(tokenizer, 'the the')).toEqual(['the', 'Ġthe']);
    expect(Array.from(tokenizer.encode('the'))).toEqual([257]);
  });

  it.each([
    ['gpt-2', ['33', '33', "'", 'S', '!', 'Ċ']],
    ['gpt2', ['33', '33', "'", 'S', '!', 'Ċ']],
    ['starcoder', ['3', '3', '3', '3', "'", 'S', '!', 'Ċ']],
    ['smollm', ['3', '3', '3', '3', "'", 'S', '!', 'Ċ']],
    ['llama-bpe', ['333', '3', "'S", '!Ċ']],
    ['qwen2', ['3', '3', '3', '3', "'S", '!Ċ']],
    ['default', ['333', '3', "'", 'S', '!', 'Ċ']],
  ])('cuts words as %s does', (pre, expected) => {
    expect(pieces(tokenizerFromGguf(byteLevel({ pre })), "3333'S!\n")).toEqual(expected);
  });

  it('takes a word that is a token whole with llama-bpe, whatever the merges say', () => {
    const extra: [string, number][] = [['zebra', 1]];
    expect(pieces(tokenizerFromGguf(byteLevel({ extra, pre: 'llama-bpe' })), 'zebra')).toEqual([
      'zebra',
    ]);
    expect(pieces(tokenizerFromGguf(byteLevel({ extra })), 'zebra')).toHaveLength(5);
  });

  it('uses the default pre-tokenizer when the file names none', () => {
    const metadata = byteLevel({ pre: 'default' });
    metadata.delete('tokenizer.ggml.pre');
    const unnamed = tokenizerFromGguf(metadata);
    // Only "default" cuts punctuation off before the rest.
    expect(pieces(unnamed, ' !')).toEqual(['Ġ', '!']);
    expect(pieces(unnamed, "'the")).toEqual(["'", 'the']);
  });

  it('never makes control tokens of text, unless asked', () => {
    const tricky = 'the<|endoftext|>the';
    const ids = tokenizer.encode(tricky);
    expect(ids).not.toContain(tokenizer.eosIds[0]);
    expect(tokenizer.decode(ids)).toBe(tricky);
    expect(pieces(tokenizer, tricky, true)).toEqual(['the', '<|endoftext|>', 'the']);
  });

  it('never makes a control token by merging', () => {
    const merges = ['< |', '<| >'];
    const metadata = byteLevel({ merges: ['< |'], extra: [['<|>', control]] });
    metadata.set('tokenizer.ggml.merges', merges);
    expect(pieces(tokenizerFromGguf(metadata), '<|>')).toEqual(['<|', '>']);
  });

  it('always reads user-defined tokens', () => {
    expect(pieces(tokenizer, 'the<tool>the')).toEqual(['the', '<tool>', 'the']);
  });

  it('reads the longest of two overlapping special tokens', () => {
    const extra: [string, number][] = [
      ['<a', userDefined],
      ['<ab>', userDefined],
    ];
    expect(pieces(tokenizerFromGguf(byteLevel({ extra })), '<ab><a')).toEqual(['<ab>', '<a']);
  });

  it('hides control tokens in decoded text, unless asked', () => {
    const ids = tokenizer.encode('the<|im_end|>', { parseSpecial: true });
    expect(tokenizer.decode(ids)).toBe('the');
    expect(tokenizer.decode(ids, { special: true })).toBe('the<|im_end|>');
  });

  it('gives back any text', () => {
    for (const pre of ['gpt-2', 'smollm', 'llama-bpe', 'qwen2', 'default']) {
      const each = tokenizerFromGguf(byteLevel({ pre }));
      fc.assert(
        fc.property(text, (s) => {
          expect(each.decode(each.encode(s))).toBe(wellFormed(s));
        }),
        { seed: 1, numRuns: 100 },
      );
    }
  });

  it.each([
    '',
    ' ',
    '\0',
    '\ufeffa\ufeff',
    'x\ud83d',
    '\udc00\ud800',
    '👨‍👩‍👧',
    'e\u0301',
    'ـعربي',
    '\r\n\t \n',
  ])('gives back %j', (s) => {
    expect(tokenizer.decode(tokenizer.encode(s))).toBe(wellFormed(s));
  });

  it('stops at end of sequence first, then at what ends a turn', () => {
    const ids = tokenizer.eosIds.map((id) => tokenizer.token(id));
    expect(ids).toEqual(['<|endoftext|>', '<|im_end|>']);
  });

  it('treats a turn-ending token as control even if the file calls it ordinary', () => {
    const extra: [string, number][] = [['<|im_end|>', userDefined]];
    const lax = tokenizerFromGguf(byteLevel({ extra }));
    expect(pieces(lax, '<|im_end|>')).toHaveLength('<|im_end|>'.length);
  });

  it('begins with BOS when the file or the caller says so', () => {
    const bos: [string, unknown] = ['tokenizer.ggml.bos_token_id', 264n];
    const asks = byteLevel({ more: [bos, ['tokenizer.ggml.add_bos_token', true]] });
    const silent = tokenizerFromGguf(byteLevel({ more: [bos] }));
    expect(Array.from(tokenizerFromGguf(asks).encode('the'))).toEqual([264, 257]);
    expect(Array.from(tokenizerFromGguf(asks).encode('the', { addBos: false }))).toEqual([257]);
    expect(Array.from(silent.encode('the'))).toEqual([257]);
    expect(Array.from(silent.encode('the', { addBos: true }))).toEqual([264, 257]);
    expectError('unsupported', /no BOS/, () => tokenizer.encode('the', { addBos: true }));
  });

  it('ends with EOS when the file says so', () => {
    const asks = tokenizerFromGguf(byteLevel({ more: [['tokenizer.ggml.add_eos_token', true]] }));
    expect(Array.from(asks.encode('the'))).toEqual([257, 264]);
    expect(Array.from(asks.encode('the', { addBos: false }))).toEqual([257]);
  });
});

describe('SentencePiece BPE', () => {
  const vocabulary: [string, number][] = [
    ['▁', -20],
    ...[...'abcdehlot'].map((c): [string, number] => [c, -30]),
    ['▁t', -1],
    ['he', -2],
    ['▁the', -3],
    ['th', -4],
    ['ab', -5],
    ['bc', -5],
    ['▁▁', -6],
    ['<s>x', -1],
    ['a▁b', -0.5],
  ];
  const tokenizer = tokenizerFromGguf(sentencePiece(vocabulary));

  it('puts a space in front and takes it away again', () => {
    expect(pieces(tokenizer, 'the')).toEqual(['▁the']);
    expect(tokenizer.decode(tokenizer.encode('the'))).toBe('the');
    expect(tokenizer.decode(tokenizer.encode(' the'))).toBe(' the');
    const plain = tokenizerFromGguf(
      sentencePiece(vocabulary, [['tokenizer.ggml.add_space_prefix', false]]),
    );
    expect(pieces(plain, 'the')).toEqual(['t', 'he']);
    expect(plain.decode(plain.encode(' the'))).toBe(' the');
  });

  it('merges the leftmost of equal scores', () => {
    expect(pieces(tokenizer, 'abc')).toEqual(['▁', 'ab', 'c']);
  });

  it('begins with BOS by default, and an empty text is BOS alone', () => {
    expect(Array.from(tokenizer.encode(''))).toEqual([1]);
    expect(tokenizer.bosId).toBe(1);
  });

  it('spells characters without a token in bytes', () => {
    expect(pieces(tokenizer, 'a😀')).toEqual(['▁', 'a', '<0xF0>', '<0x9F>', '<0x98>', '<0x80>']);
  });

  it('never makes control or byte tokens of text', () => {
    expect(pieces(tokenizer, '</s>')).not.toContain('</s>');
    expect(pieces(tokenizer, '<0x41>')).not.toContain('<0x41>');
    expect(pieces(tokenizer, 'the</s>the', true)).toEqual(['▁the', '</s>', '▁the']);
  });

  it('equals the definition: merge the best pair again and again', () => {
    const scores = new Map(vocabulary);
    const bySlowDefinition = (s: string) => {
      const symbols = [...`▁${s.replaceAll(' ', '▁')}`];
      for (;;) {
        let best = -1;
        let bestScore = -Infinity;
        for (let i = 0; i + 1 < symbols.length; i++) {
          const score = scores.get(symbols[i] + symbols[i + 1]) ?? -Infinity;
          if (score > bestScore) [best, bestScore] = [i, score];
        }
        if (best < 0) return symbols;
        symbols.splice(best, 2, symbols[best] + symbols[best + 1]);
      }
    };
    const words = fc.string({ unit: fc.constantFrom(...'abcdehlot  '), minLength: 1 });
    fc.assert(
      fc.property(words, (s) => {
        expect(pieces(tokenizer, s)).toEqual(bySlowDefinition(s));
      }),
      { seed: 2, numRuns: 500 },
    );
  });

  it('gives back any text but U+2581, which stands for a space', () => {
    fc.assert(
      fc.property(text, (s) => {
        const expected = wellFormed(s).replaceAll('▁', ' ');
        expect(tokenizer.decode(tokenizer.encode(s))).toBe(expected);
      }),
      { seed: 3, numRuns: 200 },
    );
  });

  it('drops white space after the special tokens of Phi-3, and only there', () => {
    const phi = tokenizerFromGguf(sentencePiece(vocabulary, [['general.name', 'Phi3']]));
    expect(pieces(phi, '</s> \nthe<s> a', true)).toEqual(['</s>', '▁the', '<s>', '▁▁', 'a']);
    expect(pieces(tokenizer, '</s> \nthe', true)).not.toEqual(['</s>', '▁the']);
  });

  it('needs a token for every byte, or one for what is unknown', () => {
    const metadata = sentencePiece(vocabulary);
    const tokens = metadata.get('tokenizer.ggml.tokens') as string[];
    tokens[3 + 0x41] = 'renamed';
    expectError('format', /byte token 68 is "renamed"/, () => tokenizerFromGguf(metadata));
    metadata.delete('tokenizer.ggml.token_type');
    expect(pieces(tokenizerFromGguf(metadata), 'A')).toEqual(['▁', '<unk>']);
    metadata.delete('tokenizer.ggml.unknown_token_id');
    expectError('format', /no token <0x41>/, () => tokenizerFromGguf(metadata));
  });

  it('needs scores', () => {
    const metadata = sentencePiece(vocabulary);
    metadata.delete('tokenizer.ggml.scores');
    expectError('format', /scores is missing/, () => tokenizerFromGguf(metadata));
  });
});

describe('a stream', () => {
  const tokenizer = tokenizerFromGguf(byteLevel({}));

  it('holds a character back until it is whole', () => {
    const stream = tokenizer.stream();
    const out = Array.from(tokenizer.encode('a👍🏽é'), (id) => stream.push(id));
    expect(out).toEqual(['a', '', '', '', '👍', '', '', '', '🏽', '', 'é']);
    expect(stream.end()).toBe('');
  });

  it('ends an incomplete character with U+FFFD', () => {
    const stream = tokenizer.stream();
    expect([0xf0, 0x9f].map((byte) => stream.push(byte))).toEqual(['', '']);
    expect(stream.end()).toBe('\ufffd');
  });

  it('says in pieces what decode says at once, for any ids', () => {
    const ids = fc.array(fc.nat({ max: tokenizer.vocabSize - 1 }));
    fc.assert(
      fc.property(ids, (each) => {
        const stream = tokenizer.stream();
        const out = each.map((id) => stream.push(id)).join('') + stream.end();
        expect(out).toBe(tokenizer.decode(each));
      }),
      { seed: 4, numRuns: 300 },
    );
  });

  it('continues a text: the space before a word stays', () => {
    const spm = tokenizerFromGguf(sentencePiece([['▁the', -1]]));
    expect(spm.stream().push(259)).toBe(' the');
    expect(spm.decode([259])).toBe('the');
  });
});

describe('a file that is wrong', () => {
  const without = (key: string) => {
    const metadata = byteLevel({});
    metadata.delete(`tokenizer.ggml.${key}`);
    return metadata;
  };
  const having = (key: string, value: unknown) => byteLevel({}).set(`tokenizer.ggml.${key}`, value);
  const twins: [string, number][] = [
    ['<x>', control],
    ['<x>', control],
  ];

  it.each<[string, ErrorCode, RegExp, Map<string, unknown>]>([
    ['no tokenizer', 'format', /model is missing/, new Map()],
    ['no tokens', 'format', /tokens is missing/, without('tokens')],
    ['empty tokens', 'format', /tokens is an array of 0/, having('tokens', [])],
    ['tokens that are numbers', 'format', /array of strings/, having('tokens', [1, 2])],
    ['no merges', 'format', /merges is missing/, without('merges')],
    ['too few types', 'format', /token_type is an array of 3/, having('token_type', [1, 1, 1])],
    ['types that are words', 'format', /token_type is/, having('token_type', 'normal')],
    ['an id past the end', 'format', /eos_token_id is 9999/, having('eos_token_id', 9999)],
    ['a negative id', 'format', /bos_token_id is -1/, having('bos_token_id', -1n)],
    [
      'BOS asked for but not named',
      'format',
      /add_bos_token is true/,
      having('add_bos_token', true),
    ],
    ['a flag that is no flag', 'format', /add_bos_token is 2/, having('add_bos_token', 2)],
    ['a merge of no tokens', 'format', /"q zz" needs token "zz"/, having('merges', ['q zz'])],
    ['a merge into no token', 'format', /needs token "qx"/, having('merges', ['q x'])],
    ['half a merge', 'format', /merge "q"/, having('merges', ['q'])],
    ['two equal tokens', 'format', /both "<x>"/, byteLevel({ extra: twins })],
    ['another kind', 'unsupported', /model is "t5"; supported: gpt2 llama/, having('model', 't5')],
    ['another split', 'unsupported', /pre is "tekken"; supported: gpt-2/, having('pre', 'tekken')],
  ])('is refused: %s', (_, code, pattern, metadata) => {
    expectError(code, pattern, () => tokenizerFromGguf(metadata));
  });

  it('refuses ids that are not in the vocabulary', () => {
    const tokenizer = tokenizerFromGguf(byteLevel({}));
    for (const id of [-1, tokenizer.vocabSize, 0.5, NaN]) {
      expectError('range', /token id is/, () => tokenizer.decode([id]));
      expectError('range', /token id is/, () => tokenizer.token(id));
      expectError('range', /token id is/, () => tokenizer.stream().push(id));
    }
  });
});
