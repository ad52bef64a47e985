/** How much memory the command line needs beside the model file and the cache. */
import { spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { forgeGguf } from '../src/bench/forge-node.ts';
import { packageRoot, skipBecause, temporaryFolder, tinyShape } from './forged.ts';

const cli = join(packageRoot, 'dist', 'cli.js');
const folder = temporaryFolder();

/** Allowed beside file and cache, in bytes. */
const allowance = 150e6;

/** Runs in the command's process; getrusage would count the process that started it. */
const printPeak = `import { readFileSync } from 'node:fs';
process.on('exit', () => {
  const [, kibibytes] = /VmHWM:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'));
  process._rawDebug('peak ' + 1024 * kibibytes);
});`;

test('a vocabulary of 128,256 and its merges fit into 150 MB', async ({ skip }) => {
  const what = 'resident memory of generate';
  if (process.platform !== 'linux') skipBecause(skip, what, 'read from /proc, which is Linux’s');
  if (!existsSync(cli)) skipBecause(skip, what, 'dist/cli.js is not there; npm run build makes it');
  const model = join(folder, 'large-vocabulary.gguf');
  await forgeGguf(model, { ...tinyShape, dModel: 256, vocab: 128_256, type: 'Q4_0', tied: true });
  const hook = `data:text/javascript,${encodeURIComponent(printPeak)}`;
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', hook, cli, 'generate', 'the cat', '--model', model, '--max-tokens', '1', '--json'],
    { encoding: 'utf8', timeout: 30_000 },
  );
  const peak = Number(/^peak (\d+)$/m.exec(stderr)?.[1]);
  const { cache, tokens } = JSON.parse(stdout) as { cache: { bytes: number }; tokens: number };
  expect(tokens).toBe(1);
  const fileBytes = statSync(model).size;
  // Less than the file itself would be a figure of something else.
  expect(peak).toBeGreaterThan(fileBytes);
  expect(peak - fileBytes - cache.bytes).toBeLessThan(allowance);
});
