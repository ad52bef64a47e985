import { ensure } from '../errors/errors.ts';
import { Random } from '../math/random.ts';
import type { LayerShape } from './cache.ts';
import type { CacheMethod } from './method.ts';
import { DecodedCache } from './decoded.ts';
import { blockLength, type BlockCodec } from './decoded-method.ts';
import { fromF16, toF16 } from './halves.ts';
import { kMeans, nearest } from './kmeans.ts';
import { getCode, setCode, type CodeBits } from './packed-codes.ts';
import { choiceSetting, expectSettings, wholeSetting } from './spec.ts';

/**
 * `cq`: coupled quantization (arXiv 2405.03917). Channels depend on each other, so `c` neighbouring
 * channels of a head share one code of `b` bits, the index of the nearest of 2^b centres: b / c bits
 * per channel, and nothing per position beside the codes.
 *
 * Centres (f16, for each layer, KV head and group of channels, keys and values apart) come from
 * k-means over the first `n` positions, which stay exact until then: a query that sees at most n
 * positions sees them all exact, any later one sees all of them as codes. The paper learns its
 * centres on a calibration text, uniformly as here or weighted by gradients.
 *
 * Settings: `c` channels (default 4) and `b` bits (1, 2, 4 or 8; default 4) of a code, `n` (default
 * 256, or 4 positions for each centre if that is more), `seed` of the k-means (default 0).
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels) => {
  expectSettings(spec, ['c', 'b', 'n', 'seed']);
  const channels = wholeSetting(spec, 'c', 4, { min: 1, max: 64 });
  const bits = choiceSetting<CodeBits>(spec, 'b', 4, [1, 2, 4, 8]);
  const centres = 2 ** bits;
  const fewest = Math.max(256, 4 * centres);
  const positions = wholeSetting(spec, 'n', fewest, { min: centres, max: 65536 });
  const seed = wholeSetting(spec, 'seed', 0, { min: 0, max: 65535 });
  for (const d of shapes.flatMap(({ headDimK, headDimV }) => [headDimK, headDimV])) {
    ensure(
      d % channels === 0,
      'usage',
      () => `cache "cq": c is ${channels}; it must divide the model's head dimension, ${d}.`,
    );
  }
  const books = (shape: LayerShape) => {
    const keys = { nKvHeads: shape.nKvHeads, d: shape.headDimK, channels, bits, from: 0 };
    const values = { ...keys, d: shape.headDimV, from: bookLength(keys) };
    return { keys, values };
  };
  return new DecodedCache(kernels, shapes, {
    spec: `cq:c=${channels},b=${bits},n=${positions},seed=${seed}`,
    codecs: shapes.map((shape) => ({
      keys: coupledCodec(books(shape).keys),
      values: coupledCodec(books(shape).values),
    })),
    compressedAt: (count) => (count > positions ? count : 0),
    exactUntil: positions,
    state: {
      version: (length) => (length > positions ? 1 : undefined),
      layout: (layer) => {
        const { keys, values } = books(shapes[layer]);
        const codebooks = 2 * (bookLength(keys) + bookLength(values));
        return { keys: 0, values: 0, scales: 0, codebooks };
      },
      fit: {
        positions,
        run: (layer, keyRows, valueRows, { codebooks }) => {
          const { keys, values } = books(shapes[layer]);
          const random = new Random(seed * 65536 + layer);
          codebooks.set(toF16(fitBook(keyRows, keys, random)), keys.from);
          codebooks.set(toF16(fitBook(valueRows, values, random)), values.from);
        },
      },
    },
  });
};

/** The centres for the keys, or the values, of a layer: [nKvHeads, d / channels, 2^bits, channels]. */
export interface CoupledBook {
  readonly nKvHeads: number;
  readonly d: number;
  readonly channels: number;
  readonly bits: CodeBits;
  /** where it begins among the layer's codebooks */
  readonly from: number;
}

export const bookLength = ({ nKvHeads, d, bits }: CoupledBook) => nKvHeads * d * 2 ** bits;

/** @param rows f32 [nKvHeads, positions, d] */
export function fitBook(rows: Float32Array, book: CoupledBook, random: Random): Float32Array {
  const { nKvHeads, d, channels, bits } = book;
  const all = new Float32Array(bookLength(book));
  const positions = rows.length / (nKvHeads * d);
  const groups = d / channels;
  for (let g = 0; g < nKvHeads * groups; g++) {
    const first = Math.floor(g / groups) * positions * d + (g % groups) * channels;
    const points = Float32Array.from(
      { length: positions * channels },
      (_, at) => rows[first + Math.floor(at / channels) * d + (at % channels)],
    );
    const size = 2 ** bits * channels;
    all.set(kMeans(points, channels, 2 ** bits, random), g * size);
  }
  return all;
}

/** Code g of row r stands at index r d / channels + g. */
export function coupledCodec(book: CoupledBook): BlockCodec {
  const { nKvHeads, d, channels, bits, from } = book;
  const groups = d / channels;
  const nCodes = nKvHeads * blockLength * groups;
  const size = 2 ** bits * channels;
  /** Where the centres of a code begin. */
  const centresOf = (code: number) =>
    (Math.floor(code / (blockLength * groups)) * groups + (code % groups)) * size;
  const read = (codebooks: Uint16Array) =>
    fromF16(codebooks.subarray(from, from + bookLength(book)));
  return {
    codeBytes: (nCodes * bits) / 8,
    scaleBytes: 0,
    encode(page, { first, end }, { codes, codebooks }) {
      const centres = read(codebooks);
      for (let code = 0; code < nCodes; code++) {
        const slot = Math.floor(code / groups) % blockLength;
        if (slot < first || slot >= end) continue;
        const best = nearest(page, code * channels, centres, centresOf(code), channels, 2 ** bits);
        setCode(codes, code, bits, best);
      }
    },
    decode({ codes, codebooks }, _count, page) {
      const centres = read(codebooks);
      for (let code = 0; code < nCodes; code++) {
        const at = centresOf(code) + getCode(codes, code, bits) * channels;
        // For so few elements a call of `set` takes longer.
        for (let c = 0; c < channels; c++) page[code * channels + c] = centres[at + c];
      }
    },
  };
}
