import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { forgeModel, smallModel, tinyShape } from '../../../test/forged.ts';
import type { Finetuned } from '../../cache/finetuned.ts';
import { adapterBytes } from '../../model/adapter-file.ts';
import { loadModel } from '../../model/load.ts';
import type { Model } from '../../model/model.ts';
import { gapClosed, parameterCount, trainedNumbers, type AdaptedData } from './adapted.ts';
import type { ReportContext } from './context.ts';
import { renderReport, runReport } from './report.ts';
import { sections, type ReportData } from './sections.ts';

const { nLayers, nHeads, nKvHeads, headDim } = tinyShape;
const dModel = 32;
const rows = nKvHeads * headDim;

/** A finetuning of the forged model. @param rank of what is added to the value projections; 0: nothing */
function variant(name: string, rank: number): Finetuned {
  const matrix = (shape: [number, number]) => ({
    shape,
    numbers: Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => Math.sin(i) / 10),
  });
  const values = rank > 0 ? [matrix([rank, dModel]), matrix([rows, rank])] : [];
  const layer = { temperatures: new Float32Array(nHeads).fill(0.3), values };
  return {
    method: 'h1b',
    name,
    bits: 64,
    seed: 0,
    layers: Array.from({ length: nLayers }, () => layer),
  };
}

/** As if `bitplane` without statistics had been trained for. */
const codes: Finetuned = {
  ...{ method: 'bitplane', name: 'codes', spec: 'bitplane:k=1,v=2,window=8,sinks=0' },
  layers: variant('codes', 2).layers,
};

const text = Array.from({ length: 40 }, (_, i) => `${i} the cat sat on ${i % 7} mats. `).join('');
const texts = [{ name: 'cats.txt', text }];

const contextOf = (model: Model): ReportContext => ({
  ...{ model, texts, shapes: [] },
  settings: { context: 64, beyond: 32, limit: 2, seeds: 1, items: 1, seed: 1, depth: 64 },
  instruments: {
    plannedBytes: async () => 1,
    attentionMs: async () => [],
    memoryGigabytes: async () => 1,
    runPython: async () => ({ ok: false }),
  },
});

let bare: Model;
let tuned: Model;
let data: ReportData;

beforeAll(async () => {
  bare = await forgeModel({ dModel });
  const heads = Array.from({ length: nLayers }, () => Array<number>(nHeads).fill(0.2));
  const fit = { bits: 256, global: 0.2, layer: heads.map(() => 0.2), head: heads };
  const adapter = adapterBytes({
    ...{ model: bare.hash, text: '', temperatures: [fit] },
    finetuned: [variant('t', 0), variant('rank2', 2), codes],
  });
  tuned = await forgeModel({ dModel }, { adapter });
  data = await runReport(['adapted', 'verdict'], sections, contextOf(tuned));
}, 60_000);
afterAll(() => {
  bare.dispose();
  tuned.dispose();
});

const rowOf = (method: string) => data.adapted?.rows.find((row) => row.method === method);

describe('what was adapted', () => {
  test('has a row for each finetuned part of the adapter, and none for what cannot run', () => {
    expect(rowOf('h1b:tuned=t')?.label).toBe('finetuned: temperatures');
    expect(rowOf('h1b:tuned=rank2')?.label).toMatch(/temperatures, value projection by rank 2$/);
    expect(rowOf('bitplane:k=2')).toBeDefined();
    expect(rowOf('bitplane:tuned=codes')?.label).toMatch(
      /^bitplane, k = 1, v = 2, window = 8, finetuned: temperatures, value projection by rank 2$/,
    );
    for (const { kl, beyond } of data.adapted?.rows ?? []) expect(kl + beyond.kl).not.toBeNaN();
  });

  test('counts what was trained, and all that could be', () => {
    const [t, rank2] = ['h1b:tuned=t', 'h1b:tuned=rank2'].map(rowOf);
    expect(t?.trained).toBe(nLayers * nHeads);
    expect(rank2?.trained).toBe(nLayers * (nHeads + 2 * dModel + rows * 2));
    const r = Float32Array.of(1, 2, 3);
    const withR = variant('r', 0).layers.map((layer) => ({ ...layer, projection: r }));
    expect(trainedNumbers({ ...variant('r', 0), layers: withR })).toBe(nLayers * (nHeads + 3));
    const { vocab, dFeedForward } = tinyShape;
    const ofLayer = 2 * dModel + 2 * dModel * nHeads * headDim + 2 * dModel * rows;
    const ofFeedForward = 3 * dModel * dFeedForward;
    const outside = (tinyShape.tied ? 1 : 2) * vocab * dModel + dModel;
    expect(data.adapted?.parameters).toBe(outside + nLayers * (ofLayer + ofFeedForward));
    expect(parameterCount(bare.parts)).toBe(data.adapted?.parameters);
  });

  test('closes a share of the loss, where there is one', () => {
    const [none, half, all, worse] = [1.3, Math.sqrt(1.3), 1, 1.69];
    expect([none, half, all, worse].map((ratio) => gapClosed(ratio, 1.3))).toEqual([
      0,
      expect.closeTo(0.5, 12),
      1,
      expect.closeTo(-1, 12),
    ]);
    expect(gapClosed(0.9, 1)).toBeUndefined();
    expect(gapClosed(1, undefined)).toBeUndefined();
    const left = rowOf('h1b:t=head')?.perplexityRatio;
    for (const row of data.adapted?.rows ?? []) {
      expect(row.gapClosed).toBe(gapClosed(row.perplexityRatio, left));
    }
  });

  test('without a finetuned part says how to get one', async () => {
    const context = contextOf(bare);
    const found = await runReport(['adapted', 'verdict'], sections, context);
    const [verdict, adapted] = renderReport(found, sections, context);
    const command = 'h1bkv finetune --text books/ --values rank:2';
    for (const section of [verdict, adapted]) expect(JSON.stringify(section)).toContain(command);
    expect(found.verdict?.claims.find(({ claim }) => /^Finetuning/.test(claim))?.finding).toBe(
      'cannot be tested here',
    );
  });
});

test('exercises are asked of what was adapted', async () => {
  const model = await loadModel(smallModel, { threads: 1 });
  const context = { ...contextOf(model), settings: { ...contextOf(model).settings, items: 2 } };
  const { adaptedTasks } = await runReport(['adaptedTasks'], sections, context);
  if (!adaptedTasks) throw new Error('exercises were expected');
  const methods = adaptedTasks.methods.map(({ method }) => method);
  expect(methods).toEqual(expect.arrayContaining(['f16', 'h1b:t=1', 'bitplane:k=1']));
  for (const own of adaptedTasks.results) {
    expect(own.map(({ method }) => method)).toEqual(methods);
    for (const { items } of own) expect(items).toBe(2);
  }
  const [, table] = renderReport({ adaptedTasks }, sections, context)[0].blocks;
  if (table.kind !== 'table') throw new Error(`a table was expected, not ${table.kind}`);
  expect(table.rows.map(({ cells }) => cells[1])).toEqual(methods);
  for (const { cells } of table.rows) expect(cells.slice(2).join()).toMatch(/^(\d+ ± \d+,?){4}$/);
  model.dispose();
}, 120_000);

describe('the verdict on finetuning', () => {
  /** @param variants share of the parameters and perplexity to f16 of each */
  const judge = async (variants: readonly (readonly [share: number, ratio: number])[]) => {
    const [row] = data.adapted?.rows ?? [];
    const adapted: AdaptedData = {
      parameters: 1e6,
      rows: [
        ...variants.map(([share, worstRatio]) => ({
          ...{ ...row, method: 'h1b:tuned=x', trained: 1e6 * share, worstRatio },
        })),
        // Another method than the paper's says nothing of its claim.
        { ...row, method: 'bitplane:tuned=y', trained: 1, worstRatio: 1 },
      ],
    };
    const { claims } = await sections.verdict.run(contextOf(tuned), { adapted }, () => {});
    return claims.find(({ claim }) => /^Finetuning/.test(claim));
  };

  test.each([
    ['a light one recovers', [[0.0009, 1.008]], 'holds'],
    ['a light one does not', [[0.0009, 1.01]], 'does not hold'],
    ['only a heavy one recovers', [[0.01, 1]], 'cannot be tested here'],
    ['not even a heavy one does', [[0.01, 1.2]], 'does not hold'],
    [
      'a heavy one does, and a light one does not',
      [
        [0.01, 1],
        [0.0009, 1.2],
      ],
      'does not hold',
    ],
  ] as const)('where %s', async (_, variants, finding) => {
    expect((await judge(variants))?.finding).toBe(finding);
  });
});
