/** The form of a four-choice question, shared by the skills that ask one. */
import { answer, text } from './pieces.ts';
import type { Draw, Exercise, Piece } from './skill.ts';

const letters = ['A', 'B', 'C', 'D'] as const;

/** The judge of an exercise that ends in a four-choice question. */
export const judgedByLetter: Pick<Exercise, 'judge' | 'chance'> = {
  judge: { kind: 'choices', choices: letters.map((letter) => ` ${letter}`) },
  chance: 1 / letters.length,
};

/**
 * A question, its options in random order and the letter of the right one.
 * @param options four different texts, `right` among them, in any order
 */
export function fourChoices(
  draw: Draw,
  question: string,
  right: string,
  options: readonly string[],
): Piece[] {
  const order = draw.shuffle(options);
  const lines = order.map((option, i) => `${letters[i]}. ${option}\n`).join('');
  return [
    text(`Question: ${question}\n${lines}Answer:`),
    answer(` ${letters[order.indexOf(right)]}`),
    text('\n\n'),
  ];
}
