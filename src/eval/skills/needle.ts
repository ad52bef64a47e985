import {
  amidFiller,
  answer,
  checkSetting,
  joinTexts,
  placeAt,
  text,
  type Placed,
} from './pieces.ts';
import type { Draw, Exercise, Settings, Skill } from './skill.ts';
import { adjectives, animals, colours, flowers, foods, jobs, names, places } from './words.ts';

/**
 * Facts about people, scattered in a long text and asked for (after Kamradt 2023 and RULER,
 * arXiv:2404.06654; the facts that are not asked for are distractors).
 * - `needles` facts, all different in who or what, and in their values
 * - `questions` at the end, each about another fact
 * - `depth` where the fact asked for last stands: 0 (start) to 1 (end), -1 random
 * - `early` 1: all questions but the last stand anywhere after their facts
 */
const settings = { needles: 1, questions: 1, depth: -1, early: 0 };

interface Needle {
  readonly kind: Kind;
  readonly subject: string;
  readonly value: string;
}

interface Kind {
  /** ends just before the value */
  readonly statement: (subject: string) => string;
  readonly question: (subject: string) => string;
  readonly values: readonly string[];
}

const numbers = Array.from({ length: 9000 }, (_, i) => String(1000 + i));

const kinds: readonly Kind[] = [
  ofSubject('secret number', 'is', numbers),
  ofSubject('house number', 'is', numbers),
  ofSubject('favourite flower', 'is the', flowers),
  ofSubject('favourite animal', 'is the', animals),
  ofSubject('favourite colour', 'is', colours),
  ofSubject('favourite food', 'is', foods),
  ofSubject('birthplace', 'is', places),
  {
    statement: (subject) => `${capital(subject)} now lives in`,
    question: (subject) => `Where does ${subject} live?`,
    values: places,
  },
];

export const skill: Skill = {
  summary: 'finds facts about people in a long text',
  settings,
  vary: (draw) => {
    const needles = draw.int(1, 8);
    return { needles, questions: draw.int(1, needles), depth: -1, early: draw.int(0, 1) };
  },
  make: search,
};

function search(draw: Draw, chosen: Settings): Exercise {
  const { needles, questions, depth, early } = { ...settings, ...chosen };
  checkSetting('needle', 'needles', needles, 1, 64);
  checkSetting('needle', 'questions', questions, 1, needles);
  checkSetting('needle', 'early', early, 0, 1);
  const facts = drawNeedles(draw, needles);
  const order = draw.shuffle(facts.map((_, i) => i)).slice(0, questions);
  const last = order[questions - 1];
  const depths = facts.map(() => draw.uniform());
  depths[last] = placeAt(draw, 'needle', depth);

  const placed: Placed[] = facts.map((fact, i) => ({
    depth: depths[i],
    piece: text(`\n${fact.kind.statement(fact.subject)} ${fact.value}.\n`),
  }));
  for (const i of order) {
    const at = early === 1 && i !== last ? depths[i] + draw.uniform() * (1 - depths[i]) : 1;
    const { kind, subject, value } = facts[i];
    placed.push(
      { depth: at, piece: text(`\n${kind.question(subject)} ${kind.statement(subject)}`) },
      { depth: at, piece: answer(` ${value}`) },
      { depth: at, piece: text('.\n') },
    );
  }
  return {
    pieces: joinTexts(amidFiller(placed)),
    judge: { kind: 'exact', stop: '.' },
    chance: 1 / facts[last].kind.values.length,
  };
}

/** Half of the time facts of one kind, so that only the subject tells them apart. */
function drawNeedles(draw: Draw, count: number): Needle[] {
  const only = draw.uniform() < 0.5 ? draw.pick(kinds) : undefined;
  const allowed = only && only.values.length > 2 * count ? [only] : kinds;
  const needles: Needle[] = [];
  const taken = new Set<string>();
  while (needles.length < count) {
    const needle = draw.fresh(
      () => {
        const kind = draw.pick(allowed);
        return { kind, subject: drawSubject(draw), value: draw.pick(kind.values) };
      },
      ({ kind, subject, value }) => `needle ${kind.statement(subject)} ${value}`,
    );
    const what = needle.kind.statement(needle.subject);
    if (taken.has(what) || taken.has(needle.value)) continue;
    taken.add(what).add(needle.value);
    needles.push(needle);
  }
  return needles;
}

function drawSubject(draw: Draw): string {
  return draw.uniform() < 0.5
    ? draw.pick(names)
    : `the ${draw.pick(adjectives)} ${draw.pick(jobs)}`;
}

function ofSubject(what: string, verb: string, values: readonly string[]): Kind {
  return {
    statement: (subject) => `The ${what} of ${subject} ${verb}`,
    question: (subject) => `What is the ${what} of ${subject}?`,
    values,
  };
}

function capital(subject: string): string {
  return subject[0].toUpperCase() + subject.slice(1);
}
