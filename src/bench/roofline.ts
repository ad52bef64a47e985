import type { Kernels } from '../kernels/kernels.ts';
import type { ModelShape } from '../model/shapes.ts';
import type { AttentionRow } from './attention.ts';
import type { LinearRow } from './linear.ts';
import { scanSpeed, type ScanForm } from './scan.ts';

/** A kernel beside the time in which its bytes can be read at all. */
export interface RooflineRow {
  readonly kernel: string;
  readonly threads: number;
  /** 10^9 bytes a second that it reads: of weights, of a cache, of keys */
  readonly gigabytes: number;
  /** the same of as many threads that only read */
  readonly memoryGigabytes: number;
  /** its time over the time to read its bytes: 1 is as fast as memory */
  readonly timesOfReading: number;
}

export interface Measured {
  readonly threads: number;
  readonly memoryGigabytes: number;
  readonly linear: readonly LinearRow[];
  readonly attention: readonly AttentionRow[];
}

/** Matrix products with one position, and one token's attention, of what was measured before. */
export function roofline({ threads, memoryGigabytes, linear, attention }: Measured): RooflineRow[] {
  const row = (kernel: string, gigabytes: number) => ({
    ...{ kernel, threads, gigabytes, memoryGigabytes },
    timesOfReading: memoryGigabytes / gigabytes,
  });
  return [
    ...linear.map(({ dtype, vectorGigabytes }) => row(`linear ${dtype}`, vectorGigabytes)),
    ...attention.map(({ method, depth, bytes, attendMs }) =>
      row(`attend ${method} at ${depth}`, bytes / (attendMs * 1e6)),
    ),
  ];
}

/** Positions whose keys are scanned: more than caches hold, for the widest. */
const scannedPositions = 1 << 19;

/** Keys of one head scored alone, which one thread does, in the forms of `f16`, `h1b` and `bitplane`. */
export async function scanRoofline(
  kernels: Kernels,
  { nHeads, nKvHeads, headDim }: ModelShape,
  memoryGigabytes: number,
): Promise<RooflineRow[]> {
  const forms: ScanForm[] = [
    { f16Dimensions: headDim },
    { sketchBits: 256 },
    { codeGroups: headDim / 4 },
  ];
  const rows = await scanSpeed(kernels, forms, nHeads / nKvHeads, scannedPositions, 7);
  return rows.map(({ form, gigabytesPerSecond: gigabytes }) => ({
    ...{ kernel: `scores ${form}`, threads: 1, gigabytes, memoryGigabytes },
    timesOfReading: memoryGigabytes / gigabytes,
  }));
}
