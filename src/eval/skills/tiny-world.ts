/** Four-choice questions without a context, about the facts of the closed world. */
import { fourChoices, judgedByLetter } from './four-choices.ts';
import { answer, checkSetting, joinTexts, text } from './pieces.ts';
import type { Draw, Exercise, Piece, Settings, Skill } from './skill.ts';
import { topics } from './world.ts';

interface Asked {
  readonly question: string;
  readonly right: string;
  readonly options: readonly string[];
}

function drawQuestion(draw: Draw): Asked {
  const topic = draw.pick(topics);
  const [subject, right] = draw.pick(topic.facts);
  const values = new Set(topic.facts.map(([, value]) => value));
  values.delete(right);
  return {
    question: draw.pick(topic.questions)(subject),
    right,
    options: [right, ...draw.sample([...values], 3)],
  };
}

/**
 * A fact for the model to learn. Every fact belongs to training: only questions are held out.
 * @returns a sentence, or a question with its plain answer; its value is the answer
 */
function drawStatement(draw: Draw): Piece[] {
  const topic = draw.pick(topics);
  const [subject, value] = draw.pick(topic.facts);
  const begin = draw.pick([...topic.statements, ...topic.questions])(subject);
  return [text(begin), answer(` ${value}.`), text('\n')];
}

function make(draw: Draw, chosen: Settings): Exercise {
  const { statements, questions } = { ...settings, ...chosen };
  checkSetting('tiny-world', 'statements', statements, 0, 1000);
  checkSetting('tiny-world', 'questions', questions, 1, 1000);
  const pieces: Piece[] = [];
  for (let i = 0; i < statements; i++) pieces.push(...drawStatement(draw));
  if (statements > 0) pieces.push(text('\n'));
  for (let i = 0; i < questions; i++) {
    const { question, right, options } = draw.fresh(
      () => drawQuestion(draw),
      (asked) => ['tiny-world', asked.question, ...[...asked.options].sort()].join('|'),
    );
    pieces.push(...fourChoices(draw, question, right, options));
  }
  return { pieces: joinTexts(pieces), ...judgedByLetter };
}

/** `statements` to learn facts from, then `questions` */
const settings = { statements: 0, questions: 1 };

export const skill: Skill = {
  summary: 'four-choice questions about a made-up world, whose facts are in the training',
  settings,
  vary: (draw) =>
    draw.uniform() < 0.5
      ? { statements: draw.int(4, 16), questions: 1 }
      : { statements: 0, questions: draw.int(1, 8) },
  make,
};
