import type { AttentionRow } from './attention.ts';

/** How the cost of one decoded token's attention grows with the positions in the cache. */
export interface GrowthLine {
  readonly method: string;
  /** by depth, ascending */
  readonly points: readonly { readonly depth: number; readonly attendMs: number }[];
  /** of log(ms) over log(depth), least squares over all points: 1 is in proportion to the context */
  readonly slope: number;
  /** the same of the points from 8,192 on, where what does not grow no longer counts */
  readonly slopeFrom8k: number;
  /** microseconds that each further thousand positions cost, between the last two points */
  readonly perThousandUs: number;
}

/** 1k to 64k, doubled each time. */
export const growthDepths = [1024, 2048, 4096, 8192, 16384, 32768, 65536];

/** The lines of all methods of `attentionAtDepths`, which gives at least two depths from 8,192 on. */
export function growthLines(rows: readonly AttentionRow[]): GrowthLine[] {
  const methods = [...new Set(rows.map(({ method }) => method))];
  return methods.map((method) => {
    const points = rows
      .filter((row) => row.method === method)
      .map(({ depth, attendMs }) => ({ depth, attendMs }))
      .sort((a, b) => a.depth - b.depth);
    const [before, last] = points.slice(-2);
    return {
      ...{ method, points, slope: logLogSlope(points) },
      slopeFrom8k: logLogSlope(points.filter(({ depth }) => depth >= 8192)),
      perThousandUs: (1e6 * (last.attendMs - before.attendMs)) / (last.depth - before.depth),
    };
  });
}

/** Slope of the least-squares line through (log depth, log ms). */
function logLogSlope(points: GrowthLine['points']): number {
  const xs = points.map(({ depth }) => Math.log(depth));
  const ys = points.map(({ attendMs }) => Math.log(attendMs));
  const mean = (values: number[]) => values.reduce((sum, v) => sum + v, 0) / values.length;
  const [meanX, meanY] = [mean(xs), mean(ys)];
  const covariance = xs.reduce((sum, x, i) => sum + (x - meanX) * (ys[i] - meanY), 0);
  return covariance / xs.reduce((sum, x) => sum + (x - meanX) ** 2, 0);
}
