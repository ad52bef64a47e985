import { expect, test } from 'vitest';
import { percent, shortName } from './format.ts';

test.each([
  ['wiki.test.raw', 'WikiText-2 raw, test'],
  ['wiki.valid.tokens', 'WikiText-2, valid'],
  ['wikitext-2-test.txt', 'WikiText-2, test'],
  ['ptb.test.txt', 'PTB, test'],
  ['bram-stoker_dracula.txt', 'dracula'],
  ['my.wiki.test.raw', 'my.wiki.test'],
  [`${'long'.repeat(10)}.txt`, `${'long'.repeat(5)}lon…`],
])('%s is called %s', (file, name) => {
  expect(shortName(file)).toBe(name);
});

test('a share below 0 has a minus, not a hyphen', () => {
  expect([percent(0.125), percent(-0.125, 0)]).toEqual(['12.5 %', '−13 %']);
});
