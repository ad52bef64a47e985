import { blockLength, type BlockCodec } from '../src/cache/decoded-method.ts';

/** What comes back of a page f32 [nKvHeads, blockLength, headDim] that a codec wrote, `step` slots at a time. */
export function roundTrip(codec: BlockCodec, page: Float32Array, step = blockLength): Float32Array {
  const coded = {
    codes: new Uint8Array(codec.codeBytes),
    scales: new Uint16Array(codec.scaleBytes / 2),
    codebooks: new Uint16Array(0),
  };
  for (let first = 0; first < blockLength; first += step) {
    codec.encode(page, { first, end: first + step }, coded);
  }
  const out = new Float32Array(page.length);
  codec.decode(coded, blockLength, out);
  return out;
}

/** Root of the mean squared difference. */
export function rootMeanSquareError(a: Float32Array, b: Float32Array): number {
  return Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]) ** 2, 0) / a.length);
}
