import { answer, checkSetting, joinTexts, linesAmidFiller, text } from './pieces.ts';
import type { Draw, Exercise, Settings, Skill } from './skill.ts';

/**
 * Chains of assignments such as `VAR a = 381`, `VAR b = a`, mixed with each other; the value at the
 * end of a chain is asked for (after variable tracking in RULER, arXiv:2404.06654).
 * - `chains`, with different values
 * - `hops` from the number to the end of a chain: 2 makes a chain of three variables
 * - `questions` the last is for the end of a chain, those before it for any other variables
 * - `blocks` of lines amid filler, no more than there are lines; 0: one list and no filler
 */
const settings = { chains: 4, hops: 2, questions: 1, blocks: 4 };

const letters = [...'abcdefghijklmnopqrstuvwxyz'];
const numbered = letters.flatMap((letter) => [...'123456789'].map((digit) => letter + digit));

export const skill: Skill = {
  summary: 'follows chains of variables to their values',
  settings,
  vary: (draw) => {
    const chains = draw.int(1, 6);
    const hops = draw.int(0, 4);
    const blocks = draw.uniform() < 0.5 ? 0 : draw.int(1, 6);
    return { chains, hops, questions: draw.int(1, chains * (hops + 1)), blocks };
  },
  make: track,
};

interface Chain {
  readonly variables: readonly string[];
  readonly value: string;
}

function track(draw: Draw, chosen: Settings): Exercise {
  const { chains: count, hops, questions, blocks } = { ...settings, ...chosen };
  checkSetting('var-track', 'chains', count, 1, 16);
  checkSetting('var-track', 'hops', hops, 0, 10);
  checkSetting('var-track', 'questions', questions, 1, count * (hops + 1));
  checkSetting('var-track', 'blocks', blocks, 0, 64);
  const chains = drawChains(draw, count, hops + 1);
  const last = draw.pick(chains);
  const ends = { variable: last.variables[hops], value: last.value };
  const others = chains
    .flatMap(({ variables, value }) => variables.map((variable) => ({ variable, value })))
    .filter(({ variable }) => variable !== ends.variable);
  return {
    pieces: joinTexts([
      ...linesAmidFiller(draw, mix(draw, chains), blocks),
      ...[...draw.sample(others, questions - 1), ends].flatMap(({ variable, value }) => [
        text(`\nWhat is the value of ${variable}?`),
        answer(` ${value}`),
        text('\n'),
      ]),
    ]),
    judge: { kind: 'exact', stop: '\n' },
    chance: 1 / 900,
  };
}

function drawChains(draw: Draw, count: number, length: number): Chain[] {
  const single = count * length <= letters.length && draw.uniform() < 0.5;
  const free = new Set(single ? letters : numbered);
  const values = new Set<string>();
  return Array.from({ length: count }, () => {
    const chain = draw.fresh(
      () => ({
        variables: draw.sample([...free], length),
        value: drawOther(values, () => String(draw.int(100, 999))),
      }),
      ({ variables, value }) => `var-track ${variables.join(' ')} ${value}`,
    );
    for (const variable of chain.variables) free.delete(variable);
    values.add(chain.value);
    return chain;
  });
}

/** Draws until the value is none of `taken`. */
function drawOther(taken: ReadonlySet<string>, make: () => string): string {
  for (;;) {
    const value = make();
    if (!taken.has(value)) return value;
  }
}

/** The assignments of all chains in one random order that keeps the order within each chain. */
function mix(draw: Draw, chains: readonly Chain[]): string[] {
  const turns = draw.shuffle(chains.flatMap((chain, i) => Array.from(chain.variables, () => i)));
  const done = chains.map(() => 0);
  return turns.map((i) => {
    const { variables, value } = chains[i];
    const at = done[i]++;
    return `VAR ${variables[at]} = ${at === 0 ? value : variables[at - 1]}`;
  });
}
