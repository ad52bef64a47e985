import { afterAll, beforeAll, expect, test } from 'vitest';
import { forgeModel } from '../../test/forged.ts';
import { Random } from '../math/random.ts';
import type { Model } from '../model/model.ts';
import { Prose } from './prose.ts';

let model: Model;
beforeAll(async () => {
  model = await forgeModel();
});
afterAll(() => model.dispose());

const paragraph = (i: number) => `${i}. ${'the cat sat on the mat '.repeat(1 + (i % 4))}.`;
const paragraphs = Array.from({ length: 30 }, (_, i) => paragraph(i));
const texts = [{ name: 'a', text: paragraphs.join('\n\n') }];
const tokens = (text: string) => model.tokenizer.encode(text, { addBos: false }).length;

test('whole paragraphs fill the room, by shares, in the order of the text', () => {
  const prose = new Prose(model.tokenizer, texts, false);
  for (let seed = 0; seed < 20; seed++) {
    const fillers = prose.fill(new Random(seed), 600, [0.25, 0, 0.75]);
    expect(fillers[1]).toBe('');
    const parts = fillers.map((filler) => filler.split('\n\n').filter((part) => part !== ''));
    for (const part of parts.flat()) expect(paragraphs).toContain(part);
    const sizes = fillers.map(tokens);
    expect(sizes[0]).toBeLessThanOrEqual(150);
    expect(sizes[0] + sizes[2]).toBeLessThanOrEqual(600);
    expect(sizes[0]).toBeGreaterThan(100);
    expect(sizes[0] + sizes[2]).toBeGreaterThan(550);
    const places = parts.flat().map((part) => paragraphs.indexOf(part));
    expect(new Set(places).size).toBe(places.length);
    const first = places[0];
    expect(places).toEqual(
      [...places].sort((a, b) => ((a - first + 30) % 30) - ((b - first + 30) % 30)),
    );
  }
});

test('shuffled, every paragraph comes before one comes again', () => {
  const short = Array.from({ length: 6 }, (_, i) => `${i} cats`);
  const prose = new Prose(model.tokenizer, [{ name: 'a', text: short.join('\n\n') }], true);
  const fill = (seed: number) => prose.fill(new Random(seed), 150, [1])[0].split('\n\n');
  const parts = fill(1);
  expect(parts.length).toBeGreaterThan(12);
  for (const at of [0, 6]) expect([...parts.slice(at, at + 6)].sort()).toEqual(short);
  expect(fill(1)).toEqual(parts);
  expect(fill(2)).not.toEqual(parts);
});

test('a paragraph that spells a control token is never used', () => {
  const bos = model.tokenizer.token(model.tokenizer.bosId ?? 0);
  const bad = { name: 'b', text: `good cats\n\nevil ${bos} cats\n\n\n  \nother cats` };
  expect(tokens(bos)).toBeGreaterThan(1);
  const [filler] = new Prose(model.tokenizer, [bad], false).fill(new Random(1), 300, [1]);
  expect(new Set(filler.split('\n\n'))).toEqual(new Set(['good cats', 'other cats']));
});

test('no room, or nothing to fill it with, leaves it empty', () => {
  const fill = (room: number, from = texts) =>
    new Prose(model.tokenizer, from, false).fill(new Random(1), room, [0.5, 0.5]);
  expect(fill(-5)).toEqual(['', '']);
  expect(fill(3)).toEqual(['', '']);
  expect(fill(100, [{ name: 'e', text: ' \n\n ' }])).toEqual(['', '']);
});
