import type { Kernels } from '../kernels/kernels.ts';
import { allocTensor, tensor } from '../kernels/tensor.ts';
import { tensorSizeBytes, type WeightDType } from '../math/dtype.ts';
import { Random } from '../math/random.ts';
import { undisturbed } from './timing.ts';

export interface LinearRow {
  readonly dtype: WeightDType;
  /** one position: weights read per second, 10^9 bytes */
  readonly vectorGigabytes: number;
  /** many positions: multiplications and additions per second, 10^9 */
  readonly matrixGigaops: number;
}

export interface LinearSpeedOptions {
  /** weights to read before any are read again: more than the processor's caches hold */
  readonly weightBytes?: number;
  /** turns of each format; default 100 */
  readonly rounds?: number;
}

const columns = 2048;
/** Weights of a call: long beside the clock, short beside a turn of the system's scheduler. */
const callBytes = 4 << 20;
const matrixRows = 256;
const positions = 128;

/**
 * Speed of `linear` on random weights: one position on weights that come from memory, and many
 * positions. The formats take turns; of each the speed is given that one turn in 20 exceeds, for
 * the others had to share the machine.
 */
export async function linearSpeed(
  kernels: Kernels,
  dtypes: readonly WeightDType[],
  { weightBytes = 128 << 20, rounds = 100 }: LinearSpeedOptions = {},
): Promise<LinearRow[]> {
  const random = new Random(1);
  const weights = allocTensor(kernels, 'u8', [weightBytes]);
  // A byte of 63 at most: as the upper byte of an f16 scale it makes no NaN.
  kernels.write(
    weights,
    new Uint8Array(weightBytes).map(() => random.uint32() & 63),
  );
  const x = allocTensor(kernels, 'f32', [positions, columns]);
  kernels.write(
    x,
    Float32Array.from({ length: positions * columns }, () => random.normal()),
  );
  const one = tensor(x.buffer, 'f32', [1, columns]);
  const out = allocTensor(kernels, 'f32', [positions * matrixRows]);
  const contestants = dtypes.map((dtype) => {
    const rowBytes = tensorSizeBytes(dtype, [1, columns]);
    const rows = Math.max(1, Math.floor(Math.min(callBytes, weightBytes) / rowBytes));
    return {
      dtype,
      rows,
      sizeBytes: rows * rowBytes,
      vector: [] as number[],
      matrix: [] as number[],
    };
  });
  const time = async (dtype: WeightDType, n: number, rows: number, offset: number) => {
    const part = {
      weight: tensor(weights.buffer, dtype, [rows, columns], offset),
      out: tensor(out.buffer, 'f32', [n, rows]),
    };
    const began = performance.now();
    kernels.linear(n === 1 ? one : x, [part]);
    await kernels.read(tensor(out.buffer, 'f32', [1]));
    return (performance.now() - began) * 1e6;
  };
  let offset = 0;
  for (let round = 0; round < rounds; round++) {
    for (const { dtype, rows, sizeBytes, vector, matrix } of contestants) {
      if (offset + sizeBytes > weightBytes) offset = 0;
      vector.push(sizeBytes / (await time(dtype, 1, rows, offset)));
      offset += sizeBytes;
      if (round % 4 > 0) continue;
      const n = Math.min(matrixRows, rows);
      matrix.push((2 * n * columns * positions) / (await time(dtype, positions, n, 0)));
    }
  }
  for (const { buffer } of [weights, x, out]) kernels.free(buffer);
  return contestants.map(({ dtype, vector, matrix }) => ({
    dtype,
    vectorGigabytes: undisturbed(vector),
    matrixGigaops: undisturbed(matrix),
  }));
}
