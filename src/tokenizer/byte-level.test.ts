import { Tokenizer as Library } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { byteLevelEncoder } from './byte-level.ts';
import { preTokenizers } from './pre-tokenizers.ts';
import { readVocabulary } from './vocabulary.ts';

/** Characters that stand for the bytes of ASCII and of what of UTF-8 the texts below have. */
const symbols = ['Ġ', 'Ċ', 'č', 'ĉ', ..."abcst123'!.$", ...'ÂÃïàłħ©»¿½'];
const merges = [
  ...['a b', 'b a', 'a a', 'ab a', 'a ba', 'aa aa', 'Ġ a', 'Ġa b', 'Ġ Ġ', 'ĠĠ Ġ', 'Ċ Ċ'],
  ...["' s", '1 2', '12 3', '! !', 'Ã ©', 'Â ł', 'a b', 'c ab', 'ab c'],
];
const whole = 'cabca';
const tokens = [...new Set([...symbols, ...merges.map((m) => m.replace(' ', '')), whole])];

/** As JavaScript and Unicode disagree on which of the last three are white space. */
const unit = fc.constantFrom(..." \n\r\tabcst123'!.$é", 'cab', 'ca', '\u00a0', '\u0085', '\ufeff');
const text = fc.string({ unit, maxLength: 40 });

test.each(preTokenizers.map((pre) => [pre.names[0], pre] as const))(
  'ids with %s are those of @huggingface/tokenizers',
  (_, pre) => {
    const vocabulary = readVocabulary(new Map([['tokenizer.ggml.tokens', tokens]]));
    const encode = byteLevelEncoder(vocabulary, merges, pre);
    const splits = pre.patterns.map((Regex) => ({
      type: 'Split',
      pattern: { Regex },
      behavior: 'Isolated',
      invert: false,
    }));
    const byteLevel = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
    const library = new Library(
      {
        added_tokens: [],
        normalizer: null,
        pre_tokenizer: { type: 'Sequence', pretokenizers: [...splits, byteLevel] },
        post_processor: null,
        decoder: null,
        model: {
          type: 'BPE',
          vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
          merges: [...new Set(merges)].map((merge) => merge.split(' ')),
          ignore_merges: pre.ignoreMerges ?? false,
        },
      },
      {},
    );
    const sameIds = fc.property(text, (s) => {
      expect(encode(s)).toEqual(library.encode(s).ids);
    });
    fc.assert(sameIds, { numRuns: 1000 });
  },
);
