/** Four-choice questions, for the skills that ask them, in three forms that the field knows. */
import { answer, checkSetting, text } from './pieces.ts';
import type { Draw, Exercise, Judge, Piece, Settings } from './skill.ts';

const letters = ['A', 'B', 'C', 'D'] as const;

export interface FourChoices {
  readonly question: string;
  readonly right: string;
  /** four different texts, `right` among them, in any order */
  readonly options: readonly string[];
  /** beginning of a sentence that ` ${right}` completes: the step that leads to the answer */
  readonly reason: string;
}

interface Form {
  ask(draw: Draw, asked: FourChoices): Piece[];
  judge(asked: FourChoices): Judge;
}

const letterChoices: Judge = {
  kind: 'choices',
  choices: letters.map((letter) => ` ${letter}`),
};

/** The options with their letters, in random order, and the letter of the right one. */
function list(draw: Draw, { right, options }: FourChoices) {
  const order = draw.shuffle(options);
  const lines = order.map((option, i) => `${letters[i]}. ${option}\n`).join('');
  return { lines, letter: letters[order.indexOf(right)] };
}

/** The likeliest of the four letters counts, as MMLU has it. */
const lettered: Form = {
  ask(draw, asked) {
    const { lines, letter } = list(draw, asked);
    return [
      text(`Question: ${asked.question}\n${lines}Answer:`),
      answer(` ${letter}`),
      text('\n\n'),
    ];
  },
  judge: () => letterChoices,
};

/**
 * The model writes the fact that decides, then the letter: a chain of thought, under the words that ask
 * for one (Kojima et al. 2022, arXiv:2205.11916).
 */
const steps: Form = {
  ask(draw, asked) {
    const { lines, letter } = list(draw, asked);
    return [
      text(`Question: ${asked.question}\n${lines}Answer: Let's think step by step.\n`),
      answer(`${asked.reason} ${asked.right}: ${letter}\n\n`),
    ];
  },
  judge: () => ({ kind: 'last-letter', stop: '\n\n' }),
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
  judge: ({ options }) => ({ kind: 'choices', choices: options.map(completion) }),
};

function completion(option: string): string {
  return ` ${option}\n\n`;
}

const forms = [lettered, cloze, steps] as const;

/** What every skill of four choices can be set to. `form`: 0 letters, 1 completion, 2 steps before the letter */
export const formSettings = { form: 2 };

/** Letters alone and completions are learnt from steps, so half are those. */
export function varyForm(draw: Draw): Settings {
  return { form: draw.pick([0, 1, 2, 2]) };
}

/** Whether only the question is shown, not the options. */
export function isCloze(form: number): boolean {
  return forms[form] === cloze;
}

/**
 * Questions one after another; the last one is judged.
 * @throws KvError "range" if `form` is not 0, 1 or 2
 */
export function fourChoices(
  draw: Draw,
  skill: string,
  asked: readonly FourChoices[],
  wanted: number,
): Exercise {
  checkSetting(skill, 'form', wanted, 0, forms.length - 1);
  const form = forms[wanted];
  return {
    pieces: asked.flatMap((one) => form.ask(draw, one)),
    judge: form.judge(asked[asked.length - 1]),
    chance: 1 / letters.length,
  };
}
