/** Families of one-line Python functions of one argument, for the skill `tiny-humaneval`. */
import type { Draw } from './skill.ts';

/** A Python int, str, bool or list of them. */
export type Value = number | string | boolean | readonly Value[];

/** The value as Python writes it; texts hold no quotes. */
export function python(value: Value): string {
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'number') return String(value);
  if (typeof value === 'string') return `'${value}'`;
  return `[${value.map(python).join(', ')}]`;
}

export interface PythonTask {
  readonly name: string;
  readonly argument: string;
  /** what the function does, for the docstring */
  readonly sentence: string;
  /** the expression that is returned */
  readonly body: string;
  /** inputs and what the function returns for them, in random order */
  readonly calls: readonly (readonly [input: Value, output: Value])[];
}

/** What a family says about its tasks; `a` is the name of the argument. */
interface Form<I extends Value> {
  readonly names: readonly string[];
  sentences(a: string): readonly string[];
  body(a: string): string;
  result(input: I): Value;
}

type Family = (draw: Draw) => PythonTask;

/** @param inputs not all with the same result; with a constant, they tell it from its neighbours */
function task<I extends Value>(
  draw: Draw,
  argumentNames: readonly string[],
  inputs: readonly I[],
  form: Form<I>,
): PythonTask {
  const argument = draw.pick(argumentNames);
  return {
    name: draw.pick(form.names),
    argument,
    sentence: draw.pick(form.sentences(argument)),
    body: form.body(argument),
    calls: draw.shuffle(inputs).map((input) => [input, form.result(input)]),
  };
}

const numberNames = ['x', 'n', 'num', 'value'];
const listNames = ['xs', 'items', 'numbers', 'values'];
const textNames = ['s', 'text', 'word', 'string'];

const digitWords = 'zero one two three four five six seven eight nine ten eleven twelve'.split(' ');
const words = (
  'apple banana letter window summer garden bottle yellow little coffee rabbit ribbon cellar ' +
  'kitten pepper silver wooden dinner'
).split(' ');

/** Numbers on both sides of a constant, and larger ones. */
function numbersAround(draw: Draw, c: number): number[] {
  return [c - 1, c, c + 1, draw.int(c + 2, 40), draw.int(41, 99)];
}

/** 4 lists of 3 to 6 different numbers, the first of which is neither the least nor the greatest. */
function lists(draw: Draw): number[][] {
  const numbers = Array.from({ length: 30 }, (_, i) => i + 1);
  return [3, 4, 5, 6].map((length) => {
    const [low, middle, ...others] = draw.sample(numbers, length).sort((a, b) => a - b);
    return [middle, ...draw.shuffle([low, ...others])];
  });
}

/** 4 lists that hold the constant and both of its neighbours. */
function listsAround(draw: Draw, c: number): number[][] {
  return lists(draw).map((list) => draw.shuffle([...list.slice(0, 3), c - 1, c, c + 1]));
}

/** A family of a number and a constant from 2 to 12. */
function numberAndConstant(form: (c: number, word: string) => Form<number>): Family {
  return (draw) => {
    const c = draw.int(2, 12);
    return task(draw, numberNames, numbersAround(draw, c), form(c, digitWords[c]));
  };
}

function numberOnly(form: Form<number>): Family {
  return (draw) => {
    const inputs = [...draw.sample([2, 4, 6, 8], 2), ...draw.sample([1, 3, 5, 7, 9], 3)];
    return task(draw, numberNames, inputs, form);
  };
}

function listAndConstant(form: (c: number, word: string) => Form<readonly number[]>): Family {
  return (draw) => {
    const c = draw.int(2, 12);
    return task(draw, listNames, listsAround(draw, c), form(c, digitWords[c]));
  };
}

function listOnly(form: Form<readonly number[]>): Family {
  return (draw) => task(draw, listNames, lists(draw), form);
}

/** A family of a list of at least 3 numbers and a place in it, 1 or 2, or a number of items, 2 or 3. */
function listAndPlace(
  least: 1 | 2,
  form: (c: number, word: string) => Form<readonly number[]>,
): Family {
  return (draw) => {
    const c = draw.int(least, least + 1);
    return task(draw, listNames, lists(draw), form(c, digitWords[c]));
  };
}

/** A family of a text and a letter that is in some inputs and not in the others. */
function textAndLetter(form: (letter: string) => Form<string>): Family {
  return (draw) => {
    const letter = draw.pick(['a', 'b', 'e', 'i', 'l', 'n', 'o', 'r', 's', 't', 'w']);
    const inputs = [true, false].flatMap((held) =>
      draw.sample(
        words.filter((word) => word.includes(letter) === held),
        2,
      ),
    );
    return task(draw, textNames, inputs, form(letter));
  };
}

function textOnly(form: Form<string>): Family {
  return (draw) => task(draw, textNames, draw.sample(words, 4), form);
}

export const families: readonly Family[] = [
  numberAndConstant((c, word) => ({
    names: [`add_${word}`, `plus_${word}`, `add_${c}`, `more_by_${word}`],
    sentences: (a) => [
      `Return ${a} plus ${c}.`,
      `Add ${c} to ${a}.`,
      `Give the sum of ${a} and ${c}.`,
    ],
    body: (a) => `${a} + ${c}`,
    result: (x) => x + c,
  })),
  numberAndConstant((c, word) => ({
    names: [`subtract_${word}`, `minus_${word}`, `subtract_${c}`, `less_by_${word}`],
    sentences: (a) => [
      `Return ${a} minus ${c}.`,
      `Subtract ${c} from ${a}.`,
      `Take ${c} away from ${a}.`,
    ],
    body: (a) => `${a} - ${c}`,
    result: (x) => x - c,
  })),
  numberAndConstant((c, word) => ({
    names: [`multiply_by_${word}`, `times_${word}`, `times_${c}`],
    sentences: (a) => [
      `Return ${a} times ${c}.`,
      `Multiply ${a} by ${c}.`,
      `Give the product of ${a} and ${c}.`,
    ],
    body: (a) => `${a} * ${c}`,
    result: (x) => x * c,
  })),
  numberAndConstant((c, word) => ({
    names: [`divide_by_${word}`, `whole_part_of_${word}`, `divide_by_${c}`],
    sentences: (a) => [
      `Return ${a} divided by ${c}, rounded down.`,
      `Divide ${a} by ${c} and drop the rest.`,
      `How many times does ${c} go into ${a}?`,
    ],
    body: (a) => `${a} // ${c}`,
    result: (x) => Math.floor(x / c),
  })),
  numberAndConstant((c, word) => ({
    names: [`rest_by_${word}`, `mod_${word}`, `mod_${c}`],
    sentences: (a) => [
      `Return the rest of ${a} divided by ${c}.`,
      `What is left when ${a} is divided by ${c}?`,
      `Return ${a} modulo ${c}.`,
    ],
    body: (a) => `${a} % ${c}`,
    result: (x) => x % c,
  })),
  numberAndConstant((c, word) => ({
    names: [`above_${word}`, `more_than_${word}`, `is_over_${c}`],
    sentences: (a) => [
      `Return whether ${a} is greater than ${c}.`,
      `Is ${a} more than ${c}?`,
      `True if ${a} is above ${c}, else False.`,
    ],
    body: (a) => `${a} > ${c}`,
    result: (x) => x > c,
  })),
  numberAndConstant((c, word) => ({
    names: [`below_${word}`, `less_than_${word}`, `is_under_${c}`],
    sentences: (a) => [
      `Return whether ${a} is less than ${c}.`,
      `Is ${a} smaller than ${c}?`,
      `True if ${a} is below ${c}, else False.`,
    ],
    body: (a) => `${a} < ${c}`,
    result: (x) => x < c,
  })),
  numberAndConstant((c, word) => ({
    names: [`is_${word}`, `equals_${word}`, `equals_${c}`],
    sentences: (a) => [
      `Return whether ${a} is equal to ${c}.`,
      `Is ${a} the same as ${c}?`,
      `True if ${a} is ${c}, else False.`,
    ],
    body: (a) => `${a} == ${c}`,
    result: (x) => x === c,
  })),
  numberAndConstant((c, word) => ({
    names: [`multiple_of_${word}`, `divides_by_${word}`, `is_multiple_of_${c}`],
    sentences: (a) => [
      `Return whether ${a} is a multiple of ${c}.`,
      `Can ${a} be divided by ${c}?`,
      `True if ${c} divides ${a}, else False.`,
    ],
    body: (a) => `${a} % ${c} == 0`,
    result: (x) => x % c === 0,
  })),
  numberAndConstant((c, word) => ({
    names: [`at_least_${word}`, `larger_with_${word}`, `max_with_${c}`],
    sentences: (a) => [
      `Return the larger of ${a} and ${c}.`,
      `Return ${a}, but at least ${c}.`,
      `Give the maximum of ${a} and ${c}.`,
    ],
    body: (a) => `max(${a}, ${c})`,
    result: (x) => Math.max(x, c),
  })),
  numberAndConstant((c, word) => ({
    names: [`double_plus_${word}`, `twice_and_${word}`, `double_plus_${c}`],
    sentences: (a) => [`Return twice ${a} plus ${c}.`, `Double ${a} and add ${c}.`],
    body: (a) => `2 * ${a} + ${c}`,
    result: (x) => 2 * x + c,
  })),
  numberOnly({
    names: ['square', 'squared', 'to_square', 'get_square'],
    sentences: (a) => [`Return the square of ${a}.`, `Multiply ${a} by itself.`],
    body: (a) => `${a} * ${a}`,
    result: (x) => x * x,
  }),
  numberOnly({
    names: ['is_even', 'even', 'check_even'],
    sentences: (a) => [`Return whether ${a} is even.`, `Is ${a} an even number?`],
    body: (a) => `${a} % 2 == 0`,
    result: (x) => x % 2 === 0,
  }),
  numberOnly({
    names: ['is_odd', 'odd', 'check_odd'],
    sentences: (a) => [`Return whether ${a} is odd.`, `Is ${a} an odd number?`],
    body: (a) => `${a} % 2 == 1`,
    result: (x) => x % 2 === 1,
  }),
  numberOnly({
    names: ['count_from_zero', 'numbers_below', 'range_list', 'below'],
    sentences: (a) => [
      `Return the list of numbers from 0 up to ${a} - 1.`,
      `List the numbers below ${a}.`,
    ],
    body: (a) => `list(range(${a}))`,
    result: (x) => Array.from({ length: x }, (_, i) => i),
  }),
  numberOnly({
    names: ['count_up', 'numbers_to', 'one_to', 'up_to'],
    sentences: (a) => [`Return the list of numbers from 1 to ${a}.`, `Count from 1 up to ${a}.`],
    body: (a) => `list(range(1, ${a} + 1))`,
    result: (x) => Array.from({ length: x }, (_, i) => i + 1),
  }),
  (draw) =>
    task(draw, numberNames, [0, 1, draw.int(2, 9), draw.int(-50, -10), draw.int(-9, -1)], {
      names: ['absolute', 'distance', 'size', 'without_sign'],
      sentences: (a) => [`Return the absolute value of ${a}.`, `Return ${a} without its sign.`],
      body: (a) => `abs(${a})`,
      result: (x) => Math.abs(x),
    }),
  listOnly({
    names: ['largest', 'greatest', 'get_max', 'find_max'],
    sentences: (a) => [`Return the largest number in ${a}.`, `Find the maximum of ${a}.`],
    body: (a) => `max(${a})`,
    result: (xs) => Math.max(...xs),
  }),
  listOnly({
    names: ['smallest', 'least', 'get_min', 'find_min'],
    sentences: (a) => [`Return the smallest number in ${a}.`, `Find the minimum of ${a}.`],
    body: (a) => `min(${a})`,
    result: (xs) => Math.min(...xs),
  }),
  listOnly({
    names: ['total', 'add_all', 'get_sum', 'sum_of'],
    sentences: (a) => [`Return the sum of ${a}.`, `Add up all numbers in ${a}.`],
    body: (a) => `sum(${a})`,
    result: (xs) => xs.reduce((sum, x) => sum + x, 0),
  }),
  listOnly({
    names: ['count', 'how_many', 'size_of', 'get_length'],
    sentences: (a) => [`Return the number of items in ${a}.`, `How long is the list ${a}?`],
    body: (a) => `len(${a})`,
    result: (xs) => xs.length,
  }),
  listOnly({
    names: ['in_order', 'sort_list', 'sort_up', 'get_sorted'],
    sentences: (a) => [`Return ${a} sorted from small to large.`, `Sort the list ${a}.`],
    body: (a) => `sorted(${a})`,
    result: (xs) => [...xs].sort((a, b) => a - b),
  }),
  listOnly({
    names: ['backwards', 'reverse_list', 'turn_list', 'get_reversed'],
    sentences: (a) => [`Return the list ${a} in reverse order.`, `Reverse the list ${a}.`],
    body: (a) => `${a}[::-1]`,
    result: (xs) => [...xs].reverse(),
  }),
  listOnly({
    names: ['spread', 'span', 'max_minus_min', 'width'],
    sentences: (a) => [
      `Return the largest minus the smallest number in ${a}.`,
      `How far apart are the maximum and the minimum of ${a}?`,
    ],
    body: (a) => `max(${a}) - min(${a})`,
    result: (xs) => Math.max(...xs) - Math.min(...xs),
  }),
  listOnly({
    names: ['first_item', 'get_first', 'head', 'first_of'],
    sentences: (a) => [`Return the first item of ${a}.`, `What comes first in ${a}?`],
    body: (a) => `${a}[0]`,
    result: (xs) => xs[0],
  }),
  listOnly({
    names: ['last_item', 'get_last', 'tail', 'last_of'],
    sentences: (a) => [`Return the last item of ${a}.`, `What comes last in ${a}?`],
    body: (a) => `${a}[-1]`,
    result: (xs) => xs[xs.length - 1],
  }),
  listAndPlace(1, (c, word) => ({
    names: [`item_${word}`, `at_${word}`, `get_index_${c}`],
    sentences: (a) => [`Return the item of ${a} at index ${c}.`, `What is at index ${c} of ${a}?`],
    body: (a) => `${a}[${c}]`,
    result: (xs) => xs[c],
  })),
  listAndPlace(2, (c, word) => ({
    names: [`without_first_${word}`, `skip_${word}`, `drop_${c}`],
    sentences: (a) => [
      `Return ${a} without the first ${c} items.`,
      `Drop ${c} items at the start of ${a}.`,
    ],
    body: (a) => `${a}[${c}:]`,
    result: (xs) => xs.slice(c),
  })),
  listAndPlace(2, (c, word) => ({
    names: [`first_${word}`, `take_${word}`, `take_${c}`],
    sentences: (a) => [
      `Return the list of the first ${c} items of ${a}.`,
      `Take ${c} items from the start of ${a}.`,
    ],
    body: (a) => `${a}[:${c}]`,
    result: (xs) => xs.slice(0, c),
  })),
  listAndConstant((c, word) => ({
    names: [`keep_above_${word}`, `all_above_${word}`, `over_${c}`],
    sentences: (a) => [
      `Return the numbers in ${a} greater than ${c}.`,
      `Keep what is above ${c} in ${a}.`,
    ],
    body: (a) => `[y for y in ${a} if y > ${c}]`,
    result: (xs) => xs.filter((x) => x > c),
  })),
  listAndConstant((c, word) => ({
    names: [`keep_below_${word}`, `all_below_${word}`, `under_${c}`],
    sentences: (a) => [
      `Return the numbers in ${a} less than ${c}.`,
      `Keep what is below ${c} in ${a}.`,
    ],
    body: (a) => `[y for y in ${a} if y < ${c}]`,
    result: (xs) => xs.filter((x) => x < c),
  })),
  listAndConstant((c, word) => ({
    names: [`add_${word}_to_all`, `all_plus_${word}`, `each_plus_${c}`],
    sentences: (a) => [
      `Add ${c} to each number in ${a}.`,
      `Return ${a} with every number ${c} larger.`,
    ],
    body: (a) => `[y + ${c} for y in ${a}]`,
    result: (xs) => xs.map((x) => x + c),
  })),
  listAndConstant((c, word) => ({
    names: [`multiply_all_by_${word}`, `all_times_${word}`, `each_times_${c}`],
    sentences: (a) => [
      `Multiply each number in ${a} by ${c}.`,
      `Return ${a} with every number times ${c}.`,
    ],
    body: (a) => `[y * ${c} for y in ${a}]`,
    result: (xs) => xs.map((x) => x * c),
  })),
  listAndConstant((c, word) => ({
    names: [`without_${word}`, `remove_${word}`, `remove_${c}`],
    sentences: (a) => [`Return ${a} without the number ${c}.`, `Remove every ${c} from ${a}.`],
    body: (a) => `[y for y in ${a} if y != ${c}]`,
    result: (xs) => xs.filter((x) => x !== c),
  })),
  textAndLetter((letter) => ({
    names: [`count_${letter}`, `how_many_${letter}`, `number_of_${letter}`],
    sentences: (a) => [
      `Return how often the letter ${letter} is in ${a}.`,
      `Count the letter ${letter} in ${a}.`,
    ],
    body: (a) => `${a}.count('${letter}')`,
    result: (s) => s.split(letter).length - 1,
  })),
  textAndLetter((letter) => ({
    names: [`has_${letter}`, `contains_${letter}`, `with_${letter}`],
    sentences: (a) => [
      `Return whether the letter ${letter} is in ${a}.`,
      `Does ${a} have the letter ${letter}?`,
    ],
    body: (a) => `'${letter}' in ${a}`,
    result: (s) => s.includes(letter),
  })),
  textAndLetter((letter) => ({
    names: [`remove_${letter}`, `without_${letter}`, `drop_${letter}`],
    sentences: (a) => [
      `Return ${a} without the letter ${letter}.`,
      `Remove each letter ${letter} from ${a}.`,
    ],
    body: (a) => `${a}.replace('${letter}', '')`,
    result: (s) => s.replaceAll(letter, ''),
  })),
  (draw) => {
    const c = draw.int(2, 5);
    return task(draw, textNames, draw.sample(words, 4), {
      names: [`repeat_${digitWords[c]}`, `repeat_${c}`, `say_${digitWords[c]}_times`],
      sentences: (a) => [`Repeat ${a} ${c} times.`, `Return ${a} written ${c} times.`],
      body: (a) => `${a} * ${c}`,
      result: (s) => s.repeat(c),
    });
  },
  textOnly({
    names: ['reverse_text', 'mirror', 'spell_back', 'flip'],
    sentences: (a) => [`Return the text ${a} reversed.`, `Write ${a} from back to front.`],
    body: (a) => `${a}[::-1]`,
    result: (s) => [...s].reverse().join(''),
  }),
  textOnly({
    names: ['shout', 'to_upper', 'make_upper', 'in_capitals'],
    sentences: (a) => [`Return ${a} in capital letters.`, `Make ${a} upper case.`],
    body: (a) => `${a}.upper()`,
    result: (s) => s.toUpperCase(),
  }),
];
