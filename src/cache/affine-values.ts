import { ensure } from '../errors/errors.ts';
import type { LayerShape } from './cache.ts';

/** @throws KvError "usage" if value vectors of this layer are no whole bytes at 4 bits */
export function expectAffine(method: string, { headDimV }: LayerShape): void {
  ensure(
    headDimV % 2 === 0,
    'usage',
    () =>
      `cache "${method}": values of ${headDimV} dimensions at 4 bits; the dimensions must be even. Take another cache.`,
  );
}
