import { symmetricEigen } from '../math/linalg.ts';
import type { LayerShape } from './cache.ts';
import type { CacheMethod } from './method.ts';
import { DecodedCache } from './decoded.ts';
import {
  blockLength,
  type BlockCodec,
  type DecodedStep,
  type StateView,
} from './decoded-method.ts';
import { fromF16, toF16 } from './halves.ts';
import { attendRows, dot } from './plain-attention.ts';
import { expectSettings, numberSetting, wholeSetting, type CacheSpec } from './spec.ts';

/**
 * `loki:pca`: Loki (arXiv 2406.02542). Keys and values stay whole, in f16. Keys lie near a space of
 * few dimensions, so scores in the first `d` of a PCA basis tell which keys matter; attention is
 * then exact over the best `top` of them. It reads less memory and holds none the less: its bytes
 * are those of f16 plus the basis.
 *
 * The paper finds the basis on a calibration text. Here it comes from the first `n` keys of each KV
 * head (uncentred: scores are not centred either); the first n queries attend to everything.
 *
 * Settings: `d` and `top`, fractions of the head dimension and of the positions seen (default 0.25
 * both), `n` (default 256).
 */
export function create(
  spec: CacheSpec,
  shapes: readonly LayerShape[],
  kernels: Parameters<CacheMethod['create']>[2],
): DecodedCache {
  expectSettings(spec, ['keys', 'd', 'top', 'n']);
  const fraction = { min: 0.01, max: 1 };
  const d = numberSetting(spec, 'd', 0.25, fraction);
  const top = numberSetting(spec, 'top', 0.25, fraction);
  const positions = wholeSetting(spec, 'n', 256, { min: 32, max: 65536 });
  return new DecodedCache(kernels, shapes, {
    spec: `loki:pca,d=${d},top=${top},n=${positions}`,
    codecs: shapes.map(({ nKvHeads, headDimK, headDimV }) => ({
      keys: f16Codec(nKvHeads, headDimK),
      values: f16Codec(nKvHeads, headDimV),
    })),
    compressedAt: (count) => count,
    exactUntil: 0,
    state: {
      version: (length) => (length > positions ? 1 : undefined),
      layout: (layer) => {
        const { nKvHeads, headDimK } = shapes[layer];
        const directions = keptDirections(headDimK, d);
        return { keys: 0, values: 0, scales: 0, codebooks: nKvHeads * directions * headDimK * 2 };
      },
      fit: {
        positions,
        run: (layer, keys, _values, { codebooks }) => {
          const { nKvHeads, headDimK } = shapes[layer];
          const size = keptDirections(headDimK, d) * headDimK;
          for (let h = 0; h < nKvHeads; h++) {
            const own = keys.subarray(h * positions * headDimK, (h + 1) * positions * headDimK);
            const basis = principalDirections(own, headDimK).subarray(0, size);
            codebooks.set(toF16(basis), h * size);
          }
        },
      },
    },
    attend: (step) => attend(step, shapes[step.layer], positions, d, top),
  });
}

/** Directions kept: an even number, so that their bytes are a multiple of 4. */
const keptDirections = (headDim: number, d: number) => 2 * Math.ceil((d * headDim) / 2);

/** Unit directions [d, d], row by row, those with most of the keys' energy first. @param keys [count, d] */
export function principalDirections(keys: Float32Array, d: number): Float64Array {
  const moment = new Float64Array(d * d);
  for (let at = 0; at < keys.length; at += d) {
    for (let i = 0; i < d; i++) {
      for (let j = 0; j < d; j++) moment[i * d + j] += keys[at + i] * keys[at + j];
    }
  }
  return symmetricEigen(moment, d).vectors;
}

function attend(
  { start, n, q, out, compressed, nextState }: DecodedStep,
  { nHeads, nKvHeads, headDimK, headDimV, scale }: LayerShape,
  positions: number,
  d: number,
  top: number,
): void {
  const directions = keptDirections(headDimK, d);
  for (let kvHead = 0; kvHead < nKvHeads; kvHead++) {
    const basis = nextState ? readBasis(nextState, kvHead, directions, headDimK) : [];
    const project = (x: Float32Array) => Float32Array.from(basis, (row) => dot(row, x));
    const all = Array.from({ length: start + n }, (_, j) => j);
    const keys = all.map((j) => compressed.key(kvHead, j));
    const values = all.map((j) => compressed.value(kvHead, j));
    const shortKeys = keys.map(project);
    const group = nHeads / nKvHeads;
    for (let row = 0; row < n * group; row++) {
      const [i, h] = [Math.floor(row / group), kvHead * group + (row % group)];
      const count = start + i + 1;
      const query = q.subarray((i * nHeads + h) * headDimK, (i * nHeads + h + 1) * headDimK);
      const to = out.subarray((i * nHeads + h) * headDimV, (i * nHeads + h + 1) * headDimV);
      const seen =
        count > positions
          ? best(shortKeys.slice(0, count), project(query), Math.ceil(top * count))
          : all.slice(0, count);
      const pick = (list: Float32Array[]) => seen.map((j) => list[j]);
      attendRows(query, pick(keys), pick(values), scale, to);
    }
  }
}

function readBasis({ codebooks }: StateView, kvHead: number, directions: number, d: number) {
  const size = directions * d;
  const all = fromF16(codebooks.subarray(kvHead * size, (kvHead + 1) * size));
  return Array.from({ length: directions }, (_, i) => all.subarray(i * d, i * d + d));
}

/** Indices of the keys with the largest scores, in order of position; ties go to the older key. */
function best(keys: readonly Float32Array[], query: Float32Array, count: number): number[] {
  const scores = keys.map((key) => dot(query, key));
  const order = Array.from(keys, (_, j) => j).sort((a, b) => scores[b] - scores[a] || a - b);
  return order.slice(0, count).sort((a, b) => a - b);
}

/** Rows as they are. */
function f16Codec(nKvHeads: number, d: number): BlockCodec {
  const rows = nKvHeads * blockLength;
  const halves = (codes: Uint8Array) =>
    new Uint16Array(codes.buffer, codes.byteOffset, codes.length / 2);
  return {
    codeBytes: rows * d * 2,
    scaleBytes: 0,
    encode: (page, { first, end }, { codes }) => {
      const target = halves(codes);
      for (let row = 0; row < rows; row++) {
        const slot = row % blockLength;
        if (slot < first || slot >= end) continue;
        target.set(toF16(page.subarray(row * d, row * d + d)), row * d);
      }
    },
    decode: ({ codes }, _count, page) => page.set(fromF16(halves(codes))),
  };
}
