/** Word problems in the format of GSM8K (Cobbe et al. 2021, arXiv:2110.14168), one to three steps. */
import { people } from './people-and-things.ts';
import { answer, checkSetting, joinTexts, text } from './pieces.ts';
import type { Draw, Exercise, Piece, Settings, Skill } from './skill.ts';

/** One line of arithmetic: `3 * 4 = 12`. */
interface Step {
  readonly text: string;
  readonly value: number;
  /** the largest of its three numbers */
  readonly largest: number;
}

interface Problem {
  readonly question: string;
  readonly work: string;
  /** in order; the last value is the result */
  readonly steps: readonly Step[];
}

type Template = (draw: Draw) => Problem;

const operators = {
  '+': (a: number, b: number) => a + b,
  '-': (a: number, b: number) => a - b,
  '*': (a: number, b: number) => a * b,
  '/': (a: number, b: number) => a / b,
};

function step(a: number, operator: keyof typeof operators, b: number): Step {
  const value = operators[operator](a, b);
  return { value, text: `${a} ${operator} ${b} = ${value}`, largest: Math.max(a, b, value) };
}

const things = (
  'apples pears plums nuts eggs books cards stones shells coins buttons flowers cakes candles ' +
  'pencils letters stamps roses beans ribbons'
).split(' ');
const holders = 'boxes bags baskets jars bowls trays chests sacks'.split(' ');
const friends = 'friends children boys girls brothers sisters'.split(' ');

const oneStep: readonly Template[] = [
  (draw) => {
    const [{ name, them }, other] = draw.sample(people, 2);
    const [thing, a, b] = [draw.pick(things), draw.int(2, 50), draw.int(2, 49)];
    const all = step(a, '+', b);
    return {
      question: `${name} has ${a} ${thing}. ${other.name} gives ${them} ${b} more. How many ${thing} does ${name} have now?`,
      work: `${name} has ${all.text} ${thing}.`,
      steps: [all],
    };
  },
  (draw) => {
    const [{ name }, thing, a, b] = [
      draw.pick(people),
      draw.pick(things),
      draw.int(5, 99),
      draw.int(2, 60),
    ];
    const left = step(a, '-', b);
    return {
      question: `There are ${a} ${thing} on the table. ${name} takes ${b} of them. How many ${thing} are left?`,
      work: `${left.text} ${thing} are left.`,
      steps: [left],
    };
  },
  (draw) => {
    const [{ name }, thing, holder] = [draw.pick(people), draw.pick(things), draw.pick(holders)];
    const [a, b] = [draw.int(2, 12), draw.int(2, 9)];
    const all = step(a, '*', b);
    return {
      question: `${name} buys ${a} ${holder} with ${b} ${thing} in each. How many ${thing} does ${name} buy?`,
      work: `${name} buys ${all.text} ${thing}.`,
      steps: [all],
    };
  },
  (draw) => {
    const [{ name }, thing, friend] = [draw.pick(people), draw.pick(things), draw.pick(friends)];
    const [each, b] = [draw.int(2, 12), draw.int(2, 9)];
    const share = step(each * b, '/', b);
    return {
      question: `${name} shares ${each * b} ${thing} equally among ${b} ${friend}. How many ${thing} does each of them get?`,
      work: `Each of them gets ${share.text} ${thing}.`,
      steps: [share],
    };
  },
  (draw) => {
    const [one, two] = draw.sample(people, 2);
    const [a, b] = [draw.int(4, 60), draw.int(2, 30)];
    const age = step(a, '+', b);
    return {
      question: `${one.name} is ${a} years old. ${two.name} is ${b} years older than ${one.name}. How old is ${two.name}?`,
      work: `${two.name} is ${age.text} years old.`,
      steps: [age],
    };
  },
  (draw) => {
    const [one, two] = draw.sample(people, 2);
    const [thing, a, b] = [draw.pick(things), draw.int(5, 99), draw.int(2, 60)];
    const more = step(a, '-', b);
    return {
      question: `${one.name} has ${a} ${thing} and ${two.name} has ${b}. How many more ${thing} does ${one.name} have than ${two.name}?`,
      work: `${one.name} has ${more.text} more ${thing}.`,
      steps: [more],
    };
  },
];

const twoSteps: readonly Template[] = [
  (draw) => {
    const [{ name, they }, thing, holder] = [
      draw.pick(people),
      draw.pick(things),
      draw.pick(holders),
    ];
    const [a, b, c] = [draw.int(2, 12), draw.int(2, 9), draw.int(2, 20)];
    const all = step(a, '*', b);
    const left = step(all.value, '-', c);
    return {
      question: `${name} has ${a} ${holder} with ${b} ${thing} in each. ${capital(they)} gives away ${c}. How many ${thing} are left?`,
      work: `${name} has ${all.text} ${thing}. ${left.text} are left.`,
      steps: [all, left],
    };
  },
  (draw) => {
    const [one, two] = draw.sample(people, 2);
    const [thing, a, b] = [draw.pick(things), draw.int(2, 40), draw.int(2, 20)];
    const more = step(a, '+', b);
    const both = step(a, '+', more.value);
    return {
      question: `${one.name} has ${a} ${thing}. ${two.name} has ${b} more ${thing} than ${one.name}. How many ${thing} do they have together?`,
      work: `${two.name} has ${more.text} ${thing}. Together they have ${both.text} ${thing}.`,
      steps: [more, both],
    };
  },
  (draw) => {
    const [{ name, they }, thing] = [draw.pick(people), draw.pick(things)];
    const [a, b, paid] = [draw.int(2, 12), draw.int(2, 9), draw.int(5, 20) * 5];
    const cost = step(a, '*', b);
    const back = step(paid, '-', cost.value);
    return {
      question: `${name} buys ${a} ${thing} for ${b} pence each. ${capital(they)} pays with ${paid} pence. How many pence does ${they} get back?`,
      work: `The ${thing} cost ${cost.text} pence. ${name} gets back ${back.text} pence.`,
      steps: [cost, back],
    };
  },
  (draw) => {
    const [one, two] = draw.sample(people, 2);
    const [thing, a, b, c] = [draw.pick(things), draw.int(2, 40), draw.int(2, 40), draw.int(2, 20)];
    const all = step(a, '+', b);
    const left = step(all.value, '-', c);
    return {
      question: `${one.name} finds ${a} ${thing} in the morning and ${b} in the evening. ${capital(one.they)} gives ${c} to ${two.name}. How many ${thing} does ${one.name} still have?`,
      work: `${one.name} finds ${all.text} ${thing}. ${left.text} are left.`,
      steps: [all, left],
    };
  },
  (draw) => {
    const [{ name }, thing, friend] = [draw.pick(people), draw.pick(things), draw.pick(friends)];
    const [a, b, c] = [draw.int(2, 40), draw.int(2, 40), draw.int(2, 9)];
    const all = step(a, '+', b);
    const share = step(all.value, '/', c);
    return {
      question: `${name} has ${a} red ${thing} and ${b} white ${thing}, and shares them all equally among ${c} ${friend}. How many ${thing} does each of them get?`,
      work: `${name} has ${all.text} ${thing}. Each of them gets ${share.text} ${thing}.`,
      steps: [all, share],
    };
  },
  (draw) => {
    const [one, two] = draw.sample(people, 2);
    const [thing, a, b] = [draw.pick(things), draw.int(2, 20), draw.int(2, 6)];
    const more = step(a, '*', b);
    const both = step(a, '+', more.value);
    return {
      question: `${one.name} has ${a} ${thing}. ${two.name} has ${b} times as many. How many ${thing} do they have together?`,
      work: `${two.name} has ${more.text} ${thing}. Together they have ${both.text} ${thing}.`,
      steps: [more, both],
    };
  },
  (draw) => {
    const [{ name, they }, a, b, pages] = [
      draw.pick(people),
      draw.int(2, 12),
      draw.int(2, 9),
      draw.int(20, 99),
    ];
    const read = step(a, '*', b);
    const left = step(pages, '-', read.value);
    return {
      question: `A book has ${pages} pages. ${name} reads ${a} pages a day for ${b} days. How many pages must ${they} still read?`,
      work: `${name} reads ${read.text} pages. ${left.text} pages are left.`,
      steps: [read, left],
    };
  },
];

const threeSteps: readonly Template[] = [
  (draw) => {
    const [{ name }, thing] = [draw.pick(people), draw.pick(things)];
    const [first, second] = draw.sample(holders, 2);
    const [a, b, c, d] = [draw.int(2, 9), draw.int(2, 9), draw.int(2, 9), draw.int(2, 9)];
    const one = step(a, '*', b);
    const two = step(c, '*', d);
    const all = step(one.value, '+', two.value);
    return {
      question: `${name} has ${a} ${first} with ${b} ${thing} in each and ${c} ${second} with ${d} ${thing} in each. How many ${thing} does ${name} have?`,
      work: `The ${first} hold ${one.text} ${thing}. The ${second} hold ${two.text} ${thing}. Together they hold ${all.text} ${thing}.`,
      steps: [one, two, all],
    };
  },
  (draw) => {
    const [{ name, they }, a, b, c, d] = [
      draw.pick(people),
      draw.int(2, 12),
      draw.int(2, 9),
      draw.int(2, 20),
      draw.int(2, 20),
    ];
    const pay = step(a, '*', b);
    const kept = step(pay.value, '-', c);
    const now = step(kept.value, '+', d);
    return {
      question: `${name} works ${a} hours for ${b} pence an hour. ${capital(they)} spends ${c} pence and then finds ${d} pence. How many pence does ${they} have now?`,
      work: `${name} earns ${pay.text} pence. Then ${they} has ${kept.text} pence. Now ${they} has ${now.text} pence.`,
      steps: [pay, kept, now],
    };
  },
  (draw) => {
    const [{ name, they }, thing, holder, friend] = [
      draw.pick(people),
      draw.pick(things),
      draw.pick(holders),
      draw.pick(friends),
    ];
    const [a, b, c, d] = [draw.int(3, 12), draw.int(3, 9), draw.int(2, 9), draw.int(2, 9)];
    const all = step(a, '*', b);
    const given = step(c, '*', d);
    const left = step(all.value, '-', given.value);
    return {
      question: `${name} has ${a} ${holder} with ${b} ${thing} in each. ${capital(they)} gives ${c} ${thing} to each of ${d} ${friend}. How many ${thing} are left?`,
      work: `${name} has ${all.text} ${thing}. ${capital(they)} gives away ${given.text} ${thing}. ${left.text} are left.`,
      steps: [all, given, left],
    };
  },
  (draw) => {
    const [one, two] = draw.sample(people, 2);
    const [thing, holder] = [draw.pick(things), draw.pick(holders)];
    const [a, b, c] = [draw.int(2, 30), draw.int(2, 20), draw.int(2, 9)];
    const more = step(a, '+', b);
    const both = step(a, '+', more.value);
    const each = step(both.value, '/', c);
    return {
      question: `${one.name} has ${a} ${thing}. ${two.name} has ${b} more than ${one.name}. They put all of them into ${c} ${holder}, the same number in each. How many ${thing} are in each?`,
      work: `${two.name} has ${more.text} ${thing}. Together they have ${both.text} ${thing}. In each there are ${each.text} ${thing}.`,
      steps: [more, both, each],
    };
  },
  (draw) => {
    const [one, two, three] = draw.sample(people, 3);
    const [a, b, c, d] = [draw.int(3, 20), draw.int(2, 12), draw.int(2, 4), draw.int(2, 15)];
    const second = step(a, '+', b);
    const third = step(second.value, '*', c);
    const later = step(third.value, '+', d);
    return {
      question: `${one.name} is ${a} years old. ${two.name} is ${b} years older than ${one.name}. ${three.name} is ${c} times as old as ${two.name}. How old will ${three.name} be in ${d} years?`,
      work: `${two.name} is ${second.text} years old. ${three.name} is ${third.text} years old. In ${d} years that will be ${later.text}.`,
      steps: [second, third, later],
    };
  },
];

const templates: readonly (readonly Template[])[] = [
  [...oneStep, ...twoSteps, ...threeSteps],
  oneStep,
  twoSteps,
  threeSteps,
];

function capital(word: string): string {
  return word[0].toUpperCase() + word.slice(1);
}

/** A template filled so that every value is a whole number from 2, and no number is above `max`. */
function solve(draw: Draw, from: readonly Template[], max: number): Problem {
  for (;;) {
    const problem = draw.pick(from)(draw);
    const ok = problem.steps.every(
      ({ value, largest }) => Number.isInteger(value) && value >= 2 && largest <= max,
    );
    if (ok) return problem;
  }
}

/** A line of arithmetic to learn from, with numbers of 2 to `max`. */
function drawSum(draw: Draw, max: number): Piece[] {
  const operator = draw.pick(['+', '-', '*', '/'] as const);
  const isTimes = operator === '*' || operator === '/';
  for (;;) {
    const [a, b] = [draw.int(2, max), draw.int(2, isTimes ? Math.min(9, max) : max)];
    const made = operator === '/' ? step(a * b, '/', b) : step(a, operator, b);
    if (made.value < 2 || made.largest > max) continue;
    const [question, value] = made.text.split('= ');
    return [text(`${question}=`), answer(` ${value}`), text('\n')];
  }
}

function make(draw: Draw, chosen: Settings): Exercise {
  const { steps: count, shots, sums, max } = { ...settings, ...chosen };
  checkSetting('tiny-gsm', 'steps', count, 0, 3);
  checkSetting('tiny-gsm', 'shots', shots, 0, 1000);
  checkSetting('tiny-gsm', 'sums', sums, 0, 1000);
  checkSetting('tiny-gsm', 'max', max, 20, 99);
  const pieces = Array.from({ length: sums }, () => drawSum(draw, max)).flat();
  for (let i = 0; i <= shots; i++) {
    const { question, work, steps } = draw.fresh(
      () => solve(draw, templates[count], max),
      (problem) => problem.question,
    );
    const result = steps[steps.length - 1].value;
    pieces.push(text(`Question: ${question}\nAnswer:`), answer(` ${work}\n#### ${result}\n\n`));
  }
  return {
    pieces: joinTexts(pieces),
    judge: { kind: 'last-number', stop: '\n\n' },
    // The commonest result: 9.2 % of them at max 20, 5.2 % at 30, 3.4 % at 50, 2.2 % at 99 (8,000 drawn).
    chance: 2.2 / max,
  };
}

/**
 * - `steps` of arithmetic, 1 to 3, 0 for any
 * - `shots` solved problems before the asked one
 * - `sums` lines of bare arithmetic before all problems
 * - `max` the largest number, 20 to 99
 */
const settings = { steps: 0, shots: 0, sums: 0, max: 99 };

export const skill: Skill = {
  summary: 'word problems with worked steps, in the format of GSM8K',
  settings,
  vary: (draw) => ({
    steps: draw.pick([0, 0, 0, 1, 2, 3]),
    shots: draw.uniform() < 0.5 ? 0 : draw.int(1, 7),
    sums: draw.uniform() < 0.6 ? draw.int(8, 40) : 0,
    max: draw.pick([20, 99, 99]),
  }),
  make,
};
