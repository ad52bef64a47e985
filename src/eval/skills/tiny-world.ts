/** Four-choice questions without a context, about the facts of the closed world. */
import { formSettings, fourChoices, isCloze, varyForm, type FourChoices } from './four-choices.ts';
import { answer, checkSetting, joinTexts, text } from './pieces.ts';
import type { Draw, Exercise, Piece, Settings, Skill } from './skill.ts';
import { topics } from './world.ts';

function drawQuestion(draw: Draw): FourChoices {
  const topic = draw.pick(topics);
  const [subject, right] = draw.pick(topic.facts);
  const values = new Set(topic.facts.map(([, value]) => value));
  values.delete(right);
  return {
    question: draw.pick(topic.questions)(subject),
    right,
    options: [right, ...draw.sample([...values], 3)],
    reason: draw.pick(topic.statements)(subject),
  };
}

/**
 * A fact for the model to learn, in one of its wordings. Every fact belongs to training: only some
 * wordings of it are held out.
 * @returns a sentence, or a question with its plain answer; its value is the answer
 */
function drawStatement(draw: Draw): Piece[] {
  const [begin, value] = draw.fresh(
    () => {
      const topic = draw.pick(topics);
      const [subject, value] = draw.pick(topic.facts);
      return [draw.pick([...topic.statements, ...topic.questions])(subject), value];
    },
    ([begin]) => wordingKey(begin),
  );
  return [text(begin), answer(` ${value}.`), text('\n')];
}

const wordingKey = (begin: string) => `tiny-world|${begin}`;

/** Where options are not shown, a question is the whole instance. */
function questionKey({ question, options }: FourChoices, form: number): string {
  return isCloze(form)
    ? wordingKey(question)
    : ['tiny-world', question, ...[...options].sort()].join('|');
}

function make(draw: Draw, chosen: Settings): Exercise {
  const { statements, questions, form } = { ...settings, ...chosen };
  checkSetting('tiny-world', 'statements', statements, 0, 1000);
  checkSetting('tiny-world', 'questions', questions, 1, 1000);
  const pieces: Piece[] = [];
  for (let i = 0; i < statements; i++) pieces.push(...drawStatement(draw));
  if (statements > 0) pieces.push(text('\n'));
  const asked = Array.from({ length: questions }, () =>
    draw.fresh(
      () => drawQuestion(draw),
      (one) => questionKey(one, form),
    ),
  );
  const made = fourChoices(draw, 'tiny-world', asked, form);
  return { ...made, pieces: joinTexts([...pieces, ...made.pieces]) };
}

/** `statements` to learn facts from, then `questions` */
const settings = { statements: 0, questions: 1, ...formSettings };

export const skill: Skill = {
  summary: 'four-choice questions about a made-up world, whose facts are in the training',
  settings,
  vary: (draw) => ({
    ...(draw.uniform() < 0.5
      ? { statements: draw.int(4, 16), questions: 1 }
      : { statements: 0, questions: draw.int(1, 8) }),
    ...varyForm(draw),
  }),
  make,
};
