import { ensure } from '../errors/errors.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import { bytesOf } from '../kernels/tensor.ts';
import { tensorSizeBytes } from '../math/dtype.ts';
import type { CacheState } from './cache.ts';

/** Where one block of a saved state comes from and goes to. */
export interface Place {
  readonly sizeBytes: number;
  /** a copy, as it is once everything enqueued so far is done */
  read(): Uint8Array | Promise<Uint8Array>;
  write(block: Uint8Array): void;
}

export function placeOf(kernels: Kernels, t: Tensor): Place {
  return {
    sizeBytes: tensorSizeBytes(t.dtype, t.shape),
    read: () => kernels.read(bytesOf(t)) as Promise<Uint8Array>,
    write: (block) => kernels.write(bytesOf(t), block),
  };
}

/**
 * @param layoutAt what a cache of this spec saves at a length; its places are taken one by one, as the
 *   length of a damaged state may be absurd
 * @throws KvError "format" if the state is none of such a cache
 */
export function expectState(
  spec: string,
  { length, numbers, blocks }: CacheState,
  layoutAt: (length: number) => { numbers: CacheState['numbers']; places: Iterable<Place> },
): void {
  const expectThat = (fits: boolean, found: string, allowed: string) =>
    ensure(
      fits,
      'format',
      () =>
        `cache ${spec}: the saved state has ${found}; this cache takes ${allowed}. Restore what a cache of the same spec and model saved.`,
    );
  const isLength = Number.isSafeInteger(length) && length >= 0;
  expectThat(isLength, `length ${length}`, 'a whole number from 0');
  const layout = layoutAt(length);
  for (const name of Object.keys({ ...layout.numbers, ...numbers })) {
    const [found, allowed] = [numbers, layout.numbers].map((all) => `${name} ${all[name] ?? '-'}`);
    expectThat(found === allowed, found, `${allowed} at ${length} positions`);
  }
  const found = `${blocks.length} blocks for ${length} positions`;
  let count = 0;
  for (const { sizeBytes } of layout.places) {
    expectThat(count < blocks.length, found, 'more');
    const bytes = blocks[count].length;
    expectThat(bytes === sizeBytes, `${bytes} bytes in block ${count}`, `${sizeBytes}`);
    count++;
  }
  expectThat(count === blocks.length, found, `${count}`);
}
