/** Plain words that several skills are built from, and the phrases made of two of them. */
import type { Draw } from './skill.ts';

const girls = (
  'Anna Mary Jane Emma Lucy Alice Ellen Kate Sarah Ruth Clara Rose Grace Martha Julia Helen Laura ' +
  'Nora Edith Agnes Dora Fanny Hannah Ida Lily Maggie Nelly Sophia Susan Amy'
).split(' ');
const boys = (
  'Tom John James Henry Jack George William Peter Paul David Arthur Charles Edward Frank Fred ' +
  'Hugh Joseph Luke Mark Martin Ned Oliver Philip Ralph Robert Sam Simon Walter Ben Harry'
).split(' ');

export interface Person {
  readonly name: string;
  /** he or she */
  readonly they: string;
  /** him or her */
  readonly them: string;
}

export const people: readonly Person[] = [
  ...girls.map((name) => ({ name, they: 'she', them: 'her' })),
  ...boys.map((name) => ({ name, they: 'he', them: 'him' })),
];

const surnames = (
  'Hill Brown Wood Green Field Stone Bell Cook Young King Hall White Black Price Marsh Lane Ford ' +
  'Gray Hunt Page Rice Shaw Ward West North Banks Cross Dale Fox Frost'
).split(' ');
const colours =
  'red blue green white black brown yellow grey golden silver pale dark scarlet purple'.split(' ');
const looks = 'old young little great small large fine fat thin wild quiet lame'.split(' ');
const animals =
  'bird dog cat horse goat sheep pig cow duck goose hen mouse rabbit fox bear wolf donkey owl'.split(
    ' ',
  );
const garments =
  'coat hat dress cloak shirt scarf cap gown belt jacket shawl bonnet hood sash ribbon veil'.split(
    ' ',
  );
const belongings =
  'box bag book lamp knife basket rope cup key stick bottle spoon map bell drum candle'.split(' ');
const foods =
  'bread cheese meat fish soup rice cake honey butter milk eggs beans apples pears plums nuts'.split(
    ' ',
  );
const streets =
  'Mill Church Bridge Market River Garden Castle Station Park Green High King Queen Hill Spring Well'.split(
    ' ',
  );
const cities = (
  'Oxford London Paris Rome Bath York Dover Vienna Berlin Madrid Lisbon Athens Cairo Venice Naples ' +
  'Dublin Boston Geneva Florence Bristol Chester Lincoln Durham Leeds Exeter Cork Milan Turin Bonn Oslo'
).split(' ');
const days = 'Monday Tuesday Wednesday Thursday Friday Saturday Sunday'.split(' ');
const months =
  'January February March April May June July August September October November December'.split(
    ' ',
  );

function withArticle(words: string): string {
  return `${/^[aeiou]/.test(words) ? 'an' : 'a'} ${words}`;
}

/**
 * Phrases by kind, such as `a red bird`. Each kind has at least 200, so that every person has some
 * in both splits even after those in use are taken away.
 */
export const phrases = {
  animal: (draw: Draw) => withArticle(`${draw.pick([...colours, ...looks])} ${draw.pick(animals)}`),
  garment: (draw: Draw) => withArticle(`${draw.pick(colours)} ${draw.pick(garments)}`),
  belonging: (draw: Draw) =>
    withArticle(`${draw.pick([...colours, ...looks.slice(0, 6)])} ${draw.pick(belongings)}`),
  meal: (draw: Draw) => draw.sample(foods, 2).join(' and '),
  address: (draw: Draw) => `${draw.int(2, 60)} ${draw.pick(streets)} Street`,
  journey: (draw: Draw) => `to ${draw.pick(cities)} on ${draw.pick(days)}`,
  birth: (draw: Draw) => `in ${draw.pick(months)} ${draw.int(1820, 1890)}`,
  fullName: (draw: Draw) => `${draw.pick(people).name} ${draw.pick(surnames)}`,
  twoPeople: (draw: Draw) =>
    draw
      .sample(people, 2)
      .map(({ name }) => name)
      .join(' and '),
} as const;
