import { amidFiller, answer, checkSetting, joinTexts, placeAt, text } from './pieces.ts';
import type { Draw, Exercise, Settings, Skill } from './skill.ts';
import { adjectives, nouns, verbs } from './words.ts';

/**
 * A passage of made-up text, and its first words again much later; the rest is to be repeated.
 * - `words` in the passage
 * - `cue` of these that are given again
 * - `depth` where the passage stands: 0 (start) to 1 (end), -1 random
 */
const settings = { words: 16, cue: 3, depth: -1 };

export const skill: Skill = {
  summary: 'repeats a passage from its first words',
  settings,
  vary: (draw) => ({ words: draw.int(8, 80), cue: draw.int(2, 5), depth: -1 }),
  make: repeat,
};

function repeat(draw: Draw, chosen: Settings): Exercise {
  const { words: count, cue, depth } = { ...settings, ...chosen };
  checkSetting('copy', 'words', count, 3, 1000);
  checkSetting('copy', 'cue', cue, 2, count - 1);
  const words = draw.fresh(
    () => writePassage(draw, count, cue),
    (passage) => `copy ${passage.join(' ')}`,
  );
  return {
    pieces: joinTexts([
      ...amidFiller([
        { depth: placeAt(draw, 'copy', depth), piece: text(`\n${words.join(' ')}\n`) },
      ]),
      text(`\n${words.slice(0, cue).join(' ')}`),
      answer(` ${words.slice(cue).join(' ')}`),
      text('\n'),
    ]),
    judge: { kind: 'exact', stop: '\n' },
    chance: 0,
  };
}

/** Its first `cue` words do not come again in it, so that they have one continuation. */
function writePassage(draw: Draw, count: number, cue: number): string[] {
  const write = draw.pick([randomWords, randomDigits, shortSentences]);
  for (;;) {
    const words = write(draw, count);
    const recurs = words.some((_, i) => i > 0 && startsAt(words, i, cue));
    if (!recurs) return words;
  }
}

function startsAt(words: readonly string[], at: number, cue: number): boolean {
  return words.slice(0, cue).every((word, i) => words[at + i] === word);
}

function randomWords(draw: Draw, count: number): string[] {
  const any = [nouns, adjectives, verbs];
  return Array.from({ length: count }, () => draw.pick(draw.pick(any)));
}

function randomDigits(draw: Draw, count: number): string[] {
  const digits = draw.int(2, 5);
  return Array.from({ length: count }, () =>
    String(draw.int(0, 10 ** digits - 1)).padStart(digits, '0'),
  );
}

/** Sentences such as "The old fox found her red boat.", the last one cut where the words are full. */
function shortSentences(draw: Draw, count: number): string[] {
  const words: string[] = [];
  while (words.length < count) {
    const object = [draw.pick(['his', 'her', 'the']), ...drawThing(draw)];
    words.push('The', ...drawThing(draw), draw.pick(verbs), ...object);
    words[words.length - 1] += '.';
  }
  return words.slice(0, count);
}

function drawThing(draw: Draw): string[] {
  return draw.uniform() < 0.5 ? [draw.pick(nouns)] : [draw.pick(adjectives), draw.pick(nouns)];
}
