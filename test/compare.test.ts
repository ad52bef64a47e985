/** `h1bkv compare` on the embedded model, and what docs/memory.md says of other models. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { beforeAll, describe, expect, test, vi } from 'vitest';
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
    ...['--cache', methods, '--context', '160', '--limit', '2', '--seeds', '2', '--threads', '1'],
    ...['--out', out, '--resume', resume],
  ];
  let printed: { out: string; err: string };
  beforeAll(async () => {
    printed = await run(...args);
  });
  const written = (name: string) => readFileSync(join(out, name), 'utf8');
  const report = () => JSON.parse(written('compare.json')) as Comparison & Record<string, unknown>;

  test('prints a row for each method and why others are missing', () => {
    const rows = [...printed.out.matchAll(/^(\d+) +(\S+)/gm)].map(([, , method]) => method);
    expect(rows).toEqual(['f16', ...methods.split(' ').slice(0, 4)]);
    expect(printed.out).toMatch(/^left out: h1b:b=96,t=head: .*needs an adapter/m);
    expect(printed.err).toMatch(/^left out: nosuch: cache "nosuch" is unknown/m);
    expect(printed.out).toMatch(/KL >80/);
  });

  test('writes the same to three files, and leaves nothing else', () => {
    expect(readdirSync(out).sort()).toEqual(['compare.html', 'compare.json', 'compare.md']);
    const { rows, leftOut, ...rest } = report();
    expect(rest).toMatchObject({
      ...{ model: 'books-skills-5m', context: 160, windows: 2, beyond: 80, seeds: 2, threads: 1 },
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

  test('the figures are in order', () => {
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
      expect([tokens, beyond.tokens]).toEqual([2 * 159, 2 * 79]);
      expect(bytes.total).toBeCloseTo(160 * bytesPerToken, 6);
      expect(decode).toBeGreaterThan(1);
    }
  });

  test('the page asks the network for nothing', () => {
    const page = written('compare.html');
    expect(page).not.toMatch(/https?:|src=|@import|url\(|<script|<link/);
    expect(page.match(/<svg /g)?.length).toBe(2);
    expect(page.match(/<circle /g)?.length).toBe(2 * 5);
    expect(page).not.toMatch(/NaN|undefined/);
  });

  test('the same call goes on from its journal to the same document', async () => {
    const before = report();
    const { out: json } = await run(...args, '--json');
    const { command: _a, ...again } = JSON.parse(json);
    const { command: _b, ...first } = before;
    expect(again).toEqual(first);
    const lines = readFileSync(resume, 'utf8').trimEnd().split('\n');
    expect(lines.length).toBe(1 + 2 + 1);
    const other = run(...args, '--beyond', '40');
    await expect(other).rejects.toThrow(/belongs to another run: alsoBeyond was 80 and is 40/);
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

  test.each(models)('says of %s what plan says', async (model) => {
    expect(rows.length).toBeGreaterThan(10);
    const column = 1 + models.indexOf(model);
    // Layers are alike, so bytes are linear in their number: 4 and 8 tell, and take less time to plan.
    const shape = namedShapes[model];
    const planned = async (spec: string, nLayers: number) =>
      (await plannedBytes(spec, layersOf({ ...shape, nLayers }), 8192)).total;
    for (const row of rows) {
      const [four, eight] = [await planned(row[0], 4), await planned(row[0], 8)];
      const total = four + ((eight - four) * (shape.nLayers - 4)) / 4;
      expect(row[column], row[0]).toBe((total / 1e6).toFixed(1));
    }
  });
});
