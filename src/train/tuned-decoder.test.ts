import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { embeddedModel, forgeModel, skipBecause } from '../../test/forged.ts';
import type { Tensor } from '../kernels/kernels.ts';
import { allocTensor, reshape } from '../kernels/tensor.ts';
import { loadModel } from '../model/load.ts';
import type { Model } from '../model/model.ts';
import { Random } from '../math/random.ts';
import { CodedAttention, type Coder } from './coded-attention.ts';
import { sketchCache } from './sketch-attention.ts';
import { TunedDecoder } from './tuned-decoder.ts';
import { tuningLoss } from './tuning-loss.ts';
import {
  arraysOf,
  mapTuning,
  startTuning,
  zerosLike,
  type Tuning,
  type ValueTraining,
} from './tuning.ts';

const bits = 64;
const temperature = 0.2;

function tuningOf(model: Model, values: ValueTraining, b = bits): Tuning {
  const temperatures = model.layers.map(({ nHeads }) => Array<number>(nHeads).fill(temperature));
  const { dModel } = model.parts.config;
  return startTuning(model.layers, {
    ...{ seed: 0, values, dModel, temperatures },
    sketches: { bits: b },
  });
}

/** A tuning with everything moved a little away from where training starts. */
function moved(tuning: Tuning): Tuning {
  const random = new Random(5);
  return mapTuning(tuning, (x, name) => {
    const step = name.endsWith('projection') ? 8 : 0.1;
    return x.map((value) => value + step * random.normal());
  });
}

async function engineLogits(model: Model, ids: Int32Array, b: number): Promise<Float32Array> {
  const cache = await model.createCache(`h1b:b=${b},t=${temperature}`);
  try {
    const logits = await model.forward([{ ids, cache }], 'all');
    return ((await model.kernels.read(logits)) as Float32Array).slice();
  } finally {
    cache.dispose();
  }
}

/** As in Qwen 2 and 3: biases, norms of every head's query and key, RoPE pairs half a head apart. */
function withBiasesAndNorms(model: Model): Model {
  const { kernels, parts } = model;
  const random = new Random(9);
  const vector = (length: number, around: number) => {
    const t = allocTensor(kernels, 'f32', [length]);
    kernels.write(
      t,
      Float32Array.from({ length }, () => around + 0.3 * random.normal()),
    );
    return t;
  };
  const { headDimK, headDimV } = parts.config;
  const bias = (weight: Tensor, headDim: number) =>
    reshape(vector(weight.shape[0], 0), [-1, headDim]);
  const layers = parts.layers.map((layer) => ({
    ...layer,
    bias: {
      q: bias(layer.wq, headDimK),
      k: bias(layer.wk, headDimK),
      v: bias(layer.wv, headDimV),
    },
    norm: { q: vector(headDimK, 1), k: vector(headDimK, 1) },
  }));
  const traits = { ...parts.traits, ropeStyle: 'halves' as const };
  return { ...model, parts: { ...parts, layers, traits } };
}

const largestDifference = (x: Float32Array, y: Float32Array) =>
  x.reduce((most, value, i) => Math.max(most, Math.abs(value - y[i])), 0);

const someIds = (n: number, vocab: number) =>
  Int32Array.from({ length: n }, (_, i) => (i * 37 + (i % 7) * 11 + 5) % vocab);

const shapes = {
  'grouped queries': {},
  'a type in blocks': { type: 'Q8_0' as const, dModel: 64, headDim: 32 },
};

describe('the forward pass agrees with the engine', () => {
  test.each(Object.entries(shapes))('on a tiny model with %s', async (_name, change) => {
    // The oracle sums as the arrays do: nothing may differ. Other backends round attention otherwise.
    const model = await forgeModel(change, { backend: 'reference' });
    const ids = someIds(40, model.vocabSize);
    const decoder = new TunedDecoder(
      model,
      sketchCache(model.layers, { bits, surrogate: false, blockRows: 16 }),
    );
    const { logits } = decoder.forward(ids, tuningOf(model, 'none'));
    expect(largestDifference(logits, await engineLogits(model, ids, bits))).toBeLessThan(1e-4);
    decoder.dispose();
    model.dispose();
  });

  test('on the embedded model', async ({ skip }) => {
    if (!existsSync(embeddedModel)) skipBecause(skip, 'embedded model', 'the file is absent');
    const model = await loadModel(embeddedModel, { adapter: false });
    const ids = model.tokenizer.encode('The rain had stopped, and the old man went out again.');
    const decoder = new TunedDecoder(
      model,
      sketchCache(model.layers, { bits: 256, surrogate: false }),
    );
    const { logits } = decoder.forward(ids, tuningOf(model, { rank: 2 }, 256));
    const expected = await engineLogits(model, ids, 256);
    // Other sums in attention turn some 8-bit codes of activations: far below what h1b itself costs.
    expect(tuningLoss(expected, logits, ids, 0).kl).toBeLessThan(1e-3);
    decoder.dispose();
    model.dispose();
  });
});

/** The gradient of each array that is tuned is what finite differences find, along itself. */
function expectSlopes(
  decoder: TunedDecoder,
  tuning: Tuning,
  ids: Int32Array,
  teacher: Float32Array,
): void {
  const lossOf = (at: Tuning) => {
    const { kl, student } = tuningLoss(teacher, decoder.forward(ids, at).logits, ids, 0.3);
    return kl + 0.3 * student;
  };
  const gradient = zerosLike(tuning);
  const tape = decoder.forward(ids, tuning);
  const { dLogits } = tuningLoss(teacher, tape.logits, ids, 0.3);
  decoder.backward(tape, dLogits, tuning, gradient);

  const flat = arraysOf(gradient);
  arraysOf(tuning).forEach((_, index) => {
    if (flat[index].length === 0) return;
    // Along the gradient itself, the slope is its length; a wrong sign or factor shows.
    const length = Math.hypot(...flat[index]);
    expect(length).toBeGreaterThan(0);
    const step = 2e-3 * Math.min(1, Math.hypot(...arraysOf(tuning)[index])) * 4;
    const at = (sign: number) => {
      let place = 0;
      return mapTuning(tuning, (x) =>
        place++ === index ? x.map((v, i) => v + (sign * step * flat[index][i]) / length) : x,
      );
    };
    const slope = (lossOf(at(1)) - lossOf(at(-1))) / (2 * step);
    expect(slope / length).toBeGreaterThan(0.97);
    expect(slope / length).toBeLessThan(1.03);
  });
}

describe('gradients are the slopes of the loss', () => {
  const kinds: [string, ValueTraining, boolean, (model: Model) => Model][] = [
    ['a product of rank 2', { rank: 2 }, false, (model) => model],
    ['a product of rank 2, by norm', { rank: 2 }, true, (model) => model],
    ['a whole matrix', 'full', false, (model) => model],
    ['nothing, with biases and norms of heads', 'none', false, withBiasesAndNorms],
    ['nothing, by norm, with biases and norms of heads', 'none', true, withBiasesAndNorms],
  ];
  test.each(kinds)('with values trained as %s', async (_name, values, byNorm, change) => {
    const model = change(await forgeModel({}, { backend: 'reference' }));
    const ids = someIds(12, model.vocabSize);
    const decoder = new TunedDecoder(
      model,
      sketchCache(model.layers, { bits: 32, byNorm, surrogate: true, blockRows: 5 }),
    );
    const tuning = moved(tuningOf(model, values, 32));
    const teacher = decoder.forward(ids, tuningOf(model, 'none', 32)).logits.map((x) => 3 * x);
    expectSlopes(decoder, tuning, ids, teacher);
    decoder.dispose();
    model.dispose();
  });

  test.each([
    ['a window and first positions', { window: 3, sinks: 1 }],
    ['a window longer than the text', { window: 20, sinks: 0 }],
    ['no position exact', { window: 0, sinks: 0 }],
  ])('through codes, with %s', async (_name, near) => {
    const model = await forgeModel({}, { backend: 'reference' });
    const ids = someIds(12, model.vocabSize);
    // What a code loses is the same number here whatever the row: the slope through it is 1, as gradients take it.
    const loses = (x: Float32Array) => x.map((value, i) => value + 0.5 * Math.sin(7 * i));
    const coder: Coder = ({ k, v }) => ({ k: loses(k), v: loses(v) });
    const decoder = new TunedDecoder(model, {
      attention: (arrays, layer) => new CodedAttention(arrays, model.layers[layer], near, coder, 5),
      dispose: () => {},
    });
    const plain = (values: ValueTraining) => {
      const temperatures = model.layers.map(({ nHeads }) => Array<number>(nHeads).fill(1));
      const { dModel } = model.parts.config;
      return startTuning(model.layers, { seed: 0, values, dModel, temperatures });
    };
    const teacher = decoder.forward(ids, plain('none')).logits.map((x) => 3 * x);
    expectSlopes(decoder, moved(plain({ rank: 2 })), ids, teacher);
    decoder.dispose();
    model.dispose();
  });
});
