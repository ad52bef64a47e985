/** How the bits of a cache are spread over the layers of a model. */
import type { AffineBits } from '../kernels/kernels.ts';
import { maxChannelBits, normalErrors } from './codec.ts';

/** What errors in one layer cost. Costs of all layers are in the same unit. */
export interface LayerCosts {
  /** by KV head and channel: the cost of losing the channel of a key whole, [nKvHeads][headDimK] */
  readonly channels: readonly ArrayLike<number>[];
  /** of losing the values whole, summed over KV heads */
  readonly values: number;
  /** nKvHeads * headDimV */
  readonly valueCount: number;
}

/** Bits of a value: codes, or 16 for f16 as it came. */
export type ValueBits = AffineBits | 16;

/** In place of a number of nibbles: keys stay f16. */
export const exactKeys = 0;

export interface LayerBits {
  /** groups of four bits per key and KV head, or `exactKeys` */
  readonly nibbles: number;
  readonly values: ValueBits;
}

/** Share of a normal row of 64 that is lost in clipped affine codes of 2, 3 and 4 bits, measured. */
export const affineErrors: Readonly<Record<AffineBits, number>> = { 2: 0.109, 3: 0.03, 4: 0.0074 };

/** How far costs are trusted, which are estimates. */
export interface Trust {
  /** the costs of a layer count as their sum to this power */
  readonly power: number;
  /** no layer gets less than this share of what an even spread gives it */
  readonly leastShare: number;
}

/** Without an exact window errors are too large for costs of the first order; docs/method.md has what was tried. */
export const trust = {
  windowed: { power: 1, leastShare: 0.25 },
  bare: { power: 0.35, leastShare: 0.75 },
} as const satisfies Record<string, Trust>;

/**
 * Gives each layer bits for keys and values, so that all together are at most those of an even spread
 * and the errors cost least: each step takes what saves most per bit, a nibble for the keys of all KV
 * heads of a layer or a bit for its values (reverse water-filling, Cover and Thomas 10.3.3). What is in 16 bits stays so.
 * @param even what each layer would have in an even spread
 */
export function spreadBits(
  layers: readonly LayerCosts[],
  even: readonly LayerBits[],
  { power, leastShare }: Trust = trust.windowed,
): LayerBits[] {
  const trusted = layers.map((layer) => tempered(layer, power));
  const open = trusted.map((layer, i) => ({
    layer,
    ...(even[i].nibbles === exactKeys
      ? { savings: [], nibbles: exactKeys }
      : {
          savings: nibbleSavings(layer),
          nibbles: Math.max(1, Math.floor(leastShare * even[i].nibbles)),
        }),
    values: (even[i].values === 16 ? 16 : 2) as ValueBits,
  }));
  let left = open.reduce(
    (sum, { layer, nibbles, values }, i) =>
      sum +
      layer.channels.length * 4 * (even[i].nibbles - nibbles) +
      layer.valueCount * (even[i].values - values),
    0,
  );
  for (;;) {
    let best = { gain: -1, bits: 0, take: () => {} };
    for (const own of open) {
      const { channels, values, valueCount } = own.layer;
      const offer = (saving: number, bits: number, take: () => void) => {
        if (bits <= left && saving / bits > best.gain) best = { gain: saving / bits, bits, take };
      };
      if (own.nibbles < own.savings.length) {
        offer(own.savings[own.nibbles], 4 * channels.length, () => own.nibbles++);
      }
      const { values: bits } = own;
      if (bits === 2 || bits === 3) {
        const more: AffineBits = bits === 2 ? 3 : 4;
        const saving = values * (affineErrors[bits] - affineErrors[more]);
        offer(saving, valueCount, () => (own.values = more));
      }
    }
    if (best.gain < 0) return open.map(({ nibbles, values }) => ({ nibbles, values }));
    best.take();
    left -= best.bits;
  }
}

/** The same costs within a layer, and of the layer their sum to a power. */
function tempered({ channels, values, valueCount }: LayerCosts, power: number): LayerCosts {
  const sum = channels.reduce((all, head) => all + Array.from(head).reduce((a, b) => a + b, 0), 0);
  const factor = sum > 0 ? sum ** (power - 1) : 1;
  return {
    channels: channels.map((head) => Array.from(head, (cost) => cost * factor)),
    values: values ** power,
    valueCount,
  };
}

/** What the n-th nibble for every KV head of a layer saves, as if bits were spread over all its heads. */
function nibbleSavings({ channels }: LayerCosts): number[] {
  const savings = channels.flatMap((head) =>
    Array.from(head).flatMap((cost) =>
      Array.from(
        { length: maxChannelBits },
        (_, bits) => cost * (normalErrors[bits] - normalErrors[bits + 1]),
      ),
    ),
  );
  savings.sort((a, b) => b - a);
  const perNibble = 4 * channels.length;
  return Array.from({ length: savings.length / perNibble }, (_, n) =>
    savings.slice(n * perNibble, (n + 1) * perNibble).reduce((a, b) => a + b),
  );
}
