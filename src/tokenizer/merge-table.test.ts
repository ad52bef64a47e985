import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MergeTable } from './merge-table.ts';

const vocabSize = 6;
const token = fc.nat(vocabSize - 1);

test('a merge has the rank of its first place in the list, and no other has one', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(token, token), { maxLength: 40 }), (merges) => {
      const [lefts, rights] = [0, 1].map((side) => Int32Array.from(merges, (pair) => pair[side]));
      const table = new MergeTable(lefts, rights, vocabSize);
      for (let left = 0; left < vocabSize; left++) {
        for (let right = 0; right < vocabSize; right++) {
          const first = merges.findIndex((pair) => pair[0] === left && pair[1] === right);
          expect(table.rank(left, right)).toBe(first < 0 ? undefined : first);
        }
      }
    }),
  );
});
