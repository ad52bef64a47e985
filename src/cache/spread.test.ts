import { describe, expect, it } from 'vitest';
import { exactKeys, spreadBits, type LayerBits, type LayerCosts } from './spread.ts';

const even: LayerBits = { nibbles: 8, values: 2 };
/** Two KV heads of 16 channels. */
const layer = (channel: number, values: number): LayerCosts => ({
  channels: [Array<number>(16).fill(channel), Array<number>(16).fill(channel)],
  values,
  valueCount: 32,
});
const bitsOf = (layers: readonly LayerCosts[], bits: readonly LayerBits[]) =>
  layers.reduce(
    (sum, { channels, valueCount }, i) =>
      sum + channels.length * 4 * bits[i].nibbles + valueCount * bits[i].values,
    0,
  );

describe('bits of layers', () => {
  it('are even where costs are', () => {
    const layers = [layer(1, 0), layer(1, 0), layer(1, 0)];
    expect(spreadBits(layers, [even, even, even])).toEqual([even, even, even]);
  });
  it('go where errors cost more, and none is left without', () => {
    const layers = [layer(1e-6, 0), layer(1, 0)];
    expect(spreadBits(layers, [even, even])).toEqual([
      { nibbles: 2, values: 2 },
      { nibbles: 14, values: 2 },
    ]);
  });
  it('go further the more costs are trusted', () => {
    const layers = [layer(1e-6, 0), layer(1, 0)];
    const nibblesOf = (power: number, leastShare: number) =>
      spreadBits(layers, [even, even], { power, leastShare }).map(({ nibbles }) => nibbles);
    expect(nibblesOf(1, 0.5)).toEqual([4, 12]);
    expect(nibblesOf(0, 0.25)).toEqual([8, 8]);
    const [few, many] = nibblesOf(0.1, 0.25);
    expect(few).toBeGreaterThan(2);
    expect(many).toBeGreaterThan(8);
  });
  it('go to values where these cost more', () => {
    const layers = [layer(1e-6, 0), layer(1e-3, 100)];
    const [, costly] = spreadBits(layers, [even, even]);
    expect(costly.values).toBeGreaterThan(2);
  });
  it('leave values of 16 bits as they are, and spread those of keys', () => {
    const exact: LayerBits = { nibbles: 8, values: 16 };
    const layers = [layer(1e-6, 100), layer(1, 100)];
    expect(spreadBits(layers, [exact, exact])).toEqual([
      { nibbles: 2, values: 16 },
      { nibbles: 14, values: 16 },
    ]);
  });
  it('leave keys in f16 as they are, and spread those of values', () => {
    const exact: LayerBits = { nibbles: exactKeys, values: 3 };
    const layers = [layer(1, 1e-6), layer(1, 1)];
    expect(spreadBits(layers, [exact, exact])).toEqual([
      { nibbles: exactKeys, values: 2 },
      { nibbles: exactKeys, values: 4 },
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
      expect(given).toBeGreaterThan(bitsOf(layers, all) - 8);
    }
  });
});
