import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TokenTable } from './token-table.ts';

const text = fc.string({ unit: 'binary', maxLength: 20 });

test('tokens are found by id and by text, and nothing else is', () => {
  fc.assert(
    fc.property(fc.uniqueArray(text, { maxLength: 50 }), text, (tokens, other) => {
      const table = new TokenTable(tokens);
      expect(Array.from(tokens, (_, id) => table.at(id))).toEqual(tokens);
      for (const sought of [...tokens, other, `${other}x`]) {
        const id = sought === '' ? -1 : tokens.indexOf(sought);
        expect(table.idOf(sought)).toBe(id < 0 ? undefined : id);
      }
    }),
  );
});

test('tokens may be far longer than most, and many', () => {
  const tokens = Array.from({ length: 5000 }, (_, i) => `${'long'.repeat(i % 60)}${i}`);
  const table = new TokenTable(tokens);
  expect(tokens.map((token) => table.idOf(token))).toEqual(tokens.map((_, id) => id));
  expect(tokens.map((_, id) => table.at(id))).toEqual(tokens);
});

test('two equal tokens are refused, empty ones are not', () => {
  expect(() => new TokenTable(['a', 'b', 'a'])).toThrow(/tokens 0 and 2 are both "a"/);
  expect(new TokenTable(['', 'a', '']).idOf('')).toBeUndefined();
});
