import fc from 'fast-check';
import { expect, test } from 'vitest';
import { writtenBytes } from '../bench/forge-node.ts';
import { getStrings } from './gguf-access.ts';
import { maxStringsUnpacked } from './gguf-limits.ts';
import { GgufStringList } from './gguf-string-list.ts';
import { metadataEntries, writeGguf } from './gguf-write.ts';
import { readGguf } from './gguf.ts';
import { memorySource } from './source.ts';

function listOf(strings: readonly string[]): GgufStringList {
  const list = new GgufStringList();
  for (const text of strings) list.push(text);
  return list;
}

test('strings come back as they went in, again and again', () => {
  const text = fc.string({ unit: 'binary', maxLength: 30 });
  fc.assert(
    fc.property(fc.array(text), (strings) => {
      const list = listOf(strings);
      expect(list.length).toBe(strings.length);
      expect([...list]).toEqual(strings);
      expect([...list]).toEqual(strings);
    }),
    { numRuns: 40 },
  );
});

test('strings longer than a chunk, and more of them than one holds', () => {
  const strings = [
    'é'.repeat(2 ** 20),
    '',
    ...Array.from({ length: 1000 }, (_, i) => 'x'.repeat(i * 5)),
  ];
  expect([...listOf(strings)]).toEqual(strings);
});

test('a long array of strings is read packed, and written as it was', async () => {
  const strings = Array.from({ length: maxStringsUnpacked + 1 }, (_, i) => `ü${i}`);
  const metadata = new Map([['long', { type: 'string[]', value: strings } as const]]);
  const bytes = await writtenBytes((sink) => writeGguf(sink, { metadata, tensors: [] }));
  const gguf = await readGguf(memorySource(bytes, 'test'));
  expect(gguf.metadata.get('long')).toBeInstanceOf(GgufStringList);
  // Compared whole: going through them one by one takes seconds.
  expect(getStrings(gguf, 'long').join() === strings.join()).toBe(true);
  const again = { metadata: metadataEntries(gguf), tensors: [] };
  const bytesAgain = await writtenBytes((sink) => writeGguf(sink, again));
  expect(Buffer.compare(bytesAgain, bytes)).toBe(0);
});
