import fc from 'fast-check';
import { expect, test } from 'vitest';
import { joinSources } from './joined-source.ts';
import { memorySource } from './source.ts';

const join = (parts: readonly Uint8Array[]) =>
  joinSources(
    parts.map((part, i) => memorySource(part, `part ${i}`)),
    'all',
  );

test('any range of joined sources is that range of their bytes', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 9 }), { maxLength: 6 }),
      fc.nat(60),
      fc.nat(60),
      async (parts, a, b) => {
        const { source, starts } = join(parts);
        const bytes = Buffer.concat(parts);
        expect(source.sizeBytes).toBe(bytes.length);
        parts.forEach((part, i) => {
          expect([...bytes.subarray(starts[i], starts[i] + part.length)]).toEqual([...part]);
        });
        const [from, to] = [Math.min(a, b, bytes.length), Math.min(Math.max(a, b), bytes.length)];
        const target = new Uint8Array(to - from).fill(255);
        await source.read(from, target);
        expect([...target]).toEqual([...bytes.subarray(from, to)]);
      },
    ),
  );
});

test('reading past the end is refused, and closing closes every part', async () => {
  const closed: number[] = [];
  const parts = [0, 1].map((i) => ({
    ...memorySource(new Uint8Array(4), `part ${i}`),
    close: async () => void closed.push(i),
  }));
  const { source } = joinSources(parts, 'all');
  await expect(source.read(6, new Uint8Array(3))).rejects.toMatchObject({
    code: 'format',
    message: expect.stringContaining('all: bytes 6 to 9 were asked for; it has 8'),
  });
  await source.close();
  expect(closed).toEqual([0, 1]);
});
