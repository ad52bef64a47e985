import { ensure } from '../errors/errors.ts';
import { affineMultiple } from '../kernels/affine.ts';
import type { AffineBits } from '../kernels/kernels.ts';
import type { LayerShape } from './cache.ts';

/** @throws KvError "usage" if value vectors of this layer are no whole bytes at these bits */
export function expectAffine(method: string, { headDimV }: LayerShape, bits: AffineBits): void {
  const multiple = affineMultiple(bits);
  ensure(
    headDimV % multiple === 0,
    'usage',
    () =>
      `cache "${method}": values of ${headDimV} dimensions at ${bits} bits; the dimensions must be a multiple of ${multiple}. Take other bits, or another cache.`,
  );
}
