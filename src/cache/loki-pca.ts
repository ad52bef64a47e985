import { symmetricEigen } from '../math/linalg.ts';
import { kthLargest } from '../math/select.ts';
import type { Kernels } from '../kernels/kernels.ts';
import type { LayerShape } from './cache.ts';
import { DecodedCache } from './decoded.ts';
import { blockLength, type BlockCodec, type DecodedStep } from './decoded-method.ts';
import { fromF16, toF16 } from './halves.ts';
import {
  attendMatrices,
  firstRows,
  matrix,
  products,
  putRows,
  queriesOf,
  rowOf,
  type Matrix,
} from './matrix-attention.ts';
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
  kernels: Kernels,
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
    attend: (step) => attend(kernels, step, shapes[step.layer], positions, d, top),
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

/** Queries that are scored together, which bounds the memory it takes. */
const queriesAtOnce = 64;

function attend(
  kernels: Kernels,
  step: DecodedStep,
  shape: LayerShape,
  positions: number,
  d: number,
  top: number,
): Float32Array {
  const { start, n, q, compressed } = step;
  const { nHeads, nKvHeads, headDimK, headDimV, scale } = shape;
  const group = nHeads / nKvHeads;
  const out = new Float32Array(n * nHeads * headDimV);
  const all = Array.from({ length: start + n }, (_, j) => j);
  for (let kvHead = 0; kvHead < nKvHeads; kvHead++) {
    const [allKeys, allValues] = [
      matrix(
        all.map((j) => compressed.key(kvHead, j)),
        headDimK,
      ),
      matrix(
        all.map((j) => compressed.value(kvHead, j)),
        headDimV,
      ),
    ];
    const basis = readBasis(step, kvHead, keptDirections(headDimK, d), headDimK);
    const shortKeys = basis && products(kernels, allKeys, basis);
    for (let from = 0; from < n; from += queriesAtOnce) {
      const to = Math.min(n, from + queriesAtOnce);
      const queries = queriesOf(q, shape, kvHead, from, to);
      const seen = (rows: Matrix) => firstRows(rows, start + to);
      const scores =
        shortKeys && products(kernels, products(kernels, queries, basis), seen(shortKeys));
      const hide = (row: number, logits: Float32Array) => {
        const count = start + from + Math.floor(row / group) + 1;
        logits.fill(-Infinity, count);
        if (!scores || count <= positions) return;
        hideAllBut(Math.ceil(top * count), rowOf(scores, row).subarray(0, count), logits);
      };
      const [keys, values] = [seen(allKeys), seen(allValues)];
      const attended = attendMatrices(kernels, { queries, keys, values, scale }, hide);
      putRows(attended.out, out, shape, kvHead, from);
    }
  }
  return out;
}

/** The directions of a KV head, [directions, d]; undefined as long as there are none. */
function readBasis(
  step: DecodedStep,
  kvHead: number,
  directions: number,
  d: number,
): Matrix | undefined {
  const state = step.nextState();
  if (!state) return undefined;
  const size = directions * d;
  const data = fromF16(state.codebooks.subarray(kvHead * size, (kvHead + 1) * size));
  return { rows: directions, columns: d, data };
}

/** Leaves the logits of the `count` keys with the largest scores; ties go to the older key. */
function hideAllBut(count: number, scores: Float32Array, logits: Float32Array): void {
  const least = kthLargest(scores, count);
  let above = 0;
  for (const score of scores) if (score > least) above++;
  let ties = count - above;
  scores.forEach((score, j) => {
    if (score < least || (score === least && ties-- <= 0)) logits[j] = -Infinity;
  });
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
