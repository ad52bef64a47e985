import { beforeAll, describe, expect, test } from 'vitest';
import { forgeModel } from '../../test/forged.ts';
import type { Adapter } from '../cache/adapter.ts';
import type { ForgeOptions } from '../bench/forge-node.ts';
import { adapterBytes } from '../model/adapter-file.ts';
import { Random } from '../math/random.ts';
import type { Model } from '../model/model.ts';
import { checkpointBytes, readCheckpoint } from './checkpoint.ts';
import { curve } from './curve.ts';
import { bestEntry, finetune, startFinetune, type FinetuneState } from './finetune.ts';
import { collectStatistics } from './statistics.ts';
import { TextWindows } from './text-windows.ts';
import { traineeOf } from './trainee.ts';
import { sketchCache } from './sketch-attention.ts';
import type { TunedCache } from './tuned-attention.ts';
import { TunedDecoder } from './tuned-decoder.ts';
import { tuningLoss } from './tuning-loss.ts';
import {
  finetunedFrom,
  mapTuning,
  startTuning,
  type Tuning,
  type ValueTraining,
} from './tuning.ts';

const text = Array.from({ length: 400 }, (_, i) => `the ${i * i} foxes of ${i % 17} hills `).join(
  '',
);
const options = {
  batch: 2,
  steps: 12,
  evaluateEvery: 4,
  heldOut: 3,
  patience: 5,
  rates: { logT: 0.05, values: 0.01, projection: 1 },
  languageWeight: 0.1,
};
const tiny: Partial<ForgeOptions> = { nLayers: 2 };

function begin(model: Model, values: ValueTraining = { rank: 2 }): Tuning {
  const temperatures = model.layers.map(({ nHeads }) => Array<number>(nHeads).fill(0.5));
  const { dModel } = model.parts.config;
  const sketches = { bits: 32 };
  return startTuning(model.layers, { seed: 1, values, dModel, temperatures, sketches });
}

const windowsOf = (model: Model) => new TextWindows(model.tokenizer, [text], 24, 7);

const sketched = (model: Model, byNorm = false) =>
  sketchCache(model.layers, { bits: 32, byNorm, surrogate: false });

async function train(
  model: Model,
  state: FinetuneState,
  change = {},
  cache: TunedCache = sketched(model),
): Promise<FinetuneState> {
  const all = { ...options, ...change };
  for await (const after of finetune(model, cache, windowsOf(model), all, state)) state = after;
  return state;
}

/** Part `x` of `h1b`. */
function partOf(model: Model, tuning: Tuning, { projection = false, byNorm = false } = {}) {
  const part = { method: 'h1b' as const, name: 'x', bits: 32, seed: 1, ...(byNorm && { byNorm }) };
  return finetunedFrom(tuning, model.parts.config.dModel, part, { projection });
}

describe('a run', () => {
  let model: Model;
  let state: FinetuneState;
  beforeAll(async () => {
    // Threads only cost time in products this small.
    model = await forgeModel(tiny, { threads: 1 });
    state = await train(model, startFinetune(begin(model)));
  }, 60_000);

  test('brings the model nearer to itself with an f16 cache, on text that is held out', () => {
    expect(state.history.map(({ step }) => step)).toEqual([0, 4, 8, 12]);
    expect(bestEntry(state).kl).toBeLessThan(0.9 * state.history[0].kl);
  });

  test('that was broken off goes on as if it had not been', async () => {
    const start = begin(model);
    const runs = finetune(model, sketched(model), windowsOf(model), options, startFinetune(start));
    await runs.next();
    const broken = (await runs.next()).value as FinetuneState;
    expect(broken.step).toBe(4);
    const bytes = checkpointBytes(broken, 'this run');
    await runs.return(undefined);
    // A Buffer, as files are read into.
    const saved = await readCheckpoint(Buffer.from(bytes), 'file', 'this run', start);
    const resumed = await train(model, saved);
    expect(resumed).toEqual(state);
  });

  test('refuses the checkpoint of another', async () => {
    const reading = readCheckpoint(checkpointBytes(state, 'that'), 'file', 'this', begin(model));
    await expect(reading).rejects.toThrow(expect.objectContaining({ code: 'usage' }));
  });

  test('ends when nothing gets better', async () => {
    const rates = { logT: 0, values: 0, projection: 0 };
    const still = await train(model, startFinetune(begin(model)), { rates, patience: 2 });
    expect(still.history.map(({ step }) => step)).toEqual([0, 4, 8]);
  });

  test('can be drawn', () => {
    const svg = curve(state.history, 'a & b');
    expect(svg.match(/<circle/g)?.length).toBe(state.history.length);
    expect(svg).toContain('a &#38; b');
    expect(svg).not.toContain('NaN');
  });
});

describe('what it leaves in the adapter', () => {
  const kinds: [string, ValueTraining, boolean, boolean][] = [
    ['temperatures', 'none', false, false],
    ['temperatures by norm', 'none', false, true],
    ['a product of rank 2', { rank: 2 }, false, false],
    ['a whole value projection and sketches, by norm', 'full', true, true],
  ];
  test.each(kinds)(
    'makes the engine compute what training did: %s',
    async (_n, values, projection, byNorm) => {
      const base = await forgeModel(tiny, { backend: 'reference' });
      const change = { steps: 2, evaluateEvery: 2, heldOut: 1, batch: 1 };
      const rates = { ...options.rates, projection: projection ? 4 : 0 };
      const { best: tuning } = await train(
        base,
        startFinetune(begin(base, values)),
        { ...change, rates },
        sketched(base, byNorm),
      );
      const part = partOf(base, tuning, { projection, byNorm });
      const adapter: Adapter = { model: base.hash, text: '', temperatures: [], finetuned: [part] };

      const model = await forgeModel(tiny, {
        backend: 'reference',
        adapter: adapterBytes(adapter),
      });
      expect(model.adapter).toEqual(adapter);
      const ids = windowsOf(model).heldOut(0);
      const decoder = new TunedDecoder(model, sketched(model, byNorm));
      const { logits: trained } = decoder.forward(ids, tuning);
      const [cache, other] = [
        await model.createCache('h1b:tuned=x'),
        await model.createCache('f16'),
      ];
      expect(cache.spec).toBe('h1b:b=32,seed=1,tuned=x');
      // In chunks, and beside a cache for which nothing was finetuned.
      await model.forward([{ ids: ids.subarray(0, 9), cache }]);
      const batch = [
        { ids: ids.subarray(0, 5), cache: other },
        { ids: ids.subarray(9), cache },
      ];
      const all = (await model.kernels.read(await model.forward(batch, 'all'))) as Float32Array;
      const own = all.subarray(5 * model.vocabSize);
      const expected = trained.subarray(9 * model.vocabSize);
      expect(Math.max(...own.map((x, i) => Math.abs(x - expected[i])))).toBeLessThan(1e-4);
      cache.dispose();
      other.dispose();
      decoder.dispose();
    },
  );

  test('is asked for by its name, and by nothing that contradicts it', async () => {
    const base = await forgeModel(tiny);
    const part = partOf(base, begin(base));
    const adapter: Adapter = { model: base.hash, text: '', temperatures: [], finetuned: [part] };
    const model = await forgeModel(tiny, { adapter: adapterBytes(adapter) });
    const usage = expect.objectContaining({ code: 'usage' });
    for (const spec of ['tuned=y', 'tuned=x,b=64', 'tuned=x,seed=2', 'tuned=x,t=0.1']) {
      await expect(model.createCache(`h1b:${spec}`)).rejects.toThrow(usage);
    }
    const cache = await model.createCache('h1b:b=32,seed=1,tuned=x');
    const plain = await model.createCache('h1b:b=32,seed=1,t=0.1');
    const updates = part.layers.flatMap(({ values }) => values.map(({ numbers }) => numbers));
    const updateBytes = updates.reduce((sum, { byteLength }) => sum + byteLength, 0);
    expect(cache.bytes().codebooks - plain.bytes().codebooks).toBe(updateBytes);
  });
});

describe('bitplane', () => {
  const spec = 'bitplane:window=4,sinks=1';
  const asked = { cache: spec, name: 'x', seed: 1, values: { rank: 2 } } as const;

  /** A model whose adapter has statistics, and what else is given. */
  async function calibrated(finetuned: Adapter['finetuned'] = []): Promise<Model> {
    const base = await forgeModel(tiny, { backend: 'reference' });
    const statistics = await collectStatistics(base, base.tokenizer.encode(text).slice(0, 300));
    const adapter = { model: base.hash, text: '', temperatures: [], statistics, finetuned };
    base.dispose();
    return forgeModel(tiny, { backend: 'reference', adapter: adapterBytes(adapter) });
  }

  /** A tuning that is not what it began with, and the part that it makes. */
  async function moved() {
    const model = await calibrated();
    const { cache, start, part } = traineeOf(model, asked);
    const random = new Random(3);
    const tuning = mapTuning(startTuning(model.layers, start), (x) =>
      x.map((value) => value + 0.1 * random.normal()),
    );
    const finetuned = finetunedFrom(tuning, start.dModel, part, { projection: false });
    cache.dispose();
    model.dispose();
    return { tuning, finetuned };
  }

  test('can be trained for', async () => {
    const model = await calibrated();
    const { cache, start } = traineeOf(model, asked);
    const tuning = startTuning(model.layers, start);
    const state = await train(model, startFinetune(tuning), { languageWeight: 0 }, cache);
    expect(bestEntry(state).kl).toBeLessThan(0.95 * state.history[0].kl);
    model.dispose();
  });

  test('computes with what it left what training did, but for the rounding of its tables', async () => {
    const { tuning, finetuned } = await moved();
    const model = await calibrated([finetuned]);
    expect(model.adapter?.finetuned).toEqual([finetuned]);
    const ids = windowsOf(model).heldOut(0);
    const decoder = new TunedDecoder(model, traineeOf(model, asked).cache);
    const { logits } = decoder.forward(ids, tuning);
    const engine = async (of: string) => {
      const cache = await model.createCache(of);
      const out = await model.kernels.read(await model.forward([{ ids, cache }], 'all'));
      cache.dispose();
      return (out as Float32Array).slice();
    };
    const kl = async (of: string) => tuningLoss(await engine(of), logits, ids, 0).kl;
    const apart = await kl('bitplane:tuned=x');
    expect(apart).toBeLessThan(2e-4);
    expect(await kl(spec)).toBeGreaterThan(10 * apart);
    expect(await kl('f16')).toBeGreaterThan(10 * apart);
    decoder.dispose();
    model.dispose();
  });

  test('takes the settings that a part was made with, and no others', async () => {
    const { finetuned } = await moved();
    const model = await calibrated([finetuned]);
    const [tuned, plain] = [
      await model.createCache('bitplane:tuned=x,skip=0.001'),
      await model.createCache(spec),
    ];
    expect(tuned.spec).toBe(`${plain.spec},skip=0.001,tuned=x`);
    const again = await model.createCache(tuned.spec);
    expect(again.spec).toBe(tuned.spec);
    const updates = finetuned.layers.flatMap(({ values }) => values.map(({ numbers }) => numbers));
    const updateBytes = updates.reduce((sum, { byteLength }) => sum + byteLength, 0);
    expect(tuned.bytes().codebooks - plain.bytes().codebooks).toBe(updateBytes);
    const refused: [string, RegExp][] = [
      ['bitplane:tuned=x,k=3', /made with k=2, not 3/],
      ['bitplane:tuned=x@0:k=3', /Leave out what follows "@"/],
      ['bitplane:tuned=y', /this model's has .*tuned=x/],
      ['h1b:tuned=x', /was made for bitplane. Take bitplane:tuned=x/],
    ];
    for (const [of, message] of refused) {
      await expect(model.createCache(of), of).rejects.toThrow(message);
    }
    model.dispose();
  });

  test('is trained where it does not learn from what it reads, without what belongs to h1b', async () => {
    const [bare, model] = [await forgeModel(tiny), await calibrated()];
    const usage = (message: RegExp) =>
      expect.objectContaining({ code: 'usage', message: expect.stringMatching(message) as string });
    const refused: [Model, object, RegExp][] = [
      [bare, {}, /learns from the first tokens.*calibrate/],
      [model, { cache: 'kivi:2' }, /it can be h1b, bitplane or bitplane-small/],
      [model, { cache: 'h1b:b=64' }, /Use --bits/],
      [model, { cache: 'bitplane:tuned=x' }, /Leave out tuned/],
      [model, { bits: 64 }, /--bits is of h1b/],
      [model, { projection: true }, /--projection is of h1b/],
      [model, { norm: true }, /--norm is of h1b/],
    ];
    for (const [of, change, message] of refused) {
      const before = of.kernels.allocatedBytes;
      expect(() => traineeOf(of, { ...asked, ...change })).toThrow(usage(message));
      expect(of.kernels.allocatedBytes).toBe(before);
    }
    const before = model.kernels.allocatedBytes;
    traineeOf(model, { ...asked, cache: 'bitplane-small' }).cache.dispose();
    expect(model.kernels.allocatedBytes).toBe(before);
    bare.dispose();
    model.dispose();
  });
});

describe('f16 and f32 with what it left', () => {
  const logitsOf = async (model: Model, spec: string) => {
    const cache = await model.createCache(spec);
    const ids = windowsOf(model).heldOut(0);
    const logits = (await model.kernels.read(
      await model.forward([{ ids, cache }], 'all'),
    )) as Float32Array;
    const { codebooks } = cache.bytes();
    cache.dispose();
    return { logits: logits.slice(), codebooks };
  };

  test.each<[string, ValueTraining]>([
    ['rank 2', { rank: 2 }],
    ['full', 'full'],
    ['none', 'none'],
  ])('have its value projection and nothing else of it: %s', async (_, values) => {
    const base = await forgeModel(tiny);
    const { best } = await train(base, startFinetune(begin(base, values)), { steps: 4 });
    const part = partOf(base, best);
    const adapter: Adapter = { model: base.hash, text: '', temperatures: [], finetuned: [part] };
    base.dispose();
    const model = await forgeModel(tiny, { adapter: adapterBytes(adapter) });
    const matrices = part.layers.flatMap((layer) => layer.values);
    const bytes = matrices.reduce((sum, { numbers }) => sum + numbers.byteLength, 0);
    for (const name of ['f16', 'f32']) {
      const [plain, tuned] = [
        await logitsOf(model, name),
        await logitsOf(model, `${name}:tuned=x`),
      ];
      expect(tuned.codebooks).toBe(bytes);
      const apart = Math.max(...plain.logits.map((x, i) => Math.abs(x - tuned.logits[i])));
      if (values === 'none') expect(apart).toBe(0);
      else expect(apart).toBeGreaterThan(1e-3);
      const cache = await model.createCache(`${name}:tuned=x`);
      expect(cache.spec).toBe(`${name}:tuned=x`);
      await expect(model.createCache(`${name}:tuned=y`)).rejects.toThrow(
        /^cache "f(16|32)": tuned=y needs an adapter/,
      );
      cache.dispose();
    }
    model.dispose();
  });
});

test('texts that are too short for windows are refused', async () => {
  const model = await forgeModel(tiny);
  expect(() => new TextWindows(model.tokenizer, ['short'], 24, 0)).toThrow(
    expect.objectContaining({ code: 'usage' }),
  );
});
