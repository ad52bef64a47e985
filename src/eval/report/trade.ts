/** Quality against bytes: every method in several sizes, its front, and bits against KL by family. */
import { ensure } from '../../errors/errors.ts';
import { isOnFront } from '../compare.ts';
import { scatter } from '../scatter.ts';
import { isOurs, text, type Block } from './block.ts';
import { familyClass, familyIndex, familyOf } from './colours.ts';
import { change, percent, small } from './format.ts';
import { lineChart } from './line-chart.ts';
import { compareCommand, rowOf } from './measure.ts';
import type { Section } from './section.ts';

export interface TradePoint {
  readonly method: string;
  /** what it is called at its place in the chart */
  readonly label: string;
  readonly bytesPerToken: number;
  readonly bitsPerElement: number;
  readonly perplexityRatio: number;
  readonly kl: number;
  readonly top1: number;
  /** no other method has fewer bytes and a smaller KL */
  readonly front: boolean;
}

export interface TradeData {
  readonly families: readonly { readonly name: string; readonly points: readonly TradePoint[] }[];
}

/** A line of the chart: specs that differ in size alone, each with what it is called there. */
const families: Readonly<Record<string, readonly (readonly [label: string, spec: string])[]>> = {
  bitplane: ['1,2', '1.5,2', '2,2', '2,3', '3,3', '4,4'].map((bits) => {
    const [k, v] = bits.split(',');
    return [`k${k} v${v}`, `bitplane:k=${k},v=${v}`] as const;
  }),
  'bitplane, no window': ['1,2', '1.5,2', '2,2', '2,3', '3,3', '4,4'].map((bits) => {
    const [k, v] = bits.split(',');
    return [`k${k} v${v}`, `bitplane:k=${k},v=${v},window=0`] as const;
  }),
  h1b: [32, 64, 128, 256, 512, 1024].map((b) => [`b${b}`, `h1b:b=${b}`] as const),
  'h1b+': [64, 128, 256, 512].map((b) => [`b${b}`, `h1b+:b=${b}`] as const),
  kivi: [
    ['2 bits', 'kivi:2'],
    ['4 bits', 'kivi:4'],
  ],
  'kivi, no window': [
    ['2 bits', 'kivi:2,window=0'],
    ['4 bits', 'kivi:4,window=0'],
  ],
  'q4_0, q8_0': [
    ['q4_0', 'q4_0'],
    ['q8_0', 'q8_0'],
  ],
  loki: [64, 256].map((b) => [`b${b}`, `loki:b=${b}`] as const),
  sparse: [
    ['1/8', 'sparse:budget=0.125'],
    ['1/2', 'sparse:budget=0.5'],
  ],
  minicache: [['', 'minicache']],
  cq: [['', 'cq']],
};

const specsOf = () => Object.values(families).flatMap((list) => list.map(([, spec]) => spec));

export const section: Section<TradeData> = {
  title: 'Quality against bytes',
  specs: specsOf,
  async run(_, { measured }) {
    ensure(measured !== undefined, 'usage', () => 'report: the chart needs the texts measured.');
    const found = Object.entries(families).flatMap(([name, list]) =>
      list.flatMap(([label, spec]) => {
        const row = rowOf(measured, spec);
        return row ? [{ ...row, name, label, spec, beyond: row.all.beyond }] : [];
      }),
    );
    const pointsOf = (name: string) =>
      found
        .filter((each) => each.name === name)
        .map(({ spec, label, bytesPerToken, bitsPerElement, all, beyond }): TradePoint => ({
          ...{ method: spec, label, bytesPerToken, bitsPerElement },
          perplexityRatio: all.perplexityRatio,
          ...{ kl: beyond.kl, top1: beyond.top1 },
          front: isOnFront({ bytesPerToken, beyond }, found),
        }));
    return {
      families: Object.keys(families)
        .map((name) => ({ name, points: pointsOf(name) }))
        .filter(({ points }) => points.length > 0),
    };
  },
  render({ families }, context, { measured }): Block[] {
    const points = families.flatMap((family) =>
      family.points.map((point) => ({ ...point, family: family.name })),
    );
    const command = compareCommand(
      context,
      points.map(({ method }) => method),
    );
    const { beyond } = context.settings;
    const f16 = measured?.rows.find(({ method }) => method === 'f16');
    return [
      text(
        `Both axes are logarithmic and both are better when small. KL is over positions from ${beyond} on. Bits count everything that is held at the end of a window of ${measured?.context ?? context.settings.context} tokens; codebooks and exact windows weigh less in longer ones.`,
      ),
      {
        kind: 'chart',
        name: 'bits-kl',
        caption: 'Average bits per element of the cache against KL from f16, by family',
        command,
        draw: (width) =>
          lineChart(
            families.map(({ name, points }) => ({
              name,
              className: familyClass(name),
              ours: isOurs(name),
              dashed: name.includes('no window'),
              points: points.map(({ method, label, bitsPerElement, kl }) => ({
                ...{ x: bitsPerElement, y: kl, label },
                note: `${method}: ${bitsPerElement.toFixed(2)} bits, KL ${small(kl)}`,
              })),
            })),
            { width, xTitle: 'bits per element of the cache', yTitle: 'KL from f16, nats' },
          ),
      },
      {
        kind: 'chart',
        name: 'bytes-kl',
        caption:
          'Bytes per token against KL; the line joins the front: no other method has both fewer bytes and a smaller KL.',
        command,
        draw: (width) =>
          scatter(
            points.map((point, i) => ({
              ...{ number: i + 1, name: point.method, group: familyIndex(familyOf(point.method)) },
              ...{ x: point.bytesPerToken, y: point.kl, front: point.front },
              note: `${i + 1} ${point.method}: ${Math.round(point.bytesPerToken)} bytes per token, KL ${small(point.kl)}, top-1 ${percent(point.top1)}`,
            })),
            {
              ...{ width, height: width > 600 ? 560 : 430, names: width > 600 },
              xTitle: 'bytes per token',
              yTitle: 'KL from f16, nats',
              reference: { x: f16?.bytesPerToken ?? 1, name: 'f16' },
            },
          ),
      },
      {
        kind: 'table',
        caption: 'The points of both charts; * is on the front',
        command,
        columns: [
          { title: '#' },
          { title: 'method', words: true },
          { title: 'bytes/token' },
          { title: 'bits' },
          { title: 'perplexity to f16' },
          { title: 'KL' },
          { title: 'top-1' },
        ],
        rows: points.map((point, i) => ({
          ours: isOurs(point.method),
          command: compareCommand(context, [point.method]),
          cells: [
            String(i + 1),
            `${point.method}${point.front ? ' *' : ''}`,
            String(Math.round(point.bytesPerToken)),
            point.bitsPerElement.toFixed(2),
            change(point.perplexityRatio),
            small(point.kl),
            percent(point.top1),
          ],
        })),
      },
    ];
  },
};
