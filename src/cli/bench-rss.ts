/** `bench --rss`: peak memory of processes that do nothing but decode, beside what was planned. */
import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { measurePeak, type PeakRow } from '../bench/peak-node.ts';
import { KvError } from '../errors/errors.ts';
import { plannedBytes } from '../plan/plan.ts';
import { formatBytes, loadFromFlags, type ModelFlags } from './options.ts';

/** One row of `h1bkv bench --rss --json`. */
export interface RssRow extends PeakRow {
  /** of the model */
  readonly fileBytes: number;
  /** of the cache, before it existed */
  readonly planned: number;
  /** what the process took beside the model file and the planned cache */
  readonly besides: number;
}

/** Each method at each depth in a process of its own, which is this program again. */
export function peaksInChildren(
  flags: ModelFlags,
  modelFile: string,
  methods: readonly string[],
  depths: readonly number[],
): RssRow[] {
  return methods.flatMap((method) =>
    depths.map((depth) => {
      const threads = flags.threads === undefined ? [] : ['--threads', String(flags.threads)];
      const adapter = flags.adapter === undefined ? [] : ['--adapter', flags.adapter];
      const args = ['--model', modelFile, '--backend', flags.backend, ...threads, ...adapter];
      const { status, stdout, stderr, error } = spawnSync(
        process.execPath,
        [
          process.argv[1],
          'bench',
          '--rss-child',
          '--cache',
          method,
          '--depth',
          `${depth}`,
          ...args,
        ],
        { encoding: 'utf8' },
      );
      if (status !== 0) {
        const why = error?.message ?? stderr.trim();
        throw new KvError('io', `bench: the process with ${method} at ${depth} failed: ${why}`);
      }
      return JSON.parse(stdout) as RssRow;
    }),
  );
}

/** What such a process does: one row, as JSON on standard output. */
export async function printOwnPeak(flags: ModelFlags, method: string, depth: number) {
  const fileBytes = statSync(flags.model).size;
  const model = await loadFromFlags(flags);
  const row = await measurePeak(model, method, depth);
  const planned = (await plannedBytes(method, model.layers, depth, model.adapter)).total;
  const besides = row.peak - fileBytes - planned;
  console.log(JSON.stringify({ ...row, fileBytes, planned, besides } satisfies RssRow));
  model.dispose();
}

export function printPeaks(rows: readonly RssRow[]): void {
  const columns = ['peak', 'file', 'planned', 'cache', 'scratch', 'besides', 'of files'];
  console.log(
    `${'cache'.padEnd(16)}${'depth'.padStart(8)}${columns.map((name) => name.padStart(11)).join('')}`,
  );
  for (const row of rows) {
    const { peak, fileBytes, planned, cacheBytes, scratchBytes, besides, atEnd } = row;
    const sizes = [peak, fileBytes, planned, cacheBytes, scratchBytes, besides, atEnd.file];
    console.log(
      `${row.method.padEnd(16)}${String(row.depth).padStart(8)}${sizes.map(sizeCell).join('')}`,
    );
  }
  console.log(
    '\npeak: the most that was ever resident; file: the model; planned, cache: bytes before and after;\nbesides: peak without file and planned; of files: pages of files at the end, the model and the program.',
  );
}

const sizeCell = (bytes: number) =>
  (bytes < 0 ? `-${formatBytes(-bytes)}` : formatBytes(bytes)).padStart(11);
