/** The backends made of C beside each other on the embedded model, and how programs with them end. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { KvError } from '../src/errors/errors.ts';
import { Session } from '../src/generate/session.ts';
import type { BackendChoice } from '../src/kernels/kernels.ts';
import { instructionSets } from '../src/kernels/native.ts';
import { loadModel } from '../src/model/load.ts';
import type { Model } from '../src/model/model.ts';
import { embeddedModel, packageRoot, say } from './forged.ts';

function nativeChoices(): BackendChoice[] {
  try {
    const sets = Object.entries(instructionSets()).filter(([, runsHere]) => runsHere);
    return sets.map(([set]) => `native-${set}` as BackendChoice);
  } catch (error) {
    if (!(error instanceof KvError)) throw error;
    say(`skipped: test/backends.test.ts: ${error.message}`);
    return [];
  }
}

const prompt = 'It was a dark';
const count = 64;

/**
 * A sum rounded otherwise moves an 8-bit code of an activation, and that the logits: by 0.027 (rms; the
 * largest of 200 positions 0.24) with an f16 cache. The signs of `h1b` make it 0.11 and 1.1. Where two
 * tokens are nearer than that, either is right.
 */
const noise = {
  f16: { rms: 0.05, largest: 0.4, nearTies: 4 },
  h1b: { rms: 0.2, largest: 1.5, nearTies: 8 },
} as const;
const specs = ['f16', 'h1b'] as const;

async function greedy(model: Model, cache: string): Promise<number[]> {
  const session = await Session.create(model, { cache });
  session.append(prompt);
  const ids: number[] = [];
  for await (const { id } of session.generate({ maxTokens: count })) ids.push(id);
  session.dispose();
  return ids;
}

/** f32 [ids.length, vocabSize] */
async function logitsOf(model: Model, spec: string, ids: Int32Array): Promise<Float32Array> {
  const cache = await model.createCache(spec);
  const all = await model.kernels.read(await model.forward([{ ids, cache }], 'all'));
  cache.dispose();
  return all as Float32Array;
}

const choices = nativeChoices();

describe.each(choices)('%s beside WebAssembly', (backend) => {
  let wasm: Model;
  let native: Model;
  beforeAll(async () => {
    wasm = await loadModel(embeddedModel, { backend: 'wasm', threads: 2 });
    native = await loadModel(embeddedModel, { backend, threads: 2 });
  });
  afterAll(() => {
    wasm.dispose();
    native.dispose();
  });

  test.each(specs)('%s: 64 greedy tokens are those of WebAssembly, or as good', async (spec) => {
    const chosen = await greedy(native, spec);
    expect(chosen.length).toBe(count);
    // A near tie that falls the other way changes all that follows, so WebAssembly follows that text.
    const ids = Int32Array.from([...wasm.tokenizer.encode(prompt), ...chosen]);
    const all = await logitsOf(wasm, spec, ids);
    const gaps = chosen.map((id, i) => {
      const start = (ids.length - count - 1 + i) * wasm.vocabSize;
      const row = all.subarray(start, start + wasm.vocabSize);
      return Math.max(...row) - row[id];
    });
    expect(Math.max(...gaps)).toBeLessThan(noise[spec].largest);
    expect(gaps.filter((gap) => gap > 0).length).toBeLessThanOrEqual(noise[spec].nearTies);
  });

  test.each(specs)('%s: logits within the bound', async (spec) => {
    const text = readFileSync(join(packageRoot, 'models', 'fit-text.txt'), 'utf8');
    const ids = wasm.tokenizer.encode(text).subarray(0, 200);
    const [a, b] = [await logitsOf(wasm, spec, ids), await logitsOf(native, spec, ids)];
    expect(a.length).toBe(200 * wasm.vocabSize);
    const differences = a.map((logit, i) => Math.abs(logit - b[i]));
    const meanSquare = differences.reduce((sum, d) => sum + d * d, 0) / a.length;
    expect(Math.sqrt(meanSquare)).toBeLessThan(noise[spec].rms);
    expect(differences.reduce((max, d) => Math.max(max, d), 0)).toBeLessThan(noise[spec].largest);
  });
});

/** Runs a program until its end. @returns what it printed */
function outputOf(source: string, env: Record<string, string> = {}): string {
  const { stdout, stderr, status, signal } = spawnSync(
    process.execPath,
    ['--input-type=module', '--eval', source],
    { encoding: 'utf8', timeout: 20_000, env: { ...process.env, ...env } },
  );
  expect({ signal, status, stderr }).toEqual({ signal: null, status: 0, stderr: '' });
  return stdout;
}

const library = join(packageRoot, 'dist', 'index.js');
const isBuilt = existsSync(library);
if (!isBuilt) say('skipped: programs with native kernels: run "npm run build"');
const load = `import { loadModel } from ${JSON.stringify(pathToFileURL(library).href)};
const open = () => loadModel(${JSON.stringify(embeddedModel)}, { backend: 'native', threads: 2 });`;

describe.runIf(isBuilt && choices.length > 0)('a program with native kernels', () => {
  test('ends by itself, though nobody disposed of them', () => {
    const program = `${load}
      const model = await open();
      console.log(model.kernels.description);`;
    expect(outputOf(program)).toMatch(/^native: .*2 threads\n$/);
  });

  test('ends by process.exit, with threads waiting', () => {
    expect(outputOf(`${load} await open(); console.log('there'); process.exit(0);`)).toBe(
      'there\n',
    );
  });

  test('may hold them in several threads of its own at once, and end these', () => {
    const worker = `${load}
      import { parentPort } from 'node:worker_threads';
      const model = await open();
      const cache = await model.createCache('f16');
      const ids = model.tokenizer.encode('It was');
      const logits = await model.kernels.read(await model.forward([{ ids, cache }]));
      parentPort.postMessage(logits[7]);`;
    const program = `import { Worker } from 'node:worker_threads';
      const url = new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(worker)}));
      const one = () => new Promise((resolve, reject) => {
        const worker = new Worker(url);
        let answer;
        worker.on('message', (message) => (answer = message));
        worker.on('error', reject);
        worker.on('exit', () => resolve(answer));
      });
      const rounds = [];
      for (let i = 0; i < 3; i++) rounds.push(...(await Promise.all([one(), one()])));
      console.log(new Set(rounds).size, typeof rounds[0]);`;
    expect(outputOf(program)).toBe('1 number\n');
  });

  test('takes the instruction set that the environment names', () => {
    const program = `${load.replace("backend: 'native', ", '')}
      console.log((await open()).kernels.description);`;
    const description = outputOf(program, { H1BKV_BACKEND: 'native-baseline' });
    expect(description).toMatch(/^native: (baseline|NEON), 2 threads/);
  });
});
