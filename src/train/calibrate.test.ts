import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { forgeModel } from '../../test/forged.ts';
import type { Adapter } from '../cache/adapter.ts';
import type { KvCache } from '../cache/cache.ts';
import { gaussianProjection } from '../cache/sketch.ts';
import type { Tensor } from '../kernels/kernels.ts';
import { adapterBytes, readAdapter } from '../model/adapter-file.ts';
import type { Model } from '../model/model.ts';
import { calibrate } from './calibrate.ts';

const text = 'the quick brown fox jumps over the lazy dog and runs into the night; '.repeat(3);
const window = 70;
const bits = [32, 128];
const seed = 3;

let model: Model;
let adapter: Adapter;
beforeAll(async () => {
  model = await forgeModel();
  adapter = await calibrate(model, text, 'a fox', { bits, seed, window });
});
afterAll(() => model.dispose());

/** Queries and keys of one window in one layer, f32 [n, heads, headDim]. */
interface Step {
  readonly layer: number;
  readonly q: Float32Array;
  readonly k: Float32Array;
}

/** What the model's attention is given on the text, in windows as calibration takes them. */
async function record(): Promise<Step[]> {
  const steps: Step[] = [];
  const ids = model.tokenizer.encode(text);
  const copy = (t: Tensor) => (model.kernels.view(t) as Float32Array).slice();
  for (let start = 0; start < ids.length; start += window) {
    const inner = await model.createCache('f32');
    let k = new Float32Array();
    const spy: Partial<KvCache> = {
      append: (layer, keys, values) => {
        k = copy(keys);
        inner.append(layer, keys, values);
      },
      attend: (layer, q, out) => {
        steps.push({ layer, q: copy(q), k });
        inner.attend(layer, q, out);
      },
    };
    const cache = new Proxy(inner, {
      get(target, name) {
        const value: unknown = Reflect.get(spy, name) ?? Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    await model.forward([{ ids: ids.subarray(start, start + window), cache }]);
    inner.dispose();
  }
  return steps;
}

/** Exact logits and sketch scores 1 - 2 h / b of one query: everything that the loss needs. */
interface Row {
  readonly exact: number[];
  readonly sketch: number[];
  /** root mean square of the query */
  readonly r: number;
}

/** [layer][head] -> rows, in plain arithmetic. */
function scoreRows(steps: readonly Step[], b: number): Row[][][] {
  const out = model.layers.map(({ nHeads }) => Array.from({ length: nHeads }, (): Row[] => []));
  for (const { layer, q, k } of steps) {
    const { nHeads, nKvHeads, headDimK: d, scale } = model.layers[layer];
    const projection = gaussianProjection(seed, layer, nKvHeads, b, d);
    const n = k.length / (nKvHeads * d);
    const dot = (x: ArrayLike<number>, y: Float32Array) =>
      y.reduce((sum, value, i) => sum + value * x[i], 0);
    const signs = (kvHead: number, x: Float32Array) =>
      Array.from({ length: b }, (_, r) => {
        const at = (kvHead * b + r) * d;
        return dot(projection.subarray(at, at + d), x) >= 0;
      });
    for (let head = 0; head < nHeads; head++) {
      const kvHead = Math.floor((head * nKvHeads) / nHeads);
      const keyOf = (j: number) => k.subarray((j * nKvHeads + kvHead) * d).subarray(0, d);
      const keySigns = Array.from({ length: n }, (_, j) => signs(kvHead, keyOf(j)));
      for (let i = 1; i < n; i++) {
        const query = q.subarray((i * nHeads + head) * d).subarray(0, d);
        const querySigns = signs(kvHead, query);
        const positions = Array.from({ length: i + 1 }, (_, j) => j);
        out[layer][head].push({
          r: Math.sqrt(dot(query, query) / d),
          exact: positions.map((j) => scale * dot(keyOf(j), query)),
          sketch: positions.map((j) => {
            const hamming = querySigns.reduce((h, s, r) => h + Number(s !== keySigns[j][r]), 0);
            return 1 - (2 * hamming) / b;
          }),
        });
      }
    }
  }
  return out;
}

/** Mean KL(softmax(exact) || softmax(sketch / t)), t divided by r if `byNorm`. */
function loss(rows: readonly Row[], t: number, byNorm: boolean): number {
  const logSoftmax = (logits: number[]) => {
    const max = Math.max(...logits);
    const log = max + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - max), 0));
    return logits.map((x) => x - log);
  };
  const total = rows.reduce((sum, { exact, sketch, r }) => {
    const beta = (byNorm ? r : 1) / t;
    const [p, q] = [logSoftmax(exact), logSoftmax(sketch.map((s) => beta * s))];
    return sum + p.reduce((kl, logP, j) => kl + Math.exp(logP) * (logP - q[j]), 0);
  }, 0);
  return total / rows.length;
}

describe('the fit', () => {
  test('has a temperature for every layer and head, of every width', () => {
    expect(adapter.temperatures.map((fit) => fit.bits)).toEqual(bits);
    for (const fit of adapter.temperatures) {
      expect(fit.layer.length).toBe(2);
      expect(fit.head.map((heads) => heads.length)).toEqual([4, 4]);
      expect(new Set(fit.head.flat()).size).toBeGreaterThan(4);
    }
  });

  test('is at the minimum of the loss: for each head, each layer and all together', async () => {
    const steps = await record();
    for (const fit of adapter.temperatures) {
      const rows = scoreRows(steps, fit.bits);
      const expectMinimum = (t: number, group: Row[], byNorm = false) => {
        for (const factor of [1 / 1.3, 1 / 1.08, 1.08, 1.3]) {
          expect(loss(group, t * factor, byNorm)).toBeGreaterThan(loss(group, t, byNorm));
        }
      };
      fit.head.forEach((heads, l) => heads.forEach((t, h) => expectMinimum(t, rows[l][h])));
      expect(fit.norm?.length).toBe(2);
      fit.norm?.forEach((heads, l) => heads.forEach((t, h) => expectMinimum(t, rows[l][h], true)));
      fit.layer.forEach((t, l) => expectMinimum(t, rows[l].flat()));
      expectMinimum(fit.global, rows.flat(2));
    }
  });

  test('trusts wider sketches more', () => {
    const [narrow, wide] = adapter.temperatures;
    expect(wide.global).toBeLessThan(narrow.global);
  });

  test('can be read back and used', async () => {
    const bytes = adapterBytes(adapter);
    expect(await readAdapter({ name: 'test', bytes }, model.hash)).toEqual(adapter);
    const fitted = await forgeModel({}, { adapter: bytes });
    for (const t of ['head', 'norm']) {
      const spec = `h1b:b=32,seed=0,t=${t}`;
      expect((await fitted.createCache(`h1b:b=32,t=${t}`)).spec).toBe(spec);
    }
    fitted.dispose();
  });
});

test('leaves nothing allocated but the scratch of the model', async () => {
  const run = () => calibrate(model, text, 'a fox', { bits: [32], window });
  await run();
  const before = model.kernels.allocatedBytes;
  await run();
  expect(model.kernels.allocatedBytes).toBe(before);
});

test('reports progress to the end', async () => {
  const seen: number[][] = [];
  await calibrate(model, text, 'a fox', {
    bits: [32],
    window,
    onProgress: (...progress) => seen.push(progress),
  });
  const tokens = model.tokenizer.encode(text).length;
  const ends = Array.from({ length: Math.ceil(tokens / window) }, (_, i) =>
    Math.min(tokens, (i + 1) * window),
  );
  expect(ends.length).toBeGreaterThan(1);
  const total = 2 * tokens;
  const ofLayer = (layer: number) => ends.map((end) => [layer * tokens + end, total, layer]);
  expect(seen).toEqual([...ofLayer(0), ...ofLayer(1)]);
});

test('a text of fewer than 64 tokens is refused', async () => {
  const usage = expect.objectContaining({ code: 'usage' });
  await expect(calibrate(model, 'too short', 'x', { bits: [32] })).rejects.toThrow(usage);
});
