/** One setting changed at a time, of the paper's method and of ours. */
import { ensure } from '../../errors/errors.ts';
import type { LeftOut } from '../compare.ts';
import { isOurs, text, type Block } from './block.ts';
import { dotRows } from './dot-rows.ts';
import { change, percent, small } from './format.ts';
import { compareCommand, rowOf } from './measure.ts';
import type { Section } from './section.ts';

/** Specs that differ in one thing, and what each of them is called. */
interface Group {
  readonly title: string;
  readonly specs: readonly (readonly [label: string, spec: string])[];
}

export interface AblationRow {
  readonly label: string;
  readonly method: string;
  readonly bitsPerElement: number;
  readonly perplexityRatio: number;
  /** over positions from `beyond` on, as the others below */
  readonly kl: number;
  readonly klInterval?: { readonly low: number; readonly high: number };
  readonly top1: number;
  /** smallest and largest KL of the seeds */
  readonly seedKl?: { readonly low: number; readonly high: number };
}

export interface AblationData {
  readonly groups: readonly { readonly title: string; readonly rows: readonly AblationRow[] }[];
  readonly leftOut: readonly LeftOut[];
}

export const widths = [32, 64, 128, 256, 512, 1024];

const groups: readonly Group[] = [
  {
    title: 'h1b: temperature of the softmax, b = 256',
    specs: [
      ['t = 1, not tuned', 'h1b:t=1'],
      ['one for the model', 'h1b:t=global'],
      ['one for each layer', 'h1b:t=layer'],
      ['one for each head', 'h1b:t=head'],
    ],
  },
  {
    title: 'h1b: bits b of a key’s sketch, t by head',
    specs: widths.map((b) => [`b = ${b}`, `h1b:b=${b},t=head`] as const),
  },
  {
    title: 'h1b: the projection R, t by head',
    specs: [128, 256].flatMap((b) => [
      [`Gaussian, b = ${b}`, `h1b:b=${b},t=head`] as const,
      [`orthogonal, b = ${b}`, `h1b:b=${b},t=head,r=orthogonal`] as const,
    ]),
  },
  {
    title: 'h1b: keys alone, and keys and values, b = 256',
    specs: [
      ['keys alone (loki)', 'loki'],
      ['keys and values', 'h1b'],
    ],
  },
  {
    title: 'h1b: what the sketch throws away, b = 256',
    specs: [
      ['signs of query and key', 'h1b'],
      ['whole query, norms (h1b+)', 'h1b+'],
    ],
  },
  {
    title: 'bitplane: keys alone, values f16, no window',
    specs: ['1', '2', '3'].flatMap((k) => {
      const spec = `bitplane:k=${k},v=16,window=0,sinks=0`;
      return [
        [`k = ${k}, allocated`, spec],
        [`k = ${k}, evenly, random rotation`, `${spec},alloc=none`],
      ] as const;
    }),
  },
  {
    title: 'bitplane: values alone, keys f16, no window',
    specs: [2, 3, 4].map((v) => [`v = ${v}`, `bitplane:k=16,v=${v},window=0,sinks=0`] as const),
  },
  {
    title: 'bitplane: bits per key channel, values of 2 bits',
    specs: ['1', '1.5', '2', '3'].map((k) => [`k = ${k}`, `bitplane:k=${k},v=2`] as const),
  },
  {
    title: 'bitplane: bits per value, keys of 2 bits',
    specs: [2, 3, 4].map((v) => [`v = ${v}`, `bitplane:k=2,v=${v}`] as const),
  },
  {
    title: 'bitplane: newest positions that stay exact',
    specs: [0, 32, 64, 128].map((w) => [`window = ${w}`, `bitplane:window=${w}`] as const),
  },
  {
    title: 'bitplane: centring and allocation, no window',
    specs: [
      ['both', 'bitplane:window=0'],
      ['not centred', 'bitplane:window=0,centre=none'],
      ['bits evenly, random rotation', 'bitplane:window=0,alloc=none'],
      ['neither', 'bitplane:window=0,alloc=none,centre=none'],
      ['learnt from 256 tokens', 'bitplane:window=0,source=first'],
    ],
  },
];

const specsOf = () => [...new Set(groups.flatMap(({ specs }) => specs.map(([, spec]) => spec)))];

export const section: Section<AblationData> = {
  title: 'Ablations',
  specs: specsOf,
  async run(_, { measured }) {
    ensure(measured !== undefined, 'usage', () => 'report: ablations need the texts measured.');
    const wanted = specsOf();
    return {
      leftOut: measured.leftOut.filter(({ method }) => wanted.includes(method)),
      groups: groups.flatMap(({ title, specs }) => {
        const rows = specs.flatMap(([label, spec]): AblationRow[] => {
          const row = rowOf(measured, spec);
          if (!row) return [];
          const { beyond, perplexityRatio } = row.all;
          return [
            {
              ...{ label, method: spec, bitsPerElement: row.bitsPerElement, perplexityRatio },
              ...{ kl: beyond.kl, top1: beyond.top1 },
              ...(beyond.klInterval && { klInterval: beyond.klInterval }),
              ...(beyond.seedSpread && { seedKl: beyond.seedSpread.kl }),
            },
          ];
        });
        return rows.length > 0 ? [{ title, rows }] : [];
      }),
    };
  },
  render({ groups, leftOut }, context): Block[] {
    const { beyond, seeds } = context.settings;
    const all = groups.flatMap(({ rows }) => rows.map(({ method }) => method));
    const command = compareCommand(context, [...new Set(all)]);
    return [
      text(
        `One thing changes within a group. KL is that of the next token's distribution from f16's, in nats, over positions from ${beyond} on of all texts; where a method draws from a seed it is the mean of ${seeds}. Bits are of everything that is held, per element of keys and values. An orthogonal R has the temperatures that were fitted on a Gaussian one.`,
      ),
      {
        kind: 'chart',
        name: 'ablations',
        caption: 'KL from f16 (nats), with 95 % intervals. Further left is better.',
        command,
        draw: (width) =>
          dotRows(
            groups.flatMap(({ title, rows }) =>
              rows.map(({ label, method, kl, klInterval }, i) => ({
                label,
                method,
                ...(i === 0 && { heading: title }),
                dots: [{ value: kl, ...klInterval, note: `${method}: KL ${small(kl)}` }],
              })),
            ),
            {
              ...{ width, log: true, title: 'KL from f16', columns: width > 600 ? 2 : 1 },
              format: (x) => (x < 1e-3 ? x.toExponential(0) : String(Number(x.toPrecision(2)))),
            },
          ),
      },
      ...groups.map(({ title, rows }): Block => {
        return {
          kind: 'table',
          caption: title,
          command: compareCommand(
            context,
            rows.map(({ method }) => method),
          ),
          columns: [
            { title: 'setting', words: true },
            { title: 'spec', words: true },
            { title: 'bits' },
            { title: 'perplexity to f16' },
            { title: 'KL' },
            { title: 'KL, seeds' },
            { title: 'top-1' },
          ],
          rows: rows.map((row) => ({
            ours: isOurs(row.method),
            command: compareCommand(context, [row.method]),
            cells: [
              row.label,
              row.method,
              row.bitsPerElement.toFixed(2),
              change(row.perplexityRatio),
              small(row.kl),
              row.seedKl ? `${small(row.seedKl.low)} to ${small(row.seedKl.high)}` : '',
              percent(row.top1),
            ],
          })),
        };
      }),
      ...(leftOut.length > 0
        ? [
            text(
              `Left out: ${leftOut.map(({ method }) => method).join(' ')}. The first, because: ${leftOut[0].reason}`,
            ),
          ]
        : []),
    ];
  },
};

/** KL of a spec among the ablations, if it was measured. */
export function ablatedRow(data: AblationData | undefined, method: string) {
  return data?.groups.flatMap(({ rows }) => rows).find((row) => row.method === method);
}
