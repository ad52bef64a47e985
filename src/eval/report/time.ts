/** Where the time of one token goes at a long context: reading the cache, the rest of attention, the rest. */
import type { LayerShape } from '../../cache/cache.ts';
import { namedShapes, type ModelShape } from '../../model/shapes.ts';
import { decodeSpeeds } from '../decode-speed.ts';
import { isOurs, text, type Block } from './block.ts';
import { megabytes, milliseconds, times } from './format.ts';
import { resumed } from './measure.ts';
import { paperTimes } from './paper.ts';
import { sectionCommand, type OnShare, type ReportContext } from './context.ts';
import type { Section } from './section.ts';
import { stackedBars } from './stacked-bars.ts';

export interface TimeRow {
  readonly method: string;
  readonly bytes: number;
  /** those bytes at the speed of memory, at most the attention itself */
  readonly loadMs: number;
  /** one token's attention in all layers, reading included */
  readonly attendMs: number;
}

export interface TimeData {
  readonly depth: number;
  /** what all threads read from memory, 10^9 bytes a second */
  readonly memoryGigabytes: number;
  /** all but attention: a token of this model with a nearly empty cache */
  readonly restMs: number;
  /** the model's own shape, then the paper's */
  readonly parts: readonly {
    readonly name: string;
    /** whether `restMs` belongs to it */
    readonly own: boolean;
    readonly rows: readonly TimeRow[];
  }[];
}

/** Those that the kernels attend to directly; the others decode in TypeScript, which says nothing of a method. */
const methods = [
  'f16',
  'loki:t=0.07',
  'h1b:t=0.07',
  'h1b:b=128,t=0.07',
  'h1b+',
  'bitplane',
  'bitplane-small',
];

/** Of each method; the median counts. */
const turns = 9;

export const section: Section<TimeData> = {
  title: 'Where the time of a token goes',
  work: () => 1e5,
  run: (context, _, onShare) =>
    resumed(context.journal, `time ${methods.join(' ')}`, 0, () => timeAll(context, onShare)),
  render(data, context): Block[] {
    const command = sectionCommand('time', context);
    return [
      text(
        `One token at a context of ${data.depth}, random keys and values, ${context.model.kernels.description}. No model of this length or size is run: caches of a few layers are filled and asked, and their time is scaled to all layers. It is the median of ${turns} turns, in which the methods alternate and read other memory in between, as they would read weights. Cache load is the cache's bytes at the speed of this machine's memory, ${data.memoryGigabytes.toFixed(1)} GB/s: what reading them takes at least where they lie in no processor cache, and at most the attention itself. Attention is measured, reading included. The rest is a token of ${context.model.name} with a nearly empty cache: projections, feed-forward, logits.`,
      ),
      ...data.parts.flatMap((part): Block[] => [
        {
          kind: 'chart',
          name: `time-${part.name.replace(/[^\w-]+/g, '-')}`,
          caption: `${part.name}: milliseconds of one token at a context of ${data.depth}`,
          command,
          draw: (width) =>
            stackedBars(
              part.rows.map(({ method, loadMs, attendMs }) => ({
                label: method,
                parts: [loadMs, attendMs - loadMs, ...(part.own ? [data.restMs] : [])],
              })),
              {
                width,
                title: 'ms',
                names: ['cache load', 'attention beyond it', ...(part.own ? ['rest'] : [])],
                format: milliseconds,
              },
            ),
        },
        {
          kind: 'table',
          caption: `${part.name} at ${data.depth}, milliseconds`,
          command,
          columns: [
            { title: 'method', words: true },
            { title: 'cache, MB' },
            { title: 'cache load' },
            { title: 'attention' },
            { title: 'f16 / it' },
            ...(part.own ? [{ title: 'rest' }, { title: 'token' }] : []),
            ...(part.own
              ? []
              : [
                  { title: 'paper: load', paper: true as const },
                  { title: 'attention', paper: true as const },
                ]),
          ],
          rows: part.rows.map(({ method, bytes, loadMs, attendMs }) => ({
            ours: isOurs(method),
            cells: [
              method,
              megabytes(bytes),
              milliseconds(loadMs),
              milliseconds(attendMs),
              times(part.rows[0].attendMs / attendMs),
              ...(part.own
                ? [milliseconds(data.restMs), milliseconds(data.restMs + attendMs)]
                : paperCells(method)),
            ],
          })),
        },
      ]),
    ];
  },
};

function paperCells(method: string): string[] {
  const reported = { f16: paperTimes.f16, 'h1b:t=0.07': paperTimes.h1b }[method];
  return reported ? [String(reported.loadMs), String(reported.attentionMs)] : ['', ''];
}

async function timeAll(
  { model, settings: { depth }, shapes, instruments }: ReportContext,
  onShare: OnShare,
): Promise<TimeData> {
  onShare(0, 'speed of memory');
  const memoryGigabytes = await instruments.memoryGigabytes();
  const ids = new Int32Array(32).fill(model.tokenizer.encode('the')[0] ?? 0);
  const [speed] = await decodeSpeeds(model, ids, ['f16']);
  const own = shapeOf(model.layers, model.vocabSize);
  const wanted = [
    { name: model.name, own: true, shape: own },
    { name: shapes[0], own: false, shape: namedShapes[shapes[0]] },
  ];
  const parts: TimeData['parts'][number][] = [];
  for (const { name, own, shape } of wanted) {
    const [from, upTo] = own ? [0.1, 0.4] : [0.4, 1];
    const timed = await instruments.attentionMs(shape, methods, {
      ...{ depth, turns },
      onPhase: (what, done, total) =>
        onShare(from + ((upTo - from) * done) / total, `${name}, ${what}`),
    });
    const rows = timed.map(({ attendMs, bytes }, i) => {
      const loadMs = Math.min(attendMs, bytes / memoryGigabytes / 1e6);
      return { method: methods[i], bytes, loadMs, attendMs };
    });
    parts.push({ name, own, rows });
  }
  return { depth, memoryGigabytes, restMs: 1000 / speed, parts };
}

/** The model's attention as a named shape has it; what attention does not need is 0. */
function shapeOf(layers: readonly LayerShape[], vocabSize: number): ModelShape {
  const [{ nHeads, nKvHeads, headDimK: headDim }] = layers;
  const dModel = nHeads * headDim;
  return { nLayers: layers.length, dModel, nHeads, nKvHeads, headDim, dFeedForward: 0, vocabSize };
}
