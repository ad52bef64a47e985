import { expect, test } from 'vitest';
import { bestRound, memoryReadSpeed } from './memory-speed-node.ts';

test('memory is read faster than any disk and slower than any cache', async () => {
  const speed = await memoryReadSpeed(1);
  expect(speed).toBeGreaterThan(0.2);
  expect(speed).toBeLessThan(2000);
});

test('threads that read at different times do not add up', () => {
  // Ten bytes each: together within 10 ns, or one after the other, as where they share a core.
  const together = [[[0n, 10n]], [[0n, 10n]]] as const;
  const apart = [[[0n, 10n]], [[10n, 20n]]] as const;
  expect(bestRound([...together.map((t) => [...t])], 10)).toBe(2);
  expect(bestRound([...apart.map((t) => [...t])], 10)).toBe(1);
});
