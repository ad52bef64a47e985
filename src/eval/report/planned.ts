/** Bytes at the size of the paper's large model and of one with grouped queries; nothing is run. */
import { layersOf, namedShapes, type ShapeName } from '../../model/shapes.ts';
import { isOurs, text, type Block } from './block.ts';
import { h1bkv } from './command.ts';
import { dotRows, type Dot } from './dot-rows.ts';
import { megabytes, times } from './format.ts';
import { resumed } from './measure.ts';
import { paperLarge } from './paper.ts';
import type { ReportContext } from './context.ts';
import type { Section } from './section.ts';

export interface PlannedRow {
  readonly method: string;
  /** by shape */
  readonly bytes: readonly number[];
}

export interface PlannedData {
  readonly shapes: readonly ShapeName[];
  readonly positions: number;
  readonly rows: readonly PlannedRow[];
}

const methods = [
  ...['f16', 'q8_0', 'q4_0', 'minicache', 'kivi:2', 'sparse:budget=0.125', 'loki', 'cq'],
  ...['h1b', 'h1b:b=128', 'h1b+', 'bitplane', 'bitplane-small', 'bitplane:k=1,v=2,window=0'],
];

/** That of the paper's figure. */
const positions = 8192;

export const section: Section<PlannedData> = {
  title: 'The same at the size of a 7B model: bytes alone',
  work: () => 5e4,
  async run({ shapes, instruments, journal }, _, onShare) {
    const rows: PlannedRow[] = [];
    for (const [i, method] of methods.entries()) {
      const key = `planned ${method} ${shapes.join(' ')} ${positions}`;
      const bytes = await resumed(journal, key, 0, async () => {
        const all: number[] = [];
        for (const name of shapes) {
          // Layers are alike, so bytes are linear in their number: 4 and 8 tell, in less time.
          const shape = namedShapes[name];
          const of = (nLayers: number) =>
            instruments.plannedBytes(method, layersOf({ ...shape, nLayers }), positions);
          const [four, eight] = [await of(4), await of(8)];
          all.push(four + ((eight - four) * (shape.nLayers - 4)) / 4);
        }
        return all;
      });
      rows.push({ method, bytes });
      onShare((i + 1) / methods.length);
    }
    return { shapes, positions, rows };
  },
  render({ shapes, positions, rows }): Block[] {
    const [f16] = rows;
    const commandOf = (specs: readonly string[]) =>
      shapes
        .map((shape) =>
          h1bkv('plan', ['--model', shape], ['--context', positions], ['--cache', specs.join(' ')]),
        )
        .join('\n');
    const command = commandOf(rows.map(({ method }) => method));
    const sizes = shapes.map((name) => {
      const { nLayers, nKvHeads, headDim } = namedShapes[name];
      return `${name} has ${nLayers} layers of ${nKvHeads} KV heads of ${headDim}`;
    });
    return [
      text(
        `${sizes.join('; ')}. Bytes at ${positions} positions come from the planner, which asks the caches themselves; no model of this size was run, so nothing here says how well it writes.`,
      ),
      {
        kind: 'chart',
        name: 'bytes-7b',
        caption: `MB of the cache at ${positions} positions of ${shapes[0]}: filled, counted by the planner; hollow, reported by the paper. Further left is smaller.`,
        command,
        draw: (width) =>
          dotRows(
            rows.map(({ method, bytes }) => ({
              label: method,
              method,
              dots: [
                { value: bytes[0] / 1e6, note: `${method}: ${megabytes(bytes[0])} MB counted` },
                ...paperDots(method),
              ],
            })),
            {
              width,
              log: true,
              title: 'MB',
              format: (x) => Number(x.toPrecision(3)).toLocaleString('en'),
            },
          ),
      },
      {
        kind: 'table',
        caption: 'MB counted by the planner, and MB that the paper reports',
        command,
        columns: [
          { title: 'method', words: true },
          ...shapes.flatMap((name) => [{ title: `${name}, MB` }, { title: 'f16 / it' }]),
          { title: 'paper: 7B, MB', paper: true },
          { title: 'perplexity', paper: true },
        ],
        rows: rows.map(({ method, bytes }) => {
          const paper = paperLarge[method];
          return {
            ours: isOurs(method),
            command: commandOf([method]),
            cells: [
              method,
              ...bytes.flatMap((each, i) => [megabytes(each), times(f16.bytes[i] / each)]),
              paper ? String(paper.megabytes) : '',
              paper ? paper.perplexity.toFixed(2) : '',
            ],
          };
        }),
      },
    ];
  },
};

function paperDots(method: string): Dot[] {
  const paper = paperLarge[method];
  if (!paper) return [];
  return [
    { value: paper.megabytes, hollow: true, note: `${method}: ${paper.megabytes} MB, reported` },
  ];
}

/** Bytes of a spec at a shape, if both are in the table. */
export function plannedAt(data: PlannedData | undefined, method: string, shape = 0) {
  return data?.rows.find((row) => row.method === method)?.bytes[shape];
}

export const defaultShapes = (): ReportContext['shapes'] => ['llama-2-7b', 'qwen2.5-7b'];
