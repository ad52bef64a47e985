/** The tables of `h1bkv bench`. */
import type { GrowthLine } from '../bench/growth.ts';
import type { LinearRow } from '../bench/linear.ts';
import type { RooflineRow } from '../bench/roofline.ts';
import type { BenchRow } from '../bench/side-by-side-node.ts';
import { formatBytes } from './options.ts';

/** Engines and caches; ratios are to the peer's first row at the same depth, if it was measured. */
export function printRows(rows: readonly BenchRow[]): void {
  const hasPeer = rows.some(({ engine }) => engine === 'node-llama-cpp');
  const ratioHead = hasPeer ? '   to peer' : '';
  console.log(
    `engine          cache           depth  decode/s${ratioHead}  prefill/s${ratioHead}       cache`,
  );
  for (const row of rows) {
    const base = rows.find(
      ({ engine, depth }) => engine === 'node-llama-cpp' && depth === row.depth,
    );
    const ratio = (value: number, of?: number) =>
      hasPeer ? (of ? `${(value / of).toFixed(2)}x` : '').padStart(10) : '';
    console.log(
      [
        row.engine.padEnd(16),
        row.kv.padEnd(14),
        String(row.depth).padStart(7),
        row.decode.toFixed(1).padStart(10),
        ratio(row.decode, base?.decode),
        row.prefill.toFixed(1).padStart(11),
        ratio(row.prefill, base?.prefill),
        formatBytes(row.cacheBytes).padStart(12),
      ].join(''),
    );
  }
}

/** What a token's time goes to; the peer shows only the whole. */
export function printSplits(rows: readonly BenchRow[]): void {
  console.log('\na token, ms     cache           depth     whole      load attention      rest');
  for (const { kv, depth, split } of rows) {
    if (!split) continue;
    const { tokenMs, cacheLoadMs, attentionMs, restMs } = split;
    const cells = [tokenMs, cacheLoadMs, attentionMs, restMs].map((ms) =>
      ms.toFixed(2).padStart(10),
    );
    console.log(`${''.padEnd(16)}${kv.padEnd(14)}${String(depth).padStart(7)}${cells.join('')}`);
  }
  console.log(
    'load: the cache read at the speed of memory; attention: what attention takes beyond that; rest: all else.',
  );
}

export function printRoofline(rows: readonly RooflineRow[], linear: readonly LinearRow[]): void {
  console.log('\nkernel                          threads      GB/s    memory   times of reading');
  for (const { kernel, threads, gigabytes, memoryGigabytes, timesOfReading } of rows) {
    const speeds = [gigabytes, memoryGigabytes].map((speed) => speed.toFixed(1).padStart(10));
    console.log(
      `${kernel.padEnd(32)}${String(threads).padStart(7)}${speeds.join('')}${timesOfReading.toFixed(2).padStart(19)}`,
    );
  }
  const speeds = linear.map(({ dtype, matrixGigaops }) => `${dtype} ${matrixGigaops.toFixed(0)}`);
  console.log(`\nmatrix products of 128 tokens, Gop/s with all threads: ${speeds.join(', ')}`);
}

export function printGrowth(lines: readonly GrowthLine[]): void {
  const depths = lines[0]?.points.map(({ depth }) => depth) ?? [];
  const head = depths.map((depth) => `${depth / 1024}k`.padStart(9)).join('');
  console.log(`attention, ms   ${head}    slope  from 8k  us/1000`);
  for (const { method, points, slope, slopeFrom8k, perThousandUs } of lines) {
    const times = points.map(({ attendMs }) => attendMs.toFixed(2).padStart(9)).join('');
    const rest = `${slope.toFixed(2).padStart(9)}${slopeFrom8k.toFixed(2).padStart(9)}${perThousandUs.toFixed(1).padStart(9)}`;
    console.log(`${method.padEnd(16)}${times}${rest}`);
  }
}
