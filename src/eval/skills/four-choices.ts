/** Four-choice questions, for the skills that ask them, in the two forms that the field knows. */
import { answer, checkSetting, text } from './pieces.ts';
import type { Draw, Exercise, Piece, Settings } from './skill.ts';

const letters = ['A', 'B', 'C', 'D'] as const;

export interface FourChoices {
  readonly question: string;
  readonly right: string;
  /** four different texts, `right` among them, in any order */
  readonly options: readonly string[];
}

/** With options and letters as MMLU has it, or without (`cloze`). */
interface Form {
  ask(draw: Draw, asked: FourChoices): Piece[];
  choices(options: readonly string[]): string[];
}

const lettered: Form = {
  ask(draw, { question, right, options }) {
    const order = draw.shuffle(options);
    const lines = order.map((option, i) => `${letters[i]}. ${option}\n`).join('');
    return [
      text(`Question: ${question}\n${lines}Answer:`),
      answer(` ${letters[order.indexOf(right)]}`),
      text('\n\n'),
    ];
  },
  choices: () => letters.map((letter) => ` ${letter}`),
};

/**
 * The options are not shown, and the likeliest of their texts counts: the completion formulation of
 * OLMES (Gu et al. 2024, arXiv:2406.08446), which models too small for letters can follow.
 */
const cloze: Form = {
  ask: (_draw, { question, right }) => [
    text(`Question: ${question}\nAnswer:`),
    answer(completion(right)),
  ],
  choices: (options) => options.map(completion),
};

function completion(option: string): string {
  return ` ${option}\n\n`;
}

/** What every skill of four choices can be set to. `cloze`: 1 for the completion formulation */
export const formSettings = { cloze: 0 };

export function varyForm(draw: Draw): Settings {
  return { cloze: draw.int(0, 1) };
}

/**
 * Questions one after another; the last one is judged.
 * @throws KvError "range" if `cloze` is neither 0 nor 1
 */
export function fourChoices(
  draw: Draw,
  skill: string,
  asked: readonly FourChoices[],
  wanted: number,
): Exercise {
  checkSetting(skill, 'cloze', wanted, 0, 1);
  const form = wanted === 1 ? cloze : lettered;
  return {
    pieces: asked.flatMap((one) => form.ask(draw, one)),
    judge: { kind: 'choices', choices: form.choices(asked[asked.length - 1].options) },
    chance: 1 / letters.length,
  };
}
