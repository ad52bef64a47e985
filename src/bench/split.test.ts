import { expect, test } from 'vitest';
import { splitOf } from './split.ts';

test('the parts of a token add up to it', () => {
  // 60 MB at 20 GB/s are 3 ms.
  const split = splitOf({ tokenMs: 20, attendMs: 8, cacheBytes: 60e6 }, 20);
  expect(split).toEqual({ tokenMs: 20, cacheLoadMs: 3, attentionMs: 5, restMs: 12 });
});

test('no part is longer than what it is part of', () => {
  const fast = splitOf({ tokenMs: 20, attendMs: 2, cacheBytes: 60e6 }, 20);
  expect(fast).toEqual({ tokenMs: 20, cacheLoadMs: 2, attentionMs: 0, restMs: 18 });
  const noisy = splitOf({ tokenMs: 2, attendMs: 3, cacheBytes: 20e6 }, 20);
  expect(noisy).toEqual({ tokenMs: 2, cacheLoadMs: 1, attentionMs: 1, restMs: 0 });
});
