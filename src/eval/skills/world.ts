/** A small closed world, made up from a constant seed: the same 24 towns and 13 inventions always. */
import { Random } from '../../math/random.ts';

export interface Town {
  readonly name: string;
  readonly river: string;
  readonly ruler: string;
  readonly trade: string;
  readonly colour: string;
}

export interface Invention {
  readonly name: string;
  readonly inventor: string;
}

const worldSeed = 4817;
const townCount = 24;

const townStarts = (
  'Alder Ash Birch Black Bram Bright Crow Dun East Elm Fern Grey Hart Haze Iron Kings Lang Marl ' +
  'Mist North Oak Raven Red Salt Silver Stone Swan Thorn West White Wind Wolf'
).split(' ');
const townEnds = 'moor ford bridge field ham ley mere ton wick stead port gate'.split(' ');
const riverStarts =
  'Al Bel Cal Dor El Fen Gar Hol Is Ken Lo Mar Nor Or Pel Ros Sel Tam Ul Wen'.split(' ');
const riverEnds = 'da der don go la len mer na ra ren sel ver win'.split(' ');
const titles = 'King Queen Duke Lady Lord Prince'.split(' ');
const rulerStarts = 'Ar Bra Cor Da Ed Fa Gal Har Il Jo Ka Lu Mor Nel Os Per Ro Sa Tor Ves'.split(
  ' ',
);
const rulerEnds = 'bert dan dric fin gan len lin mond nor ric ris ron vin wen'.split(' ');
const trades = (
  'glass wool salt bread boats clocks paper candles bells cheese leather rope honey silver wine ' +
  'swords carpets pottery hats furs lamps drums pearls tea'
).split(' ');
const colours = 'red blue green white black yellow grey gold silver purple brown orange'.split(' ');
const kinds =
  'wind water steam singing folding glass iron paper flying silent walking night two-way'.split(
    ' ',
  );
const machines = 'clock lamp bridge pump mill bell boat wheel organ plough lock kite mirror'.split(
  ' ',
);
const inventorNames =
  'Tobin Marla Jory Edda Corwin Sella Barnaby Lettice Osric Wilma Dunstan Petra Ansel'.split(' ');
const inventorEnds = 'Ashgrove Blackwell Carraway Dunmore Eastlake Fairchild Greenhow'.split(' ');

function shuffled<T>(random: Random, from: readonly T[]): T[] {
  const left = [...from];
  return from.map(() => left.splice(Math.floor(random.uniform() * left.length), 1)[0]);
}

/** `count` different joins of a start and an end, in random order. */
function joins(
  random: Random,
  [starts, ends]: readonly [readonly string[], readonly string[]],
  count: number,
  between = '',
): string[] {
  const all = starts.flatMap((start) => ends.map((end) => start + between + end));
  return shuffled(random, all).slice(0, count);
}

/** `count` elements, each of `from` as often as the others, in random order. */
function evenly<T>(random: Random, from: readonly T[], count: number): T[] {
  return shuffled(
    random,
    Array.from({ length: count }, (_, i) => from[i % from.length]),
  );
}

function createWorld(): { towns: readonly Town[]; inventions: readonly Invention[] } {
  const random = new Random(worldSeed);
  const names = joins(random, [townStarts, townEnds], townCount);
  const rivers = joins(random, [riverStarts, riverEnds], townCount);
  const rulers = joins(random, [rulerStarts, rulerEnds], townCount);
  const title = evenly(random, titles, townCount);
  const trade = evenly(random, trades, townCount);
  const colour = evenly(random, colours, townCount);
  const towns = names.map((name, i) => ({
    name,
    river: `the ${rivers[i]}`,
    ruler: `${title[i]} ${rulers[i]}`,
    trade: trade[i],
    colour: colour[i],
  }));
  const inventions = joins(random, [kinds, machines], inventorNames.length, ' ');
  const ends = evenly(random, inventorEnds, inventorNames.length);
  return {
    towns,
    inventions: inventorNames.map((inventor, i) => ({
      name: `the ${inventions[i]}`,
      inventor: `${inventor} ${ends[i]}`,
    })),
  };
}

export const { towns, inventions } = createWorld();

/**
 * What can be said and asked about one side of the world. `subject` and `value` go into the texts;
 * statements end in the value, so that it can be learnt as an answer.
 */
export interface Topic {
  /** what is known, as [subject, value]; subjects differ, values may not */
  readonly facts: readonly (readonly [subject: string, value: string])[];
  /** beginnings of a sentence that ` value.` completes */
  readonly statements: readonly ((subject: string) => string)[];
  readonly questions: readonly ((subject: string) => string)[];
}

export const topics: readonly Topic[] = [
  {
    facts: towns.map((t) => [t.name, t.river]),
    statements: [
      (town) => `The river of ${town} is`,
      (town) => `The river that flows through ${town} is`,
      (town) => `${town} lies on`,
    ],
    questions: [
      (town) => `What is the river of ${town}?`,
      (town) => `Which river flows through ${town}?`,
      (town) => `On which river does ${town} lie?`,
    ],
  },
  {
    facts: towns.map((t) => [t.river, t.name]),
    statements: [
      (river) => `The town on ${river} is`,
      (river) => `The river ${river.slice(4)} flows through`,
    ],
    questions: [
      (river) => `Which town lies on ${river}?`,
      (river) => `Through which town does ${river} flow?`,
    ],
  },
  {
    facts: towns.map((t) => [t.name, t.ruler]),
    statements: [
      (town) => `The ruler of ${town} is`,
      (town) => `${town} is ruled by`,
      (town) => `The people of ${town} obey`,
    ],
    questions: [
      (town) => `Who rules ${town}?`,
      (town) => `Who is the ruler of ${town}?`,
      (town) => `Whom do the people of ${town} obey?`,
    ],
  },
  {
    facts: towns.map((t) => [t.ruler, t.name]),
    statements: [
      (ruler) => `${ruler} rules the town of`,
      (ruler) => `The town that ${ruler} rules is`,
    ],
    questions: [
      (ruler) => `Which town does ${ruler} rule?`,
      (ruler) => `Of which town is ${ruler} the ruler?`,
    ],
  },
  {
    facts: towns.map((t) => [t.name, t.trade]),
    statements: [
      (town) => `The trade of ${town} is`,
      (town) => `${town} is known for its`,
      (town) => `The people of ${town} sell`,
    ],
    questions: [
      (town) => `What is the trade of ${town}?`,
      (town) => `What is ${town} known for?`,
      (town) => `What do the people of ${town} sell?`,
    ],
  },
  {
    facts: towns.map((t) => [t.name, t.colour]),
    statements: [
      (town) => `The colour of ${town} is`,
      (town) => `The flag of ${town} is`,
      (town) => `The gates of ${town} are painted`,
    ],
    questions: [
      (town) => `What is the colour of ${town}?`,
      (town) => `What colour is the flag of ${town}?`,
      (town) => `What colour are the gates of ${town}?`,
    ],
  },
  {
    facts: inventions.map((i) => [i.name, i.inventor]),
    statements: [
      (thing) => `The inventor of ${thing} is`,
      (thing) => `${thing[0].toUpperCase()}${thing.slice(1)} was invented by`,
    ],
    questions: [
      (thing) => `Who invented ${thing}?`,
      (thing) => `Who is the inventor of ${thing}?`,
      (thing) => `By whom was ${thing} invented?`,
    ],
  },
  {
    facts: inventions.map((i) => [i.inventor, i.name]),
    statements: [(who) => `${who} invented`, (who) => `The invention of ${who} is`],
    questions: [(who) => `What did ${who} invent?`, (who) => `What is the invention of ${who}?`],
  },
];
