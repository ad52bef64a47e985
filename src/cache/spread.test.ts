import { describe, expect, it } from 'vitest';
import { exactKeys, spreadBits, type LayerBits, type LayerCosts } from './spread.ts';

/** Costs as they are. */
const wholly = { power: 1, leastShare: 0.25 };
const twoBits = { fours: 0, twos: 16 };
const even: LayerBits = { nibbles: 8, values: twoBits };
const nothing = [new Float64Array(16), new Float64Array(16)];
const alike = (cost: number) => [0, 1].map(() => Array<number>(16).fill(cost));
/** Two KV heads of 16 channels. */
const layer = (key: number, value: number): LayerCosts => ({
  keys: alike(key),
  values: alike(value),
});
const bitsOf = (layers: readonly LayerCosts[], bits: readonly LayerBits[]) =>
  layers.reduce((sum, { keys }, i) => {
    const { nibbles, values } = bits[i];
    const perValue = values === 'f16' ? 0 : 4 * values.fours + 2 * values.twos;
    return sum + keys.length * (4 * nibbles + perValue);
  }, 0);

describe('bits of layers', () => {
  it('are even where costs are', () => {
    const layers = [layer(1, 1), layer(1, 1), layer(1, 1)];
    const [first, ...others] = spreadBits(layers, [even, even, even]);
    expect(others).toEqual([first, first]);
  });
  it('go where errors cost more, and none is left without', () => {
    const layers = [layer(1e-6, 1e-6), layer(1, 1)];
    expect(spreadBits(layers, [even, even], wholly)).toEqual([
      { nibbles: 2, values: { fours: 0, twos: 8 } },
      { nibbles: 14, values: { fours: 8, twos: 8 } },
    ]);
  });
  it('go further the more costs are trusted', () => {
    const layers = [layer(1e-6, 0), layer(1, 0)];
    const exact: LayerBits = { nibbles: 8, values: 'f16' };
    const nibblesOf = (power: number, leastShare: number) =>
      spreadBits(layers, [exact, exact], { power, leastShare }).map(({ nibbles }) => nibbles);
    expect(nibblesOf(1, 0.5)).toEqual([4, 12]);
    expect(nibblesOf(0, 0.25)).toEqual([8, 8]);
    const [few, many] = nibblesOf(0.1, 0.25);
    expect(few).toBeGreaterThan(2);
    expect(many).toBeGreaterThan(8);
  });
  it('go to values where these cost more', () => {
    const layers = [layer(1e-6, 0), layer(1e-3, 100)];
    const [, costly] = spreadBits(layers, [even, even]);
    expect(costly).toEqual({ nibbles: costly.nibbles, values: { fours: 16, twos: 0 } });
  });
  it('go to the channels of values that cost more, and not to those that cost nothing', () => {
    const values = [0, 1].map(() => Float64Array.from({ length: 16 }, (_, c) => (c < 8 ? 1 : 0)));
    const exact: LayerBits = { nibbles: exactKeys, values: twoBits };
    expect(spreadBits([{ keys: nothing, values }], [exact])).toEqual([
      { nibbles: exactKeys, values: { fours: 8, twos: 0 } },
    ]);
  });
  it('leave values of 16 bits as they are, and spread those of keys', () => {
    const exact: LayerBits = { nibbles: 8, values: 'f16' };
    const layers = [layer(1e-6, 100), layer(1, 100)];
    expect(spreadBits(layers, [exact, exact], wholly)).toEqual([
      { nibbles: 2, values: 'f16' },
      { nibbles: 14, values: 'f16' },
    ]);
  });
  it('leave keys in f16 as they are, and spread those of values', () => {
    const exact: LayerBits = { nibbles: exactKeys, values: twoBits };
    const layers = [layer(1, 1e-6), layer(1, 1)];
    expect(spreadBits(layers, [exact, exact], wholly)).toEqual([
      { nibbles: exactKeys, values: { fours: 0, twos: 8 } },
      { nibbles: exactKeys, values: { fours: 8, twos: 8 } },
    ]);
  });
  it('are never more than those of an even spread, and fall short by less than a step', () => {
    for (let trial = 0; trial < 50; trial++) {
      const layers = [0, 1, 2, 3].map((i) =>
        layer(1.7 ** ((trial * 7 + i * 5) % 13), 3 ** (i - 2)),
      );
      const all = layers.map(() => even);
      const given = bitsOf(layers, spreadBits(layers, all));
      expect(given).toBeLessThanOrEqual(bitsOf(layers, all));
      // A nibble for the keys of two heads.
      expect(given).toBeGreaterThan(bitsOf(layers, all) - 8);
    }
  });
});
