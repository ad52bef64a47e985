/** How the bits of a cache are spread over the layers of a model. */
import { fieldMultiple } from '../kernels/fields.ts';
import type { FieldCounts } from '../kernels/kernels.ts';
import { maxChannelBits, normalErrors } from './codec.ts';
import { fieldErrors, unitBits } from './value-coder.ts';

/** What errors in one layer cost. Costs of all layers are in the same unit. */
export interface LayerCosts {
  /** by KV head and channel: the cost of losing the channel of a key whole, [nKvHeads][headDimK] */
  readonly keys: readonly ArrayLike<number>[];
  /** of losing the channel of a value whole, largest first, [nKvHeads][headDimV] */
  readonly values: readonly ArrayLike<number>[];
}

/** In place of fields: values stay f16. */
export type ValueFields = FieldCounts | 'f16';

/** In place of a number of nibbles: keys stay f16. */
export const exactKeys = 0;

export interface LayerBits {
  /** groups of four bits per key and KV head, or `exactKeys` */
  readonly nibbles: number;
  readonly values: ValueFields;
}

/** How far costs are trusted, which are estimates. */
export interface Trust {
  /** the costs of a layer count as their sum to this power */
  readonly power: number;
  /** no layer gets less than this share of what an even spread gives it */
  readonly leastShare: number;
}

/** Without an exact window errors are too large for costs of the first order; docs/method.md has what was tried. */
export const trust = {
  windowed: { power: 0.7, leastShare: 0.25 },
  bare: { power: 0.35, leastShare: 0.75 },
} as const satisfies Record<string, Trust>;

/**
 * Gives each layer bits for keys and values, so that all together are at most those of an even spread
 * and the errors cost least: each step takes what saves most per bit, a nibble for the keys of all KV
 * heads of a layer or two bits more for eight channels of its values (reverse water-filling, Cover and Thomas 10.3.3).
 * What is f16 stays so.
 * @param even what each layer would have in an even spread
 */
export function spreadBits(
  layers: readonly LayerCosts[],
  even: readonly LayerBits[],
  { power, leastShare }: Trust = trust.windowed,
): LayerBits[] {
  const open = layers.map((layer, i) => {
    const { keys, values } = tempered(layer, power);
    const heads = keys.length;
    const { nibbles, values: fields } = even[i];
    return {
      nibbles: offers(nibbles === exactKeys ? [] : nibbleSavings(keys), 4 * heads, nibbles),
      units:
        fields === 'f16'
          ? offers([], unitBits * heads, 0)
          : offers(
              unitSavings(values).map(({ saving }) => saving),
              unitBits * heads,
              unitsOf(fields),
            ),
      fieldsAfter: (units: number): ValueFields =>
        fields === 'f16' ? fields : fieldsOf(unitSavings(values).slice(0, units)),
    };
  });
  const all = open.flatMap(({ nibbles, units }) => [nibbles, units]);
  for (const own of all)
    own.taken = Math.min(own.even, Math.max(1, Math.floor(leastShare * own.even)));
  let left = all.reduce((sum, { bits, even: wanted, taken }) => sum + bits * (wanted - taken), 0);
  for (;;) {
    let best: (typeof all)[number] | undefined;
    const gain = ({ savings, taken, bits }: (typeof all)[number]) => savings[taken] / bits;
    for (const own of all) {
      const fits = own.taken < own.savings.length && own.bits <= left;
      if (fits && (!best || gain(own) > gain(best))) best = own;
    }
    if (!best) break;
    best.taken++;
    left -= best.bits;
  }
  return open.map(({ nibbles, units, fieldsAfter }) => ({
    nibbles: nibbles.taken,
    values: fieldsAfter(units.taken),
  }));
}

/** What more bits of one kind in one layer save, step by step. @param even steps of an even spread */
const offers = (savings: readonly number[], bits: number, even: number) => ({
  ...{ savings, bits, even },
  taken: 0,
});

/** The same costs within a layer, and of the layer's keys and of its values their sum to a power. */
function tempered({ keys, values }: LayerCosts, power: number): LayerCosts {
  const temper = (heads: readonly ArrayLike<number>[]) => {
    const sum = heads.reduce((all, head) => all + Array.from(head).reduce((a, b) => a + b, 0), 0);
    const factor = sum > 0 ? sum ** (power - 1) : 1;
    return heads.map((head) => Array.from(head, (cost) => cost * factor));
  };
  return { keys: temper(keys), values: temper(values) };
}

/** What the n-th nibble for every KV head of a layer saves, as if bits were spread over all its heads. */
function nibbleSavings(heads: readonly ArrayLike<number>[]): number[] {
  const savings = heads.flatMap((head) =>
    Array.from(head).flatMap((cost) =>
      Array.from(
        { length: maxChannelBits },
        (_, bits) => cost * (normalErrors[bits] - normalErrors[bits + 1]),
      ),
    ),
  );
  savings.sort((a, b) => b - a);
  const perNibble = 4 * heads.length;
  return Array.from({ length: savings.length / perNibble }, (_, n) =>
    savings.slice(n * perNibble, (n + 1) * perNibble).reduce((a, b) => a + b),
  );
}

/** Two bits more for the next eight channels of every KV head, or four instead of two: what saves most first. */
function unitSavings(heads: readonly ArrayLike<number>[]) {
  const units = [];
  for (let first = 0; first < (heads[0]?.length ?? 0); first += fieldMultiple) {
    const cost = heads.reduce(
      (all, head) =>
        all +
        Array.from(head)
          .slice(first, first + fieldMultiple)
          .reduce((a, b) => a + b, 0),
      0,
    );
    units.push({ bits: 2, saving: cost * (fieldErrors[0] - fieldErrors[2]) });
    units.push({ bits: 4, saving: cost * (fieldErrors[2] - fieldErrors[4]) });
  }
  return units.sort((a, b) => b.saving - a.saving);
}

const unitsOf = ({ fours, twos }: FieldCounts) => (2 * fours + twos) / fieldMultiple;

function fieldsOf(units: readonly { bits: number }[]): FieldCounts {
  const fours = fieldMultiple * units.filter(({ bits }) => bits === 4).length;
  return { fours, twos: fieldMultiple * units.filter(({ bits }) => bits === 2).length - fours };
}
