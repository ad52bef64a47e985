/** What fitting and finetuning win back: from no temperature at all to what was trained end to end. */
import { ensure } from '../../errors/errors.ts';
import type { Finetuned, FinetunedCodes, FinetunedLayer } from '../../cache/finetuned.ts';
import { parseSpec } from '../../cache/spec.ts';
import type { Tensor } from '../../kernels/kernels.ts';
import type { DecoderParts } from '../../model/decoder.ts';
import type { Model } from '../../model/model.ts';
import type { Interval } from '../bootstrap.ts';
import type { Figures } from '../task.ts';
import { isOurs, text, type Block, type Column, type Row } from './block.ts';
import { h1bkv } from './command.ts';
import type { ReportContext } from './context.ts';
import { dotRows } from './dot-rows.ts';
import { change, percent, small } from './format.ts';
import { compareCommand, rowOf } from './measure.ts';
import type { Section } from './section.ts';

export interface AdaptedFigures {
  readonly perplexityRatio: number;
  readonly perplexityRatioInterval?: Interval;
  readonly kl: number;
  readonly kl999: number;
  readonly top1: number;
}

export interface AdaptedRow extends AdaptedFigures {
  readonly label: string;
  readonly method: string;
  readonly bitsPerElement: number;
  /** of the loss that temperatures by head leave to f16; those have 0, f16 has 1 */
  readonly gapClosed?: number;
  /** the largest of the texts' */
  readonly worstRatio: number;
  /** over positions from `beyond` on */
  readonly beyond: AdaptedFigures;
  /** numbers that were fitted without gradients, or trained with them */
  readonly fitted?: number;
  readonly trained?: number;
}

export interface AdaptedData {
  /** of the model, norms and embedding included */
  readonly parameters: number;
  readonly rows: readonly AdaptedRow[];
}

interface Candidate {
  readonly label: string;
  readonly method: string;
  readonly fitted?: number;
  readonly trained?: number;
}

/** Loss of the others is compared with this one's. */
const basis = 'h1b:t=head';

/** Those that this model, its adapter or this program cannot run are left out when they are measured. */
export function candidates({ layers, adapter }: Model): Candidate[] {
  const calibrated = adapter?.statistics ? 'calibrated' : 'learnt from its first tokens';
  const finetuned = adapter?.finetuned ?? [];
  const heads = layers.reduce((sum, { nHeads }) => sum + nHeads, 0);
  return [
    { label: 'exact', method: 'f16' },
    { label: 'h1b, t = 1: nothing fitted', method: 'h1b:t=1' },
    { label: 'one t for the model', method: 'h1b:t=global', fitted: 1 },
    { label: 'one for each layer', method: 'h1b:t=layer', fitted: layers.length },
    { label: 'one for each head', method: basis, fitted: heads },
    { label: 'for each head, by the norm of the query', method: 'h1b:t=norm', fitted: heads },
    ...finetuned.filter(({ method }) => method === 'h1b').flatMap(finetunedCandidates),
    ...[1, 2, 3].flatMap((k): Candidate[] => [
      { label: `bitplane, k = ${k}, plain`, method: `bitplane:k=${k},alloc=none` },
      { label: `bitplane, k = ${k}, ${calibrated}`, method: `bitplane:k=${k}` },
    ]),
    { label: 'bitplane', method: 'bitplane' },
    { label: 'bitplane-small', method: 'bitplane-small' },
    ...finetuned.filter(({ method }) => method === 'bitplane').flatMap(finetunedCandidates),
  ];
}

function finetunedCandidates(variant: Finetuned): Candidate[] {
  const { name, method } = variant;
  const what = `finetuned: ${whatWasTrained(variant)}`;
  return [
    {
      label: variant.method === 'h1b' ? what : `${shortSpec(variant)}, ${what}`,
      method: `${method}:tuned=${name}`,
      trained: trainedNumbers(variant),
    },
    { label: `f16 with the values of ${name}`, method: `f16:tuned=${name}` },
  ];
}

/** What tells one `bitplane` from the other. */
function shortSpec({ spec }: FinetunedCodes): string {
  const { name, settings } = parseSpec(spec);
  return `${name}, ${['k', 'v', 'window'].map((key) => `${key} = ${settings.get(key)}`).join(', ')}`;
}

/** @param variant one whose layers are alike in what was trained */
function whatWasTrained({ layers: [{ values, projection }] }: Finetuned): string {
  const ofValues = { 0: [], 1: ['whole value projection'] }[values.length];
  return [
    'temperatures',
    ...(ofValues ?? [`value projection by rank ${values[0].shape[0]}`]),
    ...(projection ? ['R'] : []),
  ].join(', ');
}

export const trainedNumbers = ({ layers }: Finetuned): number =>
  layers.reduce((sum, layer) => sum + numbersOf(layer), 0);

const numbersOf = ({ temperatures, values, projection }: FinetunedLayer) =>
  values.reduce((sum, { numbers }) => sum + numbers.length, temperatures.length) +
  (projection?.length ?? 0);

/** Numbers in all weights, an embedding that is the output, too, counted once. */
export function parameterCount({ tokenEmbedding, outputNorm, output, layers }: DecoderParts) {
  const tensors: Tensor[] = [
    ...new Set([tokenEmbedding, outputNorm, output]),
    ...layers.flatMap(({ bias = {}, norm = {}, ...weights }): Tensor[] =>
      [weights, bias, norm].flatMap((group) => Object.values(group) as Tensor[]),
    ),
  ];
  return tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

export const section: Section<AdaptedData> = {
  title: 'What fitting and finetuning win back',
  specs: ({ model }) => candidates(model).map(({ method }) => method),
  async run({ model }, { measured }) {
    ensure(measured !== undefined, 'usage', () => 'report: this needs the texts measured.');
    const gap = rowOf(measured, basis)?.all.perplexityRatio;
    const rows = candidates(model).flatMap((candidate): AdaptedRow[] => {
      const row = rowOf(measured, candidate.method);
      if (!row) return [];
      const { all, texts, bitsPerElement } = row;
      const closed = gapClosed(all.perplexityRatio, gap);
      return [
        {
          ...candidate,
          ...figuresOf(all),
          bitsPerElement,
          ...(closed !== undefined && { gapClosed: closed }),
          worstRatio: Math.max(...texts.map(({ perplexityRatio }) => perplexityRatio)),
          beyond: figuresOf(all.beyond),
        },
      ];
    });
    return { parameters: parameterCount(model.parts), rows };
  },
  render({ parameters, rows }, context): Block[] {
    const { beyond } = context.settings;
    const command = compareCommand(
      context,
      rows.map(({ method }) => method),
    );
    const first = `Weights stay as they are in all rows but those finetuned, which add to the value projection. The gap is the loss that h1b with a temperature for each head leaves to f16: 100 % of it closed is f16, below 0 is worse than those. Plain bitplane spreads its bits evenly after a random rotation, and knows the means alone; calibrated, it lets the adapter's statistics say which channels and layers get them. The second table is over positions from ${beyond} on. The model has ${parameters.toLocaleString('en')} parameters; a share is what was fitted or trained, of them.`;
    return [
      text(first),
      ...(rows.some(({ trained }) => trained !== undefined)
        ? [text('An adapter does not say how long it was trained.')]
        : [
            text(
              `The adapter of this model holds nothing finetuned; ${howToTrain(context)} adds it.`,
            ),
          ]),
      {
        kind: 'chart',
        name: 'adapted',
        caption: 'Perplexity over that of f16, with 95 % intervals. Further left is better.',
        command,
        draw: (width) =>
          dotRows(
            rows.map(({ method, perplexityRatio: value, perplexityRatioInterval: interval }) => ({
              ...{ label: method, method },
              dots: [{ value, ...interval, note: `${method}: perplexity ${change(value)} of f16` }],
            })),
            {
              ...{ width, log: true, title: 'perplexity / that of f16' },
              format: (x) => Number(x.toPrecision(3)).toString(),
              reference: { value: 1, name: 'f16' },
            },
          ),
      },
      {
        kind: 'table',
        caption: 'Fitted, trained, calibrated: what each leaves to f16',
        command,
        columns: [
          ...named,
          { title: 'numbers' },
          { title: 'share' },
          { title: 'bits' },
          ...figures,
          { title: 'gap closed' },
        ],
        rows: rows.map((row) =>
          rowOfTable(row, context, [
            ...sizes(row, parameters),
            ...cellsOf(row),
            row.gapClosed === undefined ? '' : percent(row.gapClosed, 0),
          ]),
        ),
      },
      {
        kind: 'table',
        caption: `The same over positions from ${beyond} on`,
        command,
        columns: [...named, ...figures],
        rows: rows.map((row) => rowOfTable(row, context, cellsOf(row.beyond))),
      },
    ];
  },
};

const named: readonly Column[] = [
  { title: 'what was adapted', words: true },
  { title: 'spec', words: true },
];
const figures: readonly Column[] = [
  { title: 'perplexity to f16' },
  { title: '95 %' },
  { title: 'KL' },
  { title: 'KL, 99.9 %' },
  { title: 'top-1' },
];

function rowOfTable(
  { label, method }: AdaptedRow,
  context: ReportContext,
  cells: readonly string[],
): Row {
  return {
    ours: isOurs(method),
    command: compareCommand(context, [method]),
    cells: [label, method, ...cells],
  };
}

function sizes({ fitted, trained, bitsPerElement }: AdaptedRow, parameters: number): string[] {
  const count = trained ?? fitted;
  return [
    count === undefined ? '' : `${count.toLocaleString('en')} ${trained ? 'trained' : 'fitted'}`,
    count === undefined ? '' : percent(count / parameters, 4),
    bitsPerElement.toFixed(2),
  ];
}

function cellsOf({
  perplexityRatio,
  perplexityRatioInterval: interval,
  kl,
  kl999,
  top1,
}: AdaptedFigures) {
  return [
    change(perplexityRatio),
    interval ? `${change(interval.low)} to ${change(interval.high)}` : '',
    ...[small(kl), small(kl999), percent(top1)],
  ];
}

/**
 * The share of a loss that is won back, by perplexities over that of f16.
 * @param left that of which nothing is won back; undefined, or no worse than f16: there is no gap
 */
export function gapClosed(ratio: number, left: number | undefined): number | undefined {
  return left !== undefined && left > 1 ? 1 - Math.log(ratio) / Math.log(left) : undefined;
}

const figuresOf = ({
  perplexityRatio,
  perplexityRatioInterval,
  kl,
  kl999,
  top1,
}: Figures): AdaptedFigures => ({
  ...{ perplexityRatio, kl, kl999, top1 },
  ...(perplexityRatioInterval && { perplexityRatioInterval }),
});

/** The command that adds what the paper trains: temperatures and a value projection of rank 2. */
export const howToTrain = ({ modelFlag }: ReportContext) =>
  h1bkv('finetune', ['--model', modelFlag], ['--text', 'books/'], ['--values', 'rank:2']);
