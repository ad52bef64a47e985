import { describe, expect, test } from 'vitest';
import { argmax, Sampler, type SampleOptions } from './sample.ts';

const usage = expect.objectContaining({ code: 'usage' });
const notFinite = expect.objectContaining({ code: 'not-finite' });

/** Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625 in shuffled order. */
const probabilities = [0.125, 0.5, 0.0625, 0.25, 0.0625];
const logits = () => Float32Array.from(probabilities, (p) => Math.log(p) + 7);

/** How often each id comes in `draws` draws of one sampler. */
function frequencies(options: SampleOptions, draws = 4000): number[] {
  const sampler = new Sampler({ temperature: 1, ...options });
  const counts = probabilities.map(() => 0);
  for (let i = 0; i < draws; i++) counts[sampler.sample(logits(), [])]++;
  return counts.map((count) => count / draws);
}

const support = (options: SampleOptions) =>
  frequencies(options).flatMap((frequency, id) => (frequency > 0 ? [id] : []));

/** Five standard deviations of a frequency over 4000 draws, at its largest. */
const tolerance = 5 * Math.sqrt(0.25 / 4000);

function expectNear(actual: readonly number[], expected: readonly number[]): void {
  actual.forEach((frequency, i) => {
    expect(Math.abs(frequency - expected[i])).toBeLessThan(tolerance);
  });
}

const normalized = (weights: number[]) => {
  const total = weights.reduce((sum, w) => sum + w, 0);
  return weights.map((w) => w / total);
};

test('without options the most likely token, the first of equals', () => {
  expect(new Sampler().sample(logits(), [])).toBe(1);
  expect(new Sampler().sample(Float32Array.of(-2, 3, 3), [])).toBe(1);
  expect(argmax(Float32Array.of(-5))).toBe(0);
});

describe('temperature', () => {
  test('1 draws with the exact probabilities', () => {
    expectNear(frequencies({ seed: 1 }), probabilities);
  });

  test.each([0.5, 2])('%s draws with probabilities to the power of its inverse', (temperature) => {
    const expected = normalized(probabilities.map((p) => p ** (1 / temperature)));
    expectNear(frequencies({ temperature, seed: 2 }), expected);
  });

  test('a large one is nearly uniform, over unlikely tokens too', () => {
    const sampler = new Sampler({ temperature: 100, seed: 3 });
    const counts = [0, 0];
    for (let i = 0; i < 4000; i++) counts[sampler.sample(Float32Array.of(0, -50), [])]++;
    const expected = normalized([1, Math.exp(-0.5)]);
    expectNear(
      counts.map((count) => count / 4000),
      expected,
    );
  });

  test('the same seed gives the same tokens, another gives others', () => {
    const run = (seed: number) => {
      const sampler = new Sampler({ temperature: 1, seed });
      return Array.from({ length: 50 }, () => sampler.sample(logits(), []));
    };
    expect(run(7)).toEqual(run(7));
    expect(run(7)).not.toEqual(run(8));
  });
});

describe('what is kept', () => {
  test.each([
    [{ topK: 1 }, [1]],
    [{ topK: 2 }, [1, 3]],
    // equal logits: the lower id first
    [{ topK: 4 }, [0, 1, 2, 3]],
    [{ topK: 0 }, [0, 1, 2, 3, 4]],
    [{ topK: 99 }, [0, 1, 2, 3, 4]],
    [{ topP: 0 }, [1]],
    [{ topP: 0.45 }, [1]],
    [{ topP: 0.7 }, [1, 3]],
    [{ topP: 0.8 }, [0, 1, 3]],
    [{ topP: 1 }, [0, 1, 2, 3, 4]],
    [{ minP: 1 }, [1]],
    [{ minP: 0.4 }, [1, 3]],
    [{ minP: 0.2 }, [0, 1, 3]],
    [{ minP: 0 }, [0, 1, 2, 3, 4]],
    [{ topK: 3, topP: 0.6, minP: 0.1 }, [1, 3]],
  ])('%o', (options, ids) => {
    expect(support({ ...options, seed: 4 })).toEqual(ids);
  });

  test('logits of both signs are ordered, equal ones by id', () => {
    const row = Float32Array.of(-3, 2, -1, 0, 5, -0.5, 2);
    const order = [4, 1, 6, 3, 5, 2, 0];
    for (let topK = 1; topK <= order.length; topK++) {
      const sampler = new Sampler({ topK, temperature: 100, seed: topK });
      const drawn = new Set(Array.from({ length: 300 }, () => sampler.sample(row, [])));
      expect([...drawn].sort()).toEqual(order.slice(0, topK).sort());
    }
  });

  test('top-k, top-p and min-p look at the probabilities before the temperature', () => {
    for (const options of [{ topK: 2 }, { topP: 0.7 }, { minP: 0.4 }]) {
      expect(support({ ...options, temperature: 50, seed: 5 })).toEqual([1, 3]);
    }
  });

  test('what is left keeps its proportions', () => {
    expectNear(frequencies({ topK: 2, seed: 6 }), [0, 2 / 3, 0, 1 / 3, 0]);
  });
});

describe('repetition penalty', () => {
  test('divides positive logits and multiplies negative ones, once per token', () => {
    const row = Float32Array.of(2, 3, -1, 1);
    const id = new Sampler({ repeatPenalty: 2 }).sample(row, [1, 1, 2]);
    expect([...row]).toEqual([2, 1.5, -2, 1]);
    expect(id).toBe(0);
  });

  test('looks at the last tokens only', () => {
    const row = () => Float32Array.of(2, 3, 2.9);
    const sample = (repeatLast: number) =>
      new Sampler({ repeatPenalty: 2, repeatLast }).sample(row(), [1, 2]);
    expect(sample(0)).toBe(1);
    expect(sample(1)).toBe(1);
    expect(sample(2)).toBe(0);
  });
});

test.each([NaN, Infinity, -Infinity])('a logit of %s is refused', (bad) => {
  for (const temperature of [0, 1]) {
    const sampler = new Sampler({ temperature });
    expect(() => sampler.sample(Float32Array.of(1, bad, 2), [])).toThrow(notFinite);
  }
});

test.each<SampleOptions>([
  { temperature: -0.1 },
  { temperature: 101 },
  { temperature: NaN },
  { topK: -1 },
  { topK: 1.5 },
  { topP: -0.1 },
  { topP: 1.1 },
  { minP: 1.1 },
  { minP: NaN },
  { repeatPenalty: 0 },
  { repeatPenalty: Infinity },
  { repeatLast: 0.5 },
  { seed: -1 },
  { seed: 0.5 },
])('%o is refused', (options) => {
  expect(() => new Sampler(options)).toThrow(usage);
});
