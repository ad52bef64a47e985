import { answer, checkSetting, joinTexts, linesAmidFiller, text } from './pieces.ts';
import type { Draw, Exercise, Settings, Skill } from './skill.ts';
import { adjectives, nouns } from './words.ts';

/**
 * A list of "key: value" lines, then keys whose values are asked for.
 * - `pairs` lines, all different in keys and values
 * - `questions` each for another pair
 * - `blocks` of lines amid filler, no more than there are lines; 0: one list and no filler
 */
const settings = { pairs: 32, questions: 1, blocks: 0 };

/** Above this many pairs the single words would run out. */
const singleWordPairs = 64;

export const skill: Skill = {
  summary: 'recalls the values of keys from a list',
  settings,
  vary: (draw) => {
    const pairs = Math.round(2 * 32 ** draw.uniform());
    const blocks = draw.uniform() < 0.6 ? 0 : draw.int(1, 4);
    return { pairs, questions: draw.int(1, pairs), blocks };
  },
  make: recall,
};

interface Pair {
  readonly key: string;
  readonly value: string;
}

function recall(draw: Draw, chosen: Settings): Exercise {
  const { pairs: count, questions, blocks } = { ...settings, ...chosen };
  checkSetting('kv-recall', 'pairs', count, 1, 1000);
  checkSetting('kv-recall', 'questions', questions, 1, count);
  checkSetting('kv-recall', 'blocks', blocks, 0, 64);
  const short = count <= singleWordPairs;
  const wordKeys = short && draw.uniform() < 0.5;
  const wordValues = short && draw.uniform() < 0.5;
  const pairs = drawPairs(draw, count, wordKeys, wordValues);
  const lines = pairs.map(({ key, value }) => `${key}: ${value}`);
  return {
    pieces: joinTexts([
      ...linesAmidFiller(draw, lines, blocks),
      text('\n'),
      ...draw
        .sample(pairs, questions)
        .flatMap(({ key, value }) => [text(`${key}:`), answer(` ${value}`), text('\n')]),
    ]),
    judge: { kind: 'exact', stop: '\n' },
    chance: 1 / (wordValues ? nouns.length : 9000),
  };
}

function drawPairs(draw: Draw, count: number, wordKeys: boolean, wordValues: boolean): Pair[] {
  const pairs: Pair[] = [];
  const taken = new Set<string>();
  while (pairs.length < count) {
    const pair = draw.fresh(
      () => ({
        key: wordKeys ? draw.pick(nouns) : `${draw.pick(adjectives)} ${draw.pick(nouns)}`,
        value: wordValues ? draw.pick(nouns) : String(draw.int(1000, 9999)),
      }),
      ({ key, value }) => `kv-recall ${key}: ${value}`,
    );
    if (taken.has(pair.key) || taken.has(pair.value) || pair.key === pair.value) continue;
    taken.add(pair.key).add(pair.value);
    pairs.push(pair);
  }
  return pairs;
}
