import { ensure } from '../errors/errors.ts';
import type { CacheState } from './cache.ts';

/** What a cache saves at one length. */
export interface StateLayout {
  readonly numbers: Readonly<Record<string, number>>;
  readonly blockCount: number;
  /** bytes of every block; asked once the count is known to be right, as a length may be absurd */
  blockSizes(): readonly number[];
}

/** @throws KvError "format" if the state is none of a cache of this spec */
export function expectState(
  spec: string,
  { length, numbers, blocks }: CacheState,
  layoutAt: (length: number) => StateLayout,
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
  expectThat(
    blocks.length === layout.blockCount,
    `${blocks.length} blocks for ${length} positions`,
    `${layout.blockCount}`,
  );
  const sizes = layout.blockSizes();
  blocks.forEach((block, i) =>
    expectThat(block.length === sizes[i], `${block.length} bytes in block ${i}`, `${sizes[i]}`),
  );
}
