/** Method by bytes, perplexity and quality per byte, beside the paper's table. */
import { isOurs, text, type Column, type Row } from './block.ts';
import { dotRows, type Dot } from './dot-rows.ts';
import { change, megabytes, shortName } from './format.ts';
import { compareCommand, rowOf, type MeasuredRow } from './measure.ts';
import { paperQuality } from './paper.ts';
import type { ReportContext } from './context.ts';
import type { Section } from './section.ts';

export interface QualityData {
  /** specs in the order of the table; figures are in `measured` */
  readonly methods: readonly string[];
}

const methods = [
  ...['f16', 'q8_0', 'q4_0', 'minicache', 'kivi:4', 'kivi:2', 'sparse:budget=0.125', 'loki'],
  ...['cq', 'h1b', 'h1b:b=128', 'h1b+', 'bitplane', 'bitplane-small', 'bitplane:k=2,v=3'],
];

export const section: Section<QualityData> = {
  title: 'Bytes, perplexity and quality per byte',
  specs: () => methods,
  run: async (_, { measured }) => ({
    methods: methods.filter((spec) => rowOf(measured, spec)),
  }),
  render({ methods }, context, { measured }) {
    if (!measured) return [];
    const rows = methods.flatMap((spec) => {
      const row = rowOf(measured, spec);
      return row ? [{ spec, row }] : [];
    });
    const command = compareCommand(context, methods);
    const { texts } = context;
    return [
      text(
        `Windows of ${measured.context} tokens that follow each other, of which all predictions are scored${protocolOf(measured.context)}; ${texts.map(({ name }, i) => `${measured.windows[i]} of ${shortName(name)}`).join(', ')}. MB are 10⁶ bytes of all that a cache holds at the end of a window: scales, exact windows and codebooks too. QpB is the paper's quality per byte, 1000 / (perplexity × MB): it grows as a cache shrinks, however bad the text becomes. The paper's own figures stand at the right, in italics: its 60M model on 8k tokens of WikiText-2 and PTB, not our model and not our texts; ${namesOf()}.`,
      ),
      {
        kind: 'chart',
        name: 'perplexity',
        caption: `Perplexity over that of f16, with 95 % intervals: ${texts.map(({ name }, i) => `${i === 0 ? 'filled' : i === 1 ? 'hollow' : `number ${i + 1}`} ${shortName(name)}`).join(', ')}. Further left is better.`,
        command,
        draw: (width) => drawRatios(rows, context, width),
      },
      {
        kind: 'table',
        caption: 'Each method on each text, and what the paper reports of it',
        command,
        columns: columnsOf(context),
        rows: rows.map(({ spec, row }) => tableRow(spec, row, context)),
      },
    ];
  },
};

/** The name of such windows in `h1bkv eval --protocol`. */
const protocolOf = (context: number) =>
  context === 2048 ? ', as protocol gptq does' : ', as protocol gptq does at 2048';

/** What the paper calls the methods of its table. */
const namesOf = () =>
  Object.entries(paperQuality)
    .map(([spec, { name }]) => `${spec} is its ${name}`)
    .join(', ');

interface Shown {
  readonly spec: string;
  readonly row: MeasuredRow;
}

function drawRatios(rows: readonly Shown[], { texts }: ReportContext, width: number): string {
  return dotRows(
    rows.map(({ spec, row }) => ({
      label: spec,
      method: spec,
      dots: row.texts.map((figures, i): Dot => {
        const { perplexityRatio: value, perplexityRatioInterval: interval } = figures;
        return {
          value: Math.max(value, 1e-3),
          ...(interval && { low: interval.low, high: interval.high }),
          hollow: i % 2 === 1,
          note: `${spec}, ${shortName(texts[i].name)}: perplexity ${change(value)} of f16`,
        };
      }),
    })),
    {
      width,
      log: true,
      title: 'perplexity / that of f16',
      format: (x) => Number(x.toPrecision(3)).toString(),
      reference: { value: 1, name: 'f16' },
    },
  );
}

function columnsOf({ texts }: ReportContext): Column[] {
  return [
    { title: 'method', words: true },
    { title: 'MB' },
    ...texts.flatMap(({ name }): Column[] => [
      { title: `${shortName(name)}: perplexity` },
      { title: 'to f16' },
      { title: 'QpB' },
    ]),
    { title: 'paper: MB', paper: true },
    { title: 'WikiText-2', paper: true },
    { title: 'PTB', paper: true },
    { title: 'QpB', paper: true },
  ];
}

function tableRow(spec: string, row: MeasuredRow, context: ReportContext): Row {
  const paper = paperQuality[spec];
  return {
    ours: isOurs(spec),
    command: compareCommand(context, [spec]),
    cells: [
      spec,
      megabytes(row.bytes.total),
      ...row.texts.flatMap(({ perplexity, perplexityRatio, qpb }) => [
        perplexity.toFixed(2),
        change(perplexityRatio),
        qpb.toPrecision(4),
      ]),
      ...(paper
        ? [
            String(paper.megabytes),
            paper.wikitext.toFixed(2),
            paper.ptb.toFixed(2),
            paper.qpb.toFixed(2),
          ]
        : ['', '', '', '']),
    ],
  };
}
