import type { Kernels } from '../kernels/kernels.ts';
import { BlockList, emptyRange, type Range } from './blocks.ts';
import { sum, type DecodedLayout } from './decoded-layout.ts';
import { blockLength, type DecodedMethod } from './decoded-method.ts';
import type { Place } from './saved-state.ts';

/** Which blocks a `DecodedCache` holds at which length, and the blocks. */
export class DecodedBlocks {
  /** block b holds positions b blockLength .. (b + 1) blockLength - 1 */
  readonly compressed: BlockList;
  readonly exact: BlockList;
  /** by version */
  readonly states: BlockList;
  private readonly method: DecodedMethod;

  constructor(
    kernels: Kernels,
    method: DecodedMethod,
    layout: DecodedLayout,
    origin?: DecodedBlocks,
  ) {
    this.method = method;
    const blockBytes = sum(Object.values(layout.compressedBytes()));
    const exactBytes = layout.exactBytes();
    const stateBytes = (version: number) => sum(Object.values(layout.stateBytes(version)));
    this.compressed = origin?.compressed.fork() ?? new BlockList(kernels, () => blockBytes);
    this.exact = origin?.exact.fork() ?? new BlockList(kernels, () => exactBytes);
    this.states = origin?.states.fork() ?? new BlockList(kernels, stateBytes);
  }

  /** Bytes of everything held, a step under way included. */
  get sizeBytes(): number {
    return sum([this.compressed, this.exact, this.states].map(({ sizeBytes }) => sizeBytes));
  }

  /** The blocks that a cache of this length holds between steps. */
  heldAt(length: number): { compressed: Range; exact: Range; state: Range } {
    const compressedLength = this.method.compressedAt(length);
    const version = this.method.state?.version(length);
    return {
      compressed: this.method.codecs ? blocksOf(0, compressedLength) : emptyRange,
      exact: blocksOf(compressedLength, length),
      state: version === undefined ? emptyRange : { first: version, end: version + 1 },
    };
  }

  /** The exact blocks of a step: those left before it, and what its queries may see exact. */
  exactDuring(from: number, to: number): Range {
    return blocksOf(this.method.compressedAt(from), Math.min(to, this.method.exactUntil));
  }

  /**
   * Holds what a step over the positions `from .. to - 1` needs.
   * @throws KvError "memory"; `keep` drops what was added
   */
  reserve(from: number, to: number): void {
    const { compressed, state } = this.heldAt(to);
    this.compressed.reserve(compressed, blockOf(this.method.compressedAt(from)));
    this.exact.reserve(this.exactDuring(from, to), blockOf(from));
    // A version is written once, by the step that brings it.
    this.states.reserve(state, Infinity);
  }

  /** Gives back what a cache of this length does not hold. */
  keep(length: number): void {
    const { compressed, exact, state } = this.heldAt(length);
    this.compressed.keep(compressed);
    this.exact.keep(exact);
    this.states.keep(state);
  }

  dispose(): void {
    for (const list of [this.compressed, this.exact, this.states]) list.keep(emptyRange);
  }

  /** Whether a cache of length `now` still has all that it would hold at `length`. */
  remembers(length: number, now: number): boolean {
    const { compressedAt, state } = this.method;
    const exactFrom = compressedAt(length);
    const hasExact = exactFrom === length || exactFrom >= compressedAt(now);
    const version = state?.version(length);
    return hasExact && (version === undefined || version === state?.version(now));
  }

  /** All blocks of a cache of this length; one that is written is held from then on. */
  *places(length: number): Generator<Place> {
    const held = this.heldAt(length);
    const lists = [
      { list: this.compressed, range: held.compressed },
      { list: this.exact, range: held.exact },
      { list: this.states, range: held.state },
    ];
    for (const { list, range } of lists) {
      for (let index = range.first; index < range.end; index++) {
        yield {
          sizeBytes: list.sizeOf(index),
          read: () => list.save(index),
          write: (block) => list.restore(index, block),
        };
      }
    }
  }
}

export const blockOf = (position: number) => Math.floor(position / blockLength);

/** The blocks that hold positions `from .. to - 1`. */
export function blocksOf(from: number, to: number): Range {
  return to > from ? { first: blockOf(from), end: Math.ceil(to / blockLength) } : emptyRange;
}
