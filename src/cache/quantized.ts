import { f16ToF32, f32ToF16 } from '../math/f16.ts';
import type { CacheMethod } from './method.ts';
import { DecodedCache } from './decoded.ts';
import { blockLength, type BlockCodec } from './decoded-method.ts';
import { getCode, setCode } from './packed-codes.ts';
import { choiceSetting, expectSettings } from './spec.ts';

/** Elements of a row that share a scale, as in llama.cpp's types; the last ones of a row may be fewer. */
const groupLength = 32;

/**
 * `q8_0` and `q4_0`: what llama.cpp offers for its KV cache. Groups of 32 elements along the head
 * dimension with one f16 scale: 8.5 and 4.5 bits per element.
 *
 * Setting `rotate`: `hadamard` (default) multiplies each key and value by an orthonormal Hadamard
 * matrix first and back afterwards, which spreads outliers over all channels; llama.cpp does so since
 * April 2026. It exists for head dimensions that are powers of two; others stay as they are.
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels) => {
  expectSettings(spec, ['rotate']);
  const rotate = choiceSetting(spec, 'rotate', 'hadamard', ['hadamard', 'none']);
  const bits = spec.name === 'q8_0' ? 8 : 4;
  const codec = (nKvHeads: number, headDim: number) =>
    symmetricCodec(bits, nKvHeads, headDim, rotate === 'hadamard' && isPowerOfTwo(headDim));
  return new DecodedCache(kernels, shapes, {
    spec: `${spec.name}:rotate=${rotate}`,
    codecs: shapes.map(({ nKvHeads, headDimK, headDimV }) => ({
      keys: codec(nKvHeads, headDimK),
      values: codec(nKvHeads, headDimV),
    })),
    compressedAt: (count) => count,
    exactUntil: 0,
  });
};

export function symmetricCodec(
  bits: 4 | 8,
  nKvHeads: number,
  d: number,
  rotated: boolean,
): BlockCodec {
  const groups = Math.ceil(d / groupLength);
  const nRows = nKvHeads * blockLength;
  const centre = 2 ** (bits - 1);
  const turn = (row: Float32Array) => (rotated ? hadamard(row) : row);
  return {
    codeBytes: (nRows * d * bits) / 8,
    scaleBytes: nRows * groups * 2,
    encode(page, slots, { codes, scales }) {
      for (let row = 0; row < nRows; row++) {
        const slot = row % blockLength;
        if (slot < slots.first || slot >= slots.end) continue;
        const x = turn(page.slice(row * d, row * d + d));
        for (let g = 0; g < groups; g++) {
          const from = g * groupLength;
          const group = quantizeSymmetric(x.subarray(from, from + groupLength), bits);
          scales[row * groups + g] = f32ToF16(group.scale);
          group.codes.forEach((code, i) => setCode(codes, row * d + from + i, bits, code));
        }
      }
    },
    decode({ codes, scales }, count, page) {
      for (let row = 0; row < nRows; row++) {
        if (row % blockLength >= count) continue;
        const x = page.subarray(row * d, row * d + d);
        for (let g = 0; g < groups; g++) {
          const scale = f16ToF32(scales[row * groups + g]);
          const end = Math.min(d, (g + 1) * groupLength);
          for (let c = g * groupLength; c < end; c++) {
            x[c] = scale * (getCode(codes, row * d + c, bits) - centre);
          }
        }
        turn(x);
      }
    },
  };
}

/**
 * Codes around 2^(bits - 1), rounded as ggml's q8_0 and q4_0 are: at 8 bits scale = max|x| / 127; at
 * 4 bits scale = extreme / -8, so that the element of largest magnitude is exact and those of the
 * other sign reach 7 steps.
 */
export function quantizeSymmetric(
  x: Float32Array,
  bits: 4 | 8,
): { scale: number; codes: number[] } {
  const extreme = x.reduce((most, v) => (Math.abs(v) > Math.abs(most) ? v : most), 0);
  const scale = bits === 8 ? Math.abs(extreme) / 127 : extreme / -8;
  const centre = 2 ** (bits - 1);
  const code = (v: number) => (scale === 0 ? 0 : Math.round(v / scale));
  return { scale, codes: Array.from(x, (v) => Math.min(code(v), centre - 1) + centre) };
}

/** x = H x in place, H the orthonormal Hadamard matrix (fast Walsh transform); H H = 1. */
export function hadamard(x: Float32Array): Float32Array {
  for (let half = 1; half < x.length; half *= 2) {
    for (let first = 0; first < x.length; first += 2 * half) {
      for (let i = first; i < first + half; i++) {
        const [u, v] = [x[i], x[i + half]];
        x[i] = u + v;
        x[i + half] = u - v;
      }
    }
  }
  const norm = 1 / Math.sqrt(x.length);
  for (let i = 0; i < x.length; i++) x[i] *= norm;
  return x;
}

const isPowerOfTwo = (d: number) => (d & (d - 1)) === 0;
