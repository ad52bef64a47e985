import { f16ToF32, f32ToF16 } from '../math/f16.ts';
import { quantizeAffine } from '../kernels/affine.ts';
import { KvError } from '../errors/errors.ts';
import type { LayerShape } from './cache.ts';
import type { CacheMethod } from './method.ts';
import { DecodedCache } from './decoded.ts';
import { blockLength, type BlockCodec, type Coded } from './decoded-method.ts';
import { perChannel, perToken } from './kivi.ts';
import { getCode, setCode } from './packed-codes.ts';
import { expectSettings, numberSetting, wholeSetting } from './spec.ts';

const bits = 4;
/** Channels of a kept row that share a minimum and a step. */
const groupLength = 32;

/**
 * `minicache`: MiniCache (arXiv 2405.14366) on a 4-bit cache. From the layer at `start` of the depth
 * on, layers go in pairs whose keys and values point in nearly the same directions: the upper layer
 * of a pair stores the length of each row and borrows its direction from the lower one. Rows whose
 * directions differ most are kept as they are: `keep` of every 32 rows of a KV head, keys and values
 * apart. All that is stored in full is quantized as by `kivi:4` with window 0, in blocks of 32
 * positions once they are complete.
 *
 * The paper merges after the prompt has been read, and shares an average (SLERP) of both directions.
 * Here a query's result must not depend on where steps begin, and the lower layer attends before the
 * upper one has any keys, so the shared direction is the lower layer's own: SLERP at its lower end.
 * The paper keeps rows by a threshold; a fixed number makes the bytes known beforehand.
 *
 * Settings: `start` (default 0.5, the middle, as in the paper), `keep` (default 2).
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels) => {
  expectSettings(spec, ['start', 'keep']);
  const start = numberSetting(spec, 'start', 0.5, { min: 0, max: 1 });
  const keep = wholeSetting(spec, 'keep', 2, { min: 0, max: blockLength });
  const first = Math.floor(start * shapes.length);
  const codecs = shapes.map((shape, layer) => {
    const { nKvHeads, headDimK, headDimV } = shape;
    const own = {
      keys: perChannel(bits, nKvHeads, headDimK),
      values: perToken(bits, nKvHeads, headDimV),
    };
    const isUpper = layer > first && (layer - first) % 2 === 1;
    // The lower layer of a pair of one shape is coded as this one would be alone.
    return isUpper && isAlike(shape, shapes[layer - 1])
      ? {
          keys: borrowingCodec(own.keys, nKvHeads, headDimK, keep),
          values: borrowingCodec(own.values, nKvHeads, headDimV, keep),
        }
      : own;
  });
  return new DecodedCache(kernels, shapes, {
    spec: `minicache:start=${start},keep=${keep}`,
    codecs,
    compressedAt: (count) => blockLength * Math.floor(count / blockLength),
    exactUntil: Infinity,
  });
};

const isAlike = (a: LayerShape, b: LayerShape) =>
  a.nKvHeads === b.nKvHeads && a.headDimK === b.headDimK && a.headDimV === b.headDimV;

/**
 * Rows by their lengths, in directions that the layer below has coded with `lower`. Scales: lengths
 * [nKvHeads, blockLength], slots of the kept rows as whole numbers [nKvHeads, keep], and (minimum,
 * step) of their groups [nKvHeads, keep, groups, 2]; codes: those of the kept rows [nKvHeads, keep, d].
 */
export function borrowingCodec(
  lower: BlockCodec,
  nKvHeads: number,
  d: number,
  keep: number,
): BlockCodec {
  const groups = Math.ceil(d / groupLength);
  const rows = nKvHeads * blockLength;
  const slotsAt = rows;
  const groupsAt = slotsAt + nKvHeads * keep;
  const rowOf = (page: Float32Array, row: number) => page.subarray(row * d, row * d + d);
  const directions = (below: Coded | undefined) => {
    if (!below) throw new KvError('usage', 'cache minicache: the layer below is not there.');
    const page = new Float32Array(rows * d);
    lower.decode(below, blockLength, page);
    for (let row = 0; row < rows; row++) {
      const x = rowOf(page, row);
      const length = norm(x);
      if (length > 0) for (let c = 0; c < d; c++) x[c] /= length;
    }
    return page;
  };
  return {
    codeBytes: (nKvHeads * keep * d * bits) / 8,
    scaleBytes: 2 * (groupsAt + nKvHeads * keep * groups * 2),
    encode(page, _slots, { codes, scales, below }) {
      const borrowed = directions(below);
      for (let h = 0; h < nKvHeads; h++) {
        const cosines = Array.from({ length: blockLength }, (_, slot) => {
          const x = rowOf(page, h * blockLength + slot);
          scales[h * blockLength + slot] = f32ToF16(Math.min(norm(x), 65504));
          return dot(x, rowOf(borrowed, h * blockLength + slot)) / (norm(x) || 1);
        });
        worst(cosines, keep).forEach((slot, k) => {
          const kept = h * keep + k;
          scales[slotsAt + kept] = slot;
          const x = rowOf(page, h * blockLength + slot);
          for (let g = 0; g < groups; g++) {
            const from = g * groupLength;
            const group = quantizeAffine(x.subarray(from, from + groupLength), bits);
            scales.set([group.minimum, group.step], groupsAt + 2 * (kept * groups + g));
            group.codes.forEach((code, i) => setCode(codes, kept * d + from + i, bits, code));
          }
        });
      }
    },
    decode({ codes, scales, below }, _count, page) {
      page.set(directions(below));
      for (let row = 0; row < rows; row++) {
        const length = f16ToF32(scales[row]);
        for (let at = row * d; at < row * d + d; at++) page[at] *= length;
      }
      for (let kept = 0; kept < nKvHeads * keep; kept++) {
        const h = Math.floor(kept / keep);
        const x = rowOf(page, h * blockLength + scales[slotsAt + kept]);
        for (let c = 0; c < d; c++) {
          const at = groupsAt + 2 * (kept * groups + Math.floor(c / groupLength));
          const [minimum, step] = [f16ToF32(scales[at]), f16ToF32(scales[at + 1])];
          x[c] = minimum + step * getCode(codes, kept * d + c, bits);
        }
      }
    },
  };
}

const norm = (x: Float32Array) => Math.sqrt(dot(x, x));

/** The slots with the smallest cosines, in order of slot; ties go to the older. */
function worst(cosines: readonly number[], count: number): number[] {
  const order = cosines.map((_, slot) => slot).sort((a, b) => cosines[a] - cosines[b] || a - b);
  return order.slice(0, count).sort((a, b) => a - b);
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
