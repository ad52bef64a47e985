/**
 * A model of 7 billion parameters with 8k tokens of context within 6 GB. It writes a file of 3.8 GB
 * below build/bench/ and takes minutes, so it runs when it is asked for: H1BKV_HEAVY=1.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, statfsSync } from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { forgedPath } from '../src/bench/forge-shape-node.ts';
import { packageRoot, skipBecause } from './forged.ts';

const cli = join(packageRoot, 'dist', 'cli.js');
const folder = join(packageRoot, 'build', 'bench');

const depth = 8192;
/** Allowed in all, bytes, pages of the mapped model file included. */
const allowed = 6e9;
const fileBytes = 3.9e9;

interface Report {
  readonly peaks: readonly {
    readonly method: string;
    readonly peak: number;
    readonly fileBytes: number;
    readonly planned: number;
    readonly cacheBytes: number;
    readonly atEnd: { readonly all: number; readonly file: number };
  }[];
}

test(
  '7 billion parameters in Q4_0 and 8k tokens in bitplane fit into 6 GB',
  { timeout: 1_800_000 },
  ({ skip }) => {
    const what = '7B within 6 GB';
    if (!process.env.H1BKV_HEAVY)
      skipBecause(skip, what, 'takes minutes; H1BKV_HEAVY=1 asks for it');
    if (process.platform !== 'linux') skipBecause(skip, what, 'read from /proc, which is Linux’s');
    if (!existsSync(cli))
      skipBecause(skip, what, 'dist/cli.js is not there; npm run build makes it');
    mkdirSync(folder, { recursive: true });
    const { bavail, bsize } = statfsSync(folder);
    const isForged = existsSync(forgedPath(folder, 'llama-2-7b', 'q4_0'));
    if (!isForged && bavail * bsize < 1.2 * fileBytes) {
      skipBecause(skip, what, `the disk has ${bavail * bsize} bytes free, its file needs 4.7e9`);
    }
    if (freemem() < allowed) skipBecause(skip, what, `${freemem()} bytes of memory are free`);
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [
        ...[cli, 'bench', '--rss', '--shape', 'llama-2-7b', '--quant', 'q4_0'],
        ...['--depth', String(depth), '--cache', 'bitplane', '--json'],
      ],
      { encoding: 'utf8' },
    );
    expect(status, stderr).toBe(0);
    const [row] = (JSON.parse(stdout) as Report).peaks;
    expect(row.cacheBytes).toBe(row.planned);
    expect(row.peak).toBeLessThan(allowed);
    // The weights were all read, and the cache is all there: less would be a figure of something else. Of the
    // embedding, 1.9 % of the file, only the rows of the tokens that ran are.
    expect(row.atEnd.file).toBeGreaterThan(0.98 * row.fileBytes);
    expect(row.atEnd.all - row.atEnd.file).toBeGreaterThan(row.cacheBytes);
  },
);
