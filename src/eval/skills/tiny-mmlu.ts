/** Four-choice questions about a context of facts, in the format of MMLU (arXiv:2009.03300). */
import { formSettings, fourChoices, varyForm, type FourChoices } from './four-choices.ts';
import { people, phrases } from './people-and-things.ts';
import { checkSetting, joinTexts, linesAmidFiller, text } from './pieces.ts';
import type { Draw, Exercise, Settings, Skill } from './skill.ts';

/** A kind of fact; `value` is one of its phrases, `name` a person's. */
interface Relation {
  value(draw: Draw): string;
  /** stands between name and value */
  readonly verb: string;
  ask(name: string): string;
}

interface Fact {
  readonly name: string;
  readonly value: string;
  readonly relation: Relation;
}

const relations: readonly Relation[] = [
  { value: phrases.animal, verb: 'keeps', ask: (name) => `What does ${name} keep?` },
  { value: phrases.garment, verb: 'wears', ask: (name) => `What does ${name} wear?` },
  { value: phrases.belonging, verb: 'carries', ask: (name) => `What does ${name} carry?` },
  { value: phrases.meal, verb: 'likes to eat', ask: (name) => `What does ${name} like to eat?` },
  { value: phrases.address, verb: 'lives at', ask: (name) => `Where does ${name} live?` },
  { value: phrases.journey, verb: 'will go', ask: (name) => `Where and when will ${name} go?` },
  { value: phrases.birth, verb: 'was born', ask: (name) => `When was ${name} born?` },
];

/** Facts of one relation are asked about four at a time: the right one and three others. */
const group = 4;

/** Adds `count` facts of one relation about different people. */
function drawFacts(
  draw: Draw,
  relation: Relation,
  names: readonly string[],
  count: number,
): Fact[] {
  const facts: Fact[] = [];
  for (const name of draw.sample(names, count)) {
    const used = new Set(facts.map(({ value }) => value));
    facts.push(
      draw.fresh(() => {
        let value = relation.value(draw);
        while (used.has(value)) value = relation.value(draw);
        return { name, value, relation };
      }, statement),
    );
  }
  return facts;
}

const statement = ({ name, value, relation: { verb } }: Fact) => `${name} ${verb} ${value}.`;

function ask(draw: Draw, { name, value, relation }: Fact, four: readonly Fact[]): FourChoices {
  const { verb } = relation;
  return draw.uniform() < 0.7
    ? {
        question: relation.ask(name),
        right: value,
        options: four.map((other) => other.value),
        reason: `${name} ${verb}`,
      }
    : {
        question: `Who ${verb} ${value}?`,
        right: name,
        options: four.map((other) => other.name),
        reason: `The one who ${verb} ${value} is`,
      };
}

function make(draw: Draw, chosen: Settings): Exercise {
  const { facts, questions, blocks, form } = { ...settings, ...chosen };
  checkSetting('tiny-mmlu', 'facts', facts, group, group * relations.length);
  checkSetting('tiny-mmlu', 'questions', questions, 1, facts - (facts % group));
  checkSetting('tiny-mmlu', 'blocks', blocks, 0, facts);
  const full = Math.floor(facts / group);
  const kinds = draw.sample(relations, Math.ceil(facts / group));
  // As few people as fit: most have facts of several kinds, so the name alone does not answer.
  const names = draw.sample(
    people.map(({ name }) => name),
    group + Math.floor(full / 2),
  );
  const groups = kinds.map((relation, i) =>
    drawFacts(draw, relation, names, i < full ? group : facts % group),
  );
  const lines = groups.flat().map(statement);
  const askable = groups.slice(0, full).flatMap((four) => four.map((fact) => ({ fact, four })));
  const context = linesAmidFiller(draw, draw.shuffle(lines), blocks);
  const asked = draw.sample(askable, questions).map(({ fact, four }) => ask(draw, fact, four));
  const made = fourChoices(draw, 'tiny-mmlu', asked, form);
  return { ...made, pieces: joinTexts([...context, text('\n'), ...made.pieces]) };
}

/**
 * - `facts` in the context, 4 to 28; asked about are those whose kind has four
 * - `questions` each about another fact
 * - `blocks` of facts amid filler; 0: one list and no filler
 */
const settings = { facts: 6, questions: 1, blocks: 0, ...formSettings };

export const skill: Skill = {
  summary: 'four-choice questions about people in a context, in the format of MMLU',
  settings,
  vary: (draw) => {
    const facts = draw.int(4, draw.pick([6, 12, 24]));
    return {
      facts,
      questions: draw.int(1, Math.min(facts - (facts % group), 8)),
      blocks: draw.uniform() < 0.7 ? 0 : draw.int(1, 3),
      ...varyForm(draw),
    };
  },
  make,
};
