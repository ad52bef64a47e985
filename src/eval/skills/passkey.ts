import { amidFiller, answer, checkSetting, joinTexts, placeAt, text } from './pieces.ts';
import type { Draw, Exercise, Settings, Skill } from './skill.ts';

/**
 * A number in a long text, asked for at the end (Mohtashami and Jaggi 2023).
 * - `digits` of the number
 * - `depth` where it stands: 0 (start) to 1 (end), -1 random
 * - `phrasing` 0 is the one of evaluation; training uses all
 */
const settings = { digits: 5, depth: -1, phrasing: 0 };

interface Phrasing {
  readonly statement: (key: string) => string;
  readonly question: string;
}

const phrasings: readonly Phrasing[] = [
  {
    statement: (key) => `The pass key is ${key}. Remember it. ${key} is the pass key.`,
    question: 'What is the pass key? The pass key is',
  },
  {
    statement: (key) => `Remember this: the number of the day is ${key}.`,
    question: 'What is the number of the day? The number of the day is',
  },
  {
    statement: (key) => `The code of the lock is ${key}. Do not forget it.`,
    question: 'What is the code of the lock? The code of the lock is',
  },
];

export const skill: Skill = {
  summary: 'finds a pass key in a long text',
  settings,
  vary: (draw) => ({
    digits: draw.int(4, 6),
    depth: -1,
    phrasing: draw.int(0, phrasings.length - 1),
  }),
  make: pass,
};

function pass(draw: Draw, asked: Settings): Exercise {
  const { digits, depth, phrasing } = { ...settings, ...asked };
  checkSetting('passkey', 'digits', digits, 3, 9);
  checkSetting('passkey', 'phrasing', phrasing, 0, phrasings.length - 1);
  const first = 10 ** (digits - 1);
  const key = draw.fresh(() => String(draw.int(first, 10 * first - 1)), passkeyInstance);
  const { statement, question } = phrasings[phrasing];
  return {
    pieces: joinTexts([
      ...amidFiller([
        { depth: placeAt(draw, 'passkey', depth), piece: text(`\n${statement(key)}\n`) },
      ]),
      text(`\n${question}`),
      answer(` ${key}`),
      text('.\n'),
    ]),
    judge: { kind: 'exact', stop: '.' },
    chance: 1 / (9 * first),
  };
}

function passkeyInstance(key: string): string {
  return `passkey ${key}`;
}
