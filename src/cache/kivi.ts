import { quantizeAffine } from '../kernels/affine.ts';
import { f16ToF32 } from '../math/f16.ts';
import type { CacheMethod } from './method.ts';
import { DecodedCache } from './decoded.ts';
import { blockLength, type BlockCodec } from './decoded-method.ts';
import { getCode, setCode } from './packed-codes.ts';
import { choiceSetting, expectSettings, wholeSetting } from './spec.ts';

/** Elements that share a minimum and a step: tokens of a key channel, channels of a value. */
const groupLength = blockLength;

/**
 * `kivi:2` and `kivi:4`: KIVI (arXiv 2402.02750). Keys are quantized per channel, in groups of 32
 * tokens, because outliers sit in few channels; values per token, in groups of 32 channels; each
 * group with an f16 minimum and step (the paper's zero point and scale).
 *
 * A group is quantized when it is complete and `window` newer positions stand behind it; what is
 * newer is exact. With w = window a query that sees n positions sees the first 32 floor((n - w) / 32)
 * quantized, hence the newest w to w + 31 exact (w = 0: only a group that is not complete). The
 * paper's values leave its window one by one and its keys 128 at a time; here they go together.
 *
 * Settings: `bits` 2 or 4 (default 2; may stand first: `kivi:4`), `window` (default 128, the paper's).
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels) => {
  expectSettings(spec, ['bits', 'window']);
  const bits = choiceSetting(spec, 'bits', 2, [2, 4]);
  const window = wholeSetting(spec, 'window', 128, { min: 0, max: 65536 });
  return new DecodedCache(kernels, shapes, {
    spec: `kivi:${bits},window=${window}`,
    codecs: shapes.map(({ nKvHeads, headDimK, headDimV }) => ({
      keys: perChannel(bits, nKvHeads, headDimK),
      values: perToken(bits, nKvHeads, headDimV),
    })),
    compressedAt: (count) => groupLength * Math.max(0, Math.floor((count - window) / groupLength)),
    exactUntil: Infinity,
  });
};

type KiviBits = 2 | 4;

/** Groups of one channel of all 32 tokens of a block. */
export function perChannel(bits: KiviBits, nKvHeads: number, d: number): BlockCodec {
  const groups = Array.from({ length: nKvHeads * d }, (_, g) => {
    const first = Math.floor(g / d) * blockLength * d + (g % d);
    return { first, stride: d, length: blockLength, slot: undefined };
  });
  return affineCodec(bits, nKvHeads * blockLength * d, groups);
}

/** Groups of 32 channels of one token; the last ones of a token may be fewer. */
export function perToken(bits: KiviBits, nKvHeads: number, d: number): BlockCodec {
  const groups = Array.from({ length: nKvHeads * blockLength }, (_, row) =>
    Array.from({ length: Math.ceil(d / groupLength) }, (_, g) => {
      const channel = g * groupLength;
      const length = Math.min(groupLength, d - channel);
      return { first: row * d + channel, stride: 1, length, slot: row % blockLength };
    }),
  );
  return affineCodec(bits, nKvHeads * blockLength * d, groups.flat());
}

/** Elements first, first + stride, ... of a page that share a minimum and a step. */
interface Group {
  readonly first: number;
  readonly stride: number;
  readonly length: number;
  /** the token that it belongs to; undefined: all of the block */
  readonly slot: number | undefined;
}

/** Codes lie as elements lie in the page; scales are (minimum, step) of each group. */
function affineCodec(bits: KiviBits, pageElements: number, groups: readonly Group[]): BlockCodec {
  return {
    codeBytes: (pageElements * bits) / 8,
    scaleBytes: groups.length * 4,
    encode(page, slots, { codes, scales }) {
      groups.forEach(({ first, stride, length, slot }, g) => {
        if (slot !== undefined && (slot < slots.first || slot >= slots.end)) return;
        const x = Float32Array.from({ length }, (_, i) => page[first + i * stride]);
        const group = quantizeAffine(x, bits);
        scales.set([group.minimum, group.step], 2 * g);
        group.codes.forEach((code, i) => setCode(codes, first + i * stride, bits, code));
      });
    },
    decode({ codes, scales }, _count, page) {
      groups.forEach(({ first, stride, length }, g) => {
        const [minimum, step] = [f16ToF32(scales[2 * g]), f16ToF32(scales[2 * g + 1])];
        for (let at = first; at < first + length * stride; at += stride) {
          page[at] = minimum + step * getCode(codes, at, bits);
        }
      });
    },
  };
}
