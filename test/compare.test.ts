/** `h1bkv compare` on the embedded model, and what docs/memory.md says of other models. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { describe, expect, test, vi } from 'vitest';
import { define } from '../src/cli/compare.ts';
import type { Comparison } from '../src/eval/compare.ts';
import { layersOf, namedShapes, type ShapeName } from '../src/model/shapes.ts';
import { plannedBytes } from '../src/plan/plan.ts';
import { packageRoot, temporaryFolder } from './forged.ts';

const folder = temporaryFolder();

/** Runs the command in this process. @returns what it prints on standard output and standard error */
async function run(...args: string[]): Promise<{ out: string; err: string }> {
  const lines = { out: [] as string[], err: [] as string[] };
  const spies = [
    vi.spyOn(console, 'log').mockImplementation((line) => lines.out.push(String(line))),
    vi.spyOn(console, 'error').mockImplementation((line) => lines.err.push(String(line))),
  ];
  const command = new Command('compare').exitOverride().configureOutput({ writeErr: () => {} });
  define(command);
  try {
    await command.parseAsync(args, { from: 'user' });
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
  return { out: lines.out.join('\n'), err: lines.err.join('\n') };
}

describe('h1bkv compare', () => {
  const out = join(folder, 'made', 'here');
  const resume = join(folder, 'run.jsonl');
  const methods = 'f32 h1b:b=64,t=head h1b:b=64,t=0.07 kivi:2,window=0 h1b:b=96,t=head nosuch';
  const args = [
    ...['--cache', methods, '--context', '64', '--limit', '2', '--seeds', '2', '--threads', '1'],
    ...['--out', out, '--resume', resume],
  ];
  /** One run for all tests, made by the first of them: a hook would have less time. */
  let made: ReturnType<typeof run> | undefined;
  const printed = () => (made ??= run(...args));
  const written = (name: string) => readFileSync(join(out, name), 'utf8');
  const report = () => JSON.parse(written('compare.json')) as Comparison & Record<string, unknown>;

  test('prints a row for each method and why others are missing', async () => {
    const { out, err } = await printed();
    const rows = [...out.matchAll(/^(\d+) +(\S+)/gm)].map(([, , method]) => method);
    expect(rows).toEqual(['f16', ...methods.split(' ').slice(0, 4)]);
    expect(out).toMatch(/^left out: h1b:b=96,t=head: .*needs an adapter/m);
    expect(err).toMatch(/^left out: nosuch: cache "nosuch" is unknown/m);
    expect(out).toMatch(/KL >32/);
  });

  test('writes the same to three files, and leaves nothing else', async () => {
    await printed();
    expect(readdirSync(out).sort()).toEqual(['compare.html', 'compare.json', 'compare.md']);
    const { rows, leftOut, ...rest } = report();
    expect(rest).toMatchObject({
      ...{ model: 'books-skills-5m', context: 64, windows: 2, beyond: 32, seeds: 2, threads: 1 },
      ...{
        texts: ['fit-text.txt'],
        backend: expect.stringMatching(/^(native|wasm)$/),
        version: expect.stringMatching(/^\d/),
      },
      machine: expect.stringMatching(/cores/),
    });
    expect(leftOut.length).toBe(2);
    for (const [i, { method, bytesPerToken }] of rows.entries()) {
      const line = written('compare.md').match(
        new RegExp(`^\\| \\d+ \\| ${method}( \\\\\\*)? \\| (\\d+) `, 'm'),
      );
      expect(Number(line?.[2]), method).toBe(Math.round(bytesPerToken));
      expect(written('compare.html')).toContain(`<title>${i + 1} ${method}: `);
    }
    for (const { method } of leftOut) expect(written('compare.md')).toContain(`- \`${method}\`: `);
  });

  test('the figures are in order', async () => {
    await printed();
    const [f16, f32, fitted, unfitted, kivi] = report().rows;
    expect(f16).toMatchObject({ bitsPerElement: expect.any(Number), ratio: 1, kl: 0, top1: 1 });
    expect(f32.ratio).toBeCloseTo(0.5, 2);
    expect(f32.kl).toBeLessThan(1e-3);
    expect(fitted).toMatchObject({ method: 'h1b:b=64,t=head', seeds: 2 });
    expect(fitted.seedSpread?.kl.high).toBeGreaterThan(fitted.seedSpread?.kl.low ?? 0);
    expect(fitted.bytes).toEqual(unfitted.bytes);
    expect(kivi.kl).toBeLessThan(fitted.kl);
    expect(kivi).toMatchObject({ seeds: 1, front: true });
    for (const { beyond, tokens, bytes, bytesPerToken, decode } of report().rows) {
      expect([tokens, beyond.tokens]).toEqual([2 * 63, 2 * 31]);
      expect(bytes.total).toBeCloseTo(64 * bytesPerToken, 6);
      expect(decode).toBeGreaterThan(1);
    }
  });

  test('the page asks the network for nothing', async () => {
    await printed();
    const page = written('compare.html');
    expect(page).not.toMatch(/https?:|src=|@import|url\(|<script|<link/);
    expect(page.match(/<svg /g)?.length).toBe(2);
    expect(page.match(/<circle /g)?.length).toBe(2 * 5);
    expect(page).not.toMatch(/NaN|undefined/);
  });

  test('the same call goes on from its journal to the same document', async () => {
    await printed();
    const before = report();
    const { out: json } = await run(...args, '--json');
    const { command: _a, ...again } = JSON.parse(json);
    const { command: _b, ...first } = before;
    expect(again).toEqual(first);
    const lines = readFileSync(resume, 'utf8').trimEnd().split('\n');
    expect(lines.length).toBe(1 + 2 + 1);
    const other = run(...args, '--beyond', '40');
    await expect(other).rejects.toThrow(/belongs to another run: alsoBeyond was 32 and is 40/);
  });

  test('parts of a run fill the journal of the whole', async () => {
    const journal = join(folder, 'parts.jsonl');
    const few = ['--cache', 'f16', '--context', '64', '--limit', '3', '--resume', journal];
    for (const part of ['2/2', '1/2']) {
      const { out: none, err } = await run(...few, '--part', part);
      expect(none).toBe('');
      expect(err).toMatch(part === '1/2' ? /part 1 of 2: 2 windows/ : /part 2 of 2: 1 windows/);
    }
    const unitsIn = (file: string) =>
      [...readFileSync(file, 'utf8').matchAll(/^{"task":"(\w+)","unit":(\d)/gm)].map(
        ([, task, unit]) => `${task} ${unit}`,
      );
    expect(unitsIn(`${journal}.1-of-2`)).toEqual(['perplexity 0', 'perplexity 2']);
    expect(unitsIn(`${journal}.2-of-2`)).toEqual(['perplexity 1']);
    const whole = JSON.parse((await run(...few, '--json')).out);
    expect(whole).toMatchObject({ windows: 3 });
    // Only the speed was left to be measured.
    expect(unitsIn(journal)).toEqual(['decode 0']);
    await expect(run('--part', '1/2')).rejects.toThrow(/a part needs --resume/);
    await expect(run(...few, '--part', '3/2')).rejects.toThrow(/part of a whole/);
  });

  test('a call without any method that can run is wrong', async () => {
    const usage = expect.objectContaining({ code: 'usage' });
    await expect(run('--cache', 'nosuch')).rejects.toThrow(usage);
    await expect(run('--cache', 'nosuch')).rejects.toThrow(/no method .* can run.*"nosuch"/);
  });

  test('a folder that cannot be is an error that says so', async () => {
    const file = join(folder, 'a-file');
    writeFileSync(file, '');
    const bad = run('--cache', 'f16', '--context', '64', '--limit', '1', '--out', join(file, 'x'));
    await expect(bad).rejects.toThrow(/cannot be a folder/);
  });
});

describe('docs/memory.md', () => {
  const text = readFileSync(join(packageRoot, 'docs', 'memory.md'), 'utf8');

  /** Rows `| spec | MB | MB ... |` under a heading row of the models' names. */
  const table = text.split('\n').filter((line) => line.startsWith('|'));
  const cells = (line: string) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.replaceAll(/[`* ]/g, ''));
  const start = table.findIndex((line) => line.includes('llama-2-7b'));
  const models = cells(table[start]).slice(1) as ShapeName[];
  const rows = table.slice(start + 2).map(cells);

  test('has many rows', () => expect(rows.length).toBeGreaterThan(10));

  describe.each(models)('of %s', (model) => {
    const column = 1 + models.indexOf(model);
    // Layers are alike, so bytes are linear in their number: two numbers tell, and take less time to plan.
    // Of MiniCache the pairs in the upper half are: four layers have one.
    const numbersFor = (spec: string) => (spec.startsWith('minicache') ? [4, 8] : [1, 2]);
    const shape = namedShapes[model];
    const planned = async (spec: string, nLayers: number) =>
      (await plannedBytes(spec, layersOf({ ...shape, nLayers }), 8192)).total;

    test.each(rows)('%s takes what plan says', async (...row) => {
      const [few, more] = numbersFor(row[0]);
      const [low, high] = [await planned(row[0], few), await planned(row[0], more)];
      const total = low + ((high - low) * (shape.nLayers - few)) / (more - few);
      expect(row[column]).toBe((total / 1e6).toFixed(1));
    });
  });
});
