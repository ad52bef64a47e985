/** The evaluation harness on a small random model: what is counted, and that a run can be continued. */
import { spawn, spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { forgeBytes } from '../src/bench/forge-node.ts';
import { evaluate, runIdentity } from '../src/eval/evaluate.ts';
import { openJournal } from '../src/eval/journal-node.ts';
import { protocols } from '../src/eval/protocols.ts';
import type { EvalResult, EvalSettings, TaskContext } from '../src/eval/task.ts';
import { windowsOf } from '../src/eval/windows.ts';
import type { Model } from '../src/model/model.ts';
import { forgeModel, packageRoot, say, temporaryFolder, tinyShape } from './forged.ts';

const folder = temporaryFolder();
const text = Array.from({ length: 90 }, (_, i) => `${i} the cat sat on ${i % 7} mats. `).join('');
const texts = [{ name: 'cats', text }];

let model: Model;
/** its tokenizer wants BOS */
let withBos: Model;
beforeAll(async () => {
  model = await forgeModel();
  withBos = await forgeModel({ tokenizer: 'spm' });
});
afterAll(() => {
  model.dispose();
  withBos.dispose();
});

function contextOf(change: Partial<EvalSettings> = {}, more: Partial<TaskContext> = {}) {
  const settings = { methods: ['f16', 'h1b:b=64'], seed: 1, set: {}, ...change };
  return { model, texts, shuffled: false, settings, ...more } satisfies TaskContext;
}

const perplexity = (change: Partial<EvalSettings> = {}, more: Partial<TaskContext> = {}) =>
  evaluate(['perplexity'], contextOf({ context: 64, limit: 5, ...change }, more));

/** Results without what no two runs have in common. */
const timeless = (results: readonly EvalResult[]) =>
  results.map(({ seconds: _, ...result }) => result);

/** Next-token probabilities after each position, in one step and plain f64: [n][vocabSize]. */
async function probabilities(of: Model, spec: string, ids: Int32Array): Promise<number[][]> {
  const cache = await of.createCache(spec);
  const logits = await of.kernels.read(await of.forward([{ ids, cache }], 'all'));
  cache.dispose();
  return Array.from(ids, (_, i) => {
    const weights = [...logits.subarray(i * of.vocabSize, (i + 1) * of.vocabSize)].map(Math.exp);
    const sum = weights.reduce((total, x) => total + x, 0);
    return weights.map((weight) => weight / sum);
  });
}

/** -ln p of every token but the first. */
async function lossesByHand(of: Model, spec: string, ids: Int32Array): Promise<number[]> {
  const rows = await probabilities(of, spec, ids);
  return Array.from(ids.slice(1), (id, i) => -Math.log(rows[i][id]));
}

describe('perplexity', () => {
  test.each(['f16', 'h1b:b=64'])('of %s equals a computation by hand', async (spec) => {
    // 200 positions are two chunks: the second one sees what the first one left in the cache.
    const [result] = await perplexity({ methods: [spec], context: 200, limit: 2 });
    const ids = model.tokenizer.encode(text);
    const losses = [
      ...(await lossesByHand(model, spec, ids.slice(0, 200))),
      ...(await lossesByHand(model, spec, ids.slice(200, 400))),
    ];
    expect(result).toMatchObject({ task: 'perplexity', method: spec, tokens: 398, windows: 2 });
    const mean = losses.reduce((sum, x) => sum + x, 0) / 398;
    expect(result.perplexity).toBeCloseTo(Math.exp(mean), 2);
    expect((result.perplexity ?? 0) / Math.exp(mean)).toBeCloseTo(1, 6);
  });

  test('KL, its quantile and top-1 agreement equal those of a computation by hand', async () => {
    const [h1b] = await perplexity({ methods: ['h1b:b=64'], context: 200, limit: 100 });
    const ids = model.tokenizer.encode(text);
    const kls: number[] = [];
    let same = 0;
    for (let start = 0; start + 200 <= ids.length; start += 200) {
      const window = ids.slice(start, start + 200);
      const [p, q] = [
        await probabilities(model, 'f16', window),
        await probabilities(model, 'h1b:b=64', window),
      ];
      for (let i = 0; i < 199; i++) {
        kls.push(p[i].reduce((sum, x, id) => sum + x * Math.log(x / q[i][id]), 0));
        if (p[i].indexOf(Math.max(...p[i])) === q[i].indexOf(Math.max(...q[i]))) same++;
      }
    }
    expect(h1b.tokens).toBe(kls.length);
    // Enough positions for the quantile not to be the largest value.
    expect(kls.length).toBeGreaterThan(1000);
    const sorted = kls.sort((a, b) => a - b);
    const quantile = sorted[Math.ceil(0.999 * kls.length) - 1];
    expect(quantile).toBeLessThan(sorted[kls.length - 1]);
    expect((h1b.kl999 ?? 0) / quantile).toBeCloseTo(1, 4);
    expect((h1b.kl ?? 0) / (kls.reduce((sum, x) => sum + x, 0) / kls.length)).toBeCloseTo(1, 4);
    expect(h1b.top1).toBeCloseTo(same / kls.length, 9);
  });

  test('f16 does not differ from itself, f32 hardly, one bit does', async () => {
    const [f16, f32, h1b] = await perplexity({ methods: ['f16', 'f32', 'h1b:b=32'] });
    const nothing = { low: 0, high: 0 };
    expect(f16).toMatchObject({
      kl: 0,
      kl999: 0,
      klInterval: nothing,
      top1: 1,
      perplexityRatio: 1,
    });
    expect(f16.perplexityRatioInterval).toEqual({ low: 1, high: 1 });
    expect(f32.kl).toBeGreaterThan(0);
    expect(f32.kl).toBeLessThan(1e-5);
    expect(h1b.kl).toBeGreaterThan(10 * (f32.kl ?? 1));
    expect(h1b.kl999).toBeGreaterThan(2 * (h1b.kl ?? 1));
    expect(h1b.top1).toBeLessThan(f32.top1 ?? 0);
    const { low, high } = h1b.klInterval ?? { low: 0, high: 0 };
    expect(low).toBeLessThan(h1b.kl ?? 0);
    expect(high).toBeGreaterThan(h1b.kl ?? 0);
  });

  test('a method is the same beside others, and without f16 among them', async () => {
    const [, beside] = await perplexity();
    const [alone] = await perplexity({ methods: ['h1b:b=64'] });
    expect(timeless([alone])).toEqual(timeless([beside]));
  });

  test('bytes are those of the cache at the end of a window', async () => {
    const [f16, h1b] = await perplexity({ context: 150, limit: 2 });
    for (const result of [f16, h1b]) {
      const cache = await model.createCache(result.method);
      await model.forward([{ ids: model.tokenizer.encode(text).slice(0, 150), cache }]);
      const { total } = cache.bytes();
      cache.dispose();
      expect(result.bytesPerToken).toBeCloseTo(total / 150, 9);
      expect(result.qpb).toBeCloseTo(1000 / ((result.perplexity ?? 0) * (total / 1e6)), 6);
    }
    expect(h1b.spec).toMatch(/^h1b:b=64,/);
  });

  test('a stride of the whole context is no stride', async () => {
    const plain = await perplexity();
    expect(timeless(await perplexity({ stride: 64 }))).toEqual(timeless(plain));
  });
});

describe('windows', () => {
  const windows = (change: Partial<EvalSettings>, of = model, from = texts) =>
    windowsOf(of, from, contextOf(change).settings);

  test('with a stride every token is scored once, all but the first window with a long past', () => {
    const ids = model.tokenizer.encode(text);
    const [context, stride] = [64, 24];
    const scored: number[] = [];
    windows({ context, stride }).forEach((window, i) => {
      const start = i * stride;
      expect([...window.ids]).toEqual([...ids.slice(start, start + context)]);
      for (let at = window.from; at < context - 1; at++) scored.push(start + at + 1);
      if (i > 0) expect(window.from).toBe(context - stride - 1);
    });
    expect(scored).toEqual(scored.map((_, i) => i + 1));
    expect(scored.length).toBeGreaterThan(ids.length - stride - 1);
  });

  test('beyond n, positions before n are not scored', () => {
    expect(windows({ context: 64, beyond: 40 }).map(({ from }) => from)[0]).toBe(40);
    const strided = windows({ context: 64, stride: 48, beyond: 10 });
    expect(strided.slice(0, 3).map(({ from }) => from)).toEqual([10, 15, 15]);
  });

  test('BOS takes the place of the first token of each window where the model wants it', () => {
    const ids = withBos.tokenizer.encode(text);
    expect(ids[0]).toBe(withBos.tokenizer.bosId);
    windows({ context: 64 }, withBos).forEach((window, i) => {
      expect(window.ids[0]).toBe(withBos.tokenizer.bosId);
      expect([...window.ids.slice(1)]).toEqual([...ids.slice(64 * i + 1, 64 * i + 64)]);
    });
    for (const { ids } of windows({ context: 64 })) expect(ids[0]).not.toBe(model.tokenizer.bosId);
  });

  test('a limit takes from every text; a text shorter than a window makes a short one', () => {
    const ids = (of: string) => [...model.tokenizer.encode(of)];
    const other = 'A dog ran. '.repeat(60);
    const short = 'Two birds sang.';
    const three = [text, short, other].map((each, i) => ({ name: String(i), text: each }));
    const found = windows({ context: 64, limit: 5 }, model, three).map((window) => [...window.ids]);
    expect(found).toEqual([
      ids(text).slice(0, 64),
      ids(short),
      ids(other).slice(0, 64),
      ids(text).slice(64, 128),
      ids(other).slice(64, 128),
    ]);
  });

  test.each([
    [{ context: 513 }, 'range', /context is 513; it must be from 2 to 512/],
    [{ context: 64, stride: 65 }, 'usage', /stride is 65/],
    [{ context: 64, beyond: 63 }, 'usage', /beyond position 63 in windows of 64/],
  ] as const)('%j is refused', (change, code, message) => {
    expect(() => windows(change)).toThrow(expect.objectContaining({ code }));
    expect(() => windows(change)).toThrow(message);
  });

  test('texts with nothing to score are refused', () => {
    for (const empty of ['', 'a']) {
      expect(() => windows({}, model, [{ name: 'e', text: empty }])).toThrow(/too short/);
    }
  });
});

describe('protocols', () => {
  const scored = (name: string, context?: number) => {
    const long = [{ name: 'long', text: text.repeat(10) }];
    const roomy = { ...model, tokenizer: model.tokenizer, contextLength: 4096 } as Model;
    const settings = { ...contextOf().settings, ...protocols[name].windows(context) };
    return windowsOf(roomy, long, settings)
      .slice(0, 2)
      .map(({ ids, from }) => [ids.length, ids.length - 1 - from]);
  };

  test('score as many tokens of a window as the programs do', () => {
    // llama.cpp: n_ctx - n_ctx / 2 - 1 of each chunk.
    expect(scored('llama.cpp')).toEqual([[512, 255], [512, 255]]); // prettier-ignore
    expect(scored('llama.cpp', 2048)[0]).toEqual([2048, 1023]);
    expect(scored('gptq')).toEqual([[2048, 2047], [2048, 2047]]); // prettier-ignore
    expect(scored('kvquant', 1024)[0]).toEqual([1024, 1023]);
    expect(scored('transformers-guide')).toEqual([[1024, 1023], [1024, 512]]); // prettier-ignore
  });
});

describe('exercises', () => {
  test('a row for every length and depth, on prompts of that length', async () => {
    const change = { lengths: [150, 300], depths: [0, 0.5, 1], limit: 3, methods: ['f16', 'f32'] };
    const prose = Array.from({ length: 80 }, (_, i) => `${i} cats sat.`).join('\n\n');
    const from = { texts: [{ name: 'prose', text: prose }] };
    const results = await evaluate(['passkey'], contextOf(change, from));
    const grid = [150, 300].flatMap((length) => [0, 0.5, 1].map((depth) => ({ length, depth })));
    expect(results.map(({ length, depth }) => ({ length, depth }))).toEqual(
      grid.flatMap((row) => [row, row]),
    );
    for (const { items, tokens, length = 0, accuracy, accuracyStderr, chance } of results) {
      expect({ items, accuracy, accuracyStderr }).toEqual({
        items: 3,
        accuracy: 0,
        accuracyStderr: 0,
      });
      expect(chance).toBeCloseTo(1 / 90000, 9);
      // The cache ends with the prompt and the answer: up to 63 tokens of 64.
      expect(tokens / 3).toBeGreaterThan(length - 40);
      expect(tokens / 3).toBeLessThanOrEqual(length + 63);
    }
  });

  test('settings reach the skills that have them, and methods get the same exercises', async () => {
    const few = await evaluate(
      ['kv-recall', 'tiny-mmlu'],
      contextOf({ limit: 2, set: { pairs: 3, form: 0 } }),
    );
    const more = await evaluate(['kv-recall'], contextOf({ limit: 2, set: { pairs: 6 } }));
    expect(few.map(({ task, method }) => `${task} ${method}`)).toEqual([
      'kv-recall f16',
      'kv-recall h1b:b=64',
      'tiny-mmlu f16',
      'tiny-mmlu h1b:b=64',
    ]);
    expect(few[2].tokens).toBe(few[3].tokens);
    expect(few[2].chance).toBe(0.25);
    expect(more[0].tokens).toBeGreaterThan(few[0].tokens + 20);
    expect(few[0]).not.toHaveProperty('length');
  });

  test('another seed asks other exercises', async () => {
    const tokens = async (seed: number) =>
      (await evaluate(['tiny-mmlu'], contextOf({ limit: 4, seed }))).map((row) => row.tokens);
    expect(await tokens(1)).toEqual(await tokens(1));
    expect(await tokens(2)).not.toEqual(await tokens(1));
  });

  test('answers that are programs go to runPython, and count as pass@1', async () => {
    const programs: string[] = [];
    const runPython = async (code: string) => ({ ok: programs.push(code) % 2 === 1 });
    const change = { limit: 2, methods: ['f16'] };
    const [result] = await evaluate(['tiny-humaneval'], contextOf(change, { runPython }));
    expect(result).toMatchObject({ accuracy: 0.5, passAt1: 0.5, items: 2 });
    expect(result.accuracyStderr).toBeCloseTo(Math.sqrt(0.125), 9);
    expect(programs[0]).toMatch(/^def [^]*assert /);
  });

  test.each([
    [['nothing'], {}, 'usage', /task "nothing" is unknown; there are perplexity, gsm8k/],
    [['kv-recall'], { set: { hops: 2 } }, 'usage', /heeds set.hops; what they heed: set.pairs/],
    [['kv-recall'], { depths: [1] }, 'usage', /heeds depths/],
    [['kv-recall'], { context: 64 }, 'usage', /heeds context/],
    [['perplexity'], { lengths: [64] }, 'usage', /heeds lengths/],
    [['passkey'], { lengths: [500] }, 'range', /has room for 448 and the answer/],
    [['passkey'], { depths: [2] }, 'range', /depth=2/],
    [['perplexity'], { methods: ['nothing'] }, 'usage', /cache "nothing" is unknown/],
  ] as const)('%j with %j is refused', async (tasks, change, code, message) => {
    const run = evaluate(tasks, contextOf(change));
    await expect(run).rejects.toThrow(expect.objectContaining({ code }));
    await expect(run).rejects.toThrow(message);
  });
});

describe('a run that was stopped', () => {
  const tasks = ['perplexity', 'tiny-mmlu'];
  const context = (change: Partial<EvalSettings> = {}) =>
    contextOf({ context: 64, limit: 4, ...change });
  const run = async (path: string, stopAfter = Infinity, of = context()) => {
    const journal = openJournal(path, await runIdentity(tasks, of));
    let worked = 0;
    const counting = {
      find: journal.find,
      append(...entry: Parameters<typeof journal.append>) {
        journal.append(...entry);
        if (++worked === stopAfter) throw new Error('killed');
      },
    };
    const results = evaluate(tasks, of, { journal: counting });
    return { worked: () => worked, results: await results.catch(() => undefined) };
  };

  test.each([1, 3, 5])('after %i units gives what it would have given', async (units) => {
    const path = join(folder, `stopped-${units}.jsonl`);
    const whole = await evaluate(tasks, context());
    expect((await run(path, units)).results).toBeUndefined();
    // Killed while it wrote: the line has no end, and a character is cut in two.
    appendFileSync(path, Buffer.from('{"task":"perplexity","unit":7,"x":"ä').subarray(0, -1));
    const rest = await run(path);
    expect(rest.worked()).toBe(8 - units);
    expect(timeless(rest.results ?? [])).toEqual(timeless(whole));
    // Everything is there now; the results are the same to the last bit, times too.
    const again = await run(path);
    expect(again.worked()).toBe(0);
    expect(again.results).toEqual(rest.results);
    expect(readFileSync(path, 'utf8').trimEnd().split('\n').length).toBe(9);
  });

  test('a torn first line is written again', async () => {
    const path = join(folder, 'torn-header.jsonl');
    await run(path, 1);
    const whole = readFileSync(path, 'utf8');
    truncateSync(path, 40);
    await run(path, 1);
    expect(readFileSync(path, 'utf8').split('\n')[0]).toBe(whole.split('\n')[0]);
  });

  test('a call that is refused leaves no file', async () => {
    const path = join(folder, 'refused.jsonl');
    expect((await run(path, 1, context({ context: 9999 }))).results).toBeUndefined();
    expect(existsSync(path)).toBe(false);
  });

  test('a file of another run is refused, and says what differs', async () => {
    const path = join(folder, 'other.jsonl');
    await run(path, 1);
    const before = readFileSync(path, 'utf8');
    const refused = async (message: RegExp, of: TaskContext, names = tasks) => {
      const identity = await runIdentity(names, of);
      const open = () => openJournal(path, identity);
      expect(open).toThrow(expect.objectContaining({ code: 'usage' }));
      expect(open).toThrow(message);
    };
    await refused(/run: context was 64 and is 32\. Repeat/, context({ context: 32 }));
    await refused(/run: stride was not set and is 8\./, context({ stride: 8 }));
    await refused(/run: seed was 1 and is 2\./, context({ seed: 2 }));
    await refused(/run: methods was .* and is \["f16"\]\./, context({ methods: ['f16'] }));
    await refused(/run: tasks was /, context(), ['perplexity']);
    await refused(/run: model was "[0-9a-f]{64}" and is/, { ...context(), model: withBos });
    const changed = [{ name: 'cats', text: `${text}!` }];
    await refused(/run: texts was /, { ...context(), texts: changed });
    expect(readFileSync(path, 'utf8')).toBe(before);
  });

  test('a file that is no journal is refused and left alone', async () => {
    for (const [i, content] of ['precious', 'two\nlines\n', '{"a":1}\n', 'null\n'].entries()) {
      const path = join(folder, `precious-${i}`);
      writeFileSync(path, content);
      const identity = await runIdentity(tasks, context());
      expect(() => openJournal(path, identity)).toThrow(/is not a journal/);
      expect(readFileSync(path, 'utf8')).toBe(content);
    }
  });

  test('damage in the middle is refused with its line', async () => {
    const path = join(folder, 'damaged.jsonl');
    await run(path, 2);
    const lines = readFileSync(path, 'utf8').split('\n');
    lines[1] = lines[1].slice(0, 20);
    writeFileSync(path, lines.join('\n'));
    const identity = await runIdentity(tasks, context());
    expect(() => openJournal(path, identity)).toThrow(/line 2 of .* is not JSON/);
  });
});

const cli = join(packageRoot, 'dist', 'cli.js');
const isBuilt = existsSync(cli);
if (!isBuilt) say('skipped: part of test/eval.test.ts: dist/cli.js is not there; npm run build');

describe.skipIf(!isBuilt)('h1bkv eval', () => {
  const path = join(folder, 'tiny.gguf');
  const book = join(folder, 'book');
  const prose = join(folder, 'prose');
  const args = ['eval', '--model', path, '--threads', '1', '--context', '64'];
  const run = (...more: string[]) => {
    const result = spawnSync(process.execPath, [cli, ...args, ...more], {
      encoding: 'utf8',
      timeout: 30_000,
    });
    expect(result.error).toBeUndefined();
    return { code: result.status, out: result.stdout, err: result.stderr };
  };
  beforeAll(async () => {
    writeFileSync(path, await forgeBytes(tinyShape));
    writeFileSync(`${book}.txt`, text.repeat(10));
    const paragraphs = Array.from({ length: 80 }, (_, i) => `${i} cats sat.`);
    writeFileSync(`${prose}.txt`, paragraphs.join('\n\n'));
  });

  test('prints a table, or one JSON document that --out keeps too', () => {
    const table = run('--limit', '2');
    expect(table.code).toBe(0);
    expect(table.out).toMatch(/^perplexity +h1b +\d+\.\d+/m);
    const out = join(folder, 'result.json');
    const json = run('--limit', '2', '--cache', 'f16 h1b:b=64', '--json', '--out', out);
    expect(json.code).toBe(0);
    expect(readFileSync(out, 'utf8')).toBe(json.out);
    expect(JSON.parse(json.out)).toMatchObject({
      model: 'forged F32 seed 1',
      version: expect.stringMatching(/^\d+\./),
      platform: `${process.platform}-${process.arch}`,
      machine: expect.stringMatching(/cores/),
      texts: ['fit-text.txt'],
      settings: { methods: ['f16', 'h1b:b=64'], seed: 1, context: 64, limit: 2 },
      results: [
        { task: 'perplexity', method: 'f16', tokens: 126, kl: 0, top1: 1 },
        { task: 'perplexity', method: 'h1b:b=64', tokens: 126, bytesPerToken: expect.any(Number) },
      ],
    });
  });

  test('draws a heat map, and runs a data set beside it', () => {
    const svg = join(folder, 'needle.svg');
    const data = join(folder, 'lambada.jsonl');
    writeFileSync(data, '{"text":"the cat sat on the mat"}\n{"text":"a dog ran"}\n');
    const grid = ['--length', '150,300', '--depth', '0,1', '--limit', '1', '--svg', svg];
    const needle = spawnSync(
      process.execPath,
      [cli, 'eval', '--model', path, '--task', 'needle,lambada', '--data', `lambada=${data}`]
        .concat(['--text', `${prose}.txt`, '--set', 'needles=4', ...grid])
        .concat(['--json']),
      { encoding: 'utf8', timeout: 60_000 },
    );
    expect(needle.stderr).toBe('');
    const { results } = JSON.parse(needle.stdout) as { results: EvalResult[] };
    expect(results.map(({ task }) => task)).toEqual([
      ...Array.from({ length: 8 }, () => 'needle'),
      'lambada',
      'lambada',
    ]);
    expect(readFileSync(svg, 'utf8').match(/ %</g)?.length).toBe(8);
  });

  test('an interrupt leaves a file that it goes on from', { timeout: 60_000 }, async () => {
    const journal = join(folder, 'interrupted.jsonl');
    const more = ['--text', `${book}.txt`, '--resume', journal, '--json'];
    const child = spawn(process.execPath, [cli, ...args, ...more]);
    const lines = () =>
      existsSync(journal) ? readFileSync(journal, 'utf8').split('\n').length - 1 : 0;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    const begun = async () => {
      while (lines() < 5 && child.exitCode === null) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    };
    await begun();
    expect(child.exitCode).toBeNull();
    child.kill('SIGINT');
    expect(await ended).toBe(130);
    const before = lines();
    const resumed = JSON.parse(run(...more).out) as { results: EvalResult[] };
    expect(lines()).toBeGreaterThan(before);
    const plain = JSON.parse(run(...more.slice(0, 2), '--json').out) as { results: EvalResult[] };
    expect(timeless(resumed.results)).toEqual(timeless(plain.results));
  });

  test.each([
    [['--task', 'nothing'], /There are perplexity, /],
    [['--context', '1'], /whole number from 2/],
    [['--set', 'pairs'], /name=number/],
    [['--data', 'gsm8k'], /task=path/],
    [['--protocol', 'nothing'], /There are llama.cpp, /],
    [['--protocol', 'gptq', '--beyond', '9'], /gptq sets --stride and --beyond itself/],
    [['--svg', 'x.svg'], /there are no depths/],
    [['--depth', '1.5'], /number from 0 to 1/],
    [['--length', '64.5'], /whole number from 1/],
    [['--set', 'pairs=3'], /heeds set.pairs/],
  ])('%j is a wrong call', (more, message) => {
    const { code, err } = run(...more);
    expect(err).toMatch(message);
    expect(code).toBe(2);
  });

  test('a text that is not there is a failure', () => {
    const { code, err } = run('--text', join(folder, 'nowhere.txt'));
    expect(err).toMatch(/nowhere.txt cannot be read/);
    expect(code).toBe(1);
  });
});
