import { KvError } from '../errors/errors.ts';
import type { KernelBuffer, Kernels } from '../kernels/kernels.ts';
import { tensor } from '../kernels/tensor.ts';

/** Whole numbers from `first` up to, not including, `end`. */
export interface Range {
  readonly first: number;
  readonly end: number;
}

export const emptyRange: Range = { first: 0, end: 0 };

export const rangeSize = ({ first, end }: Range): number => Math.max(0, end - first);

interface HeldBlock {
  readonly buffer: KernelBuffer;
  /** caches that hold this block; one held by several is copied before one writes to it */
  holders: number;
}

/** Numbered buffers of one kind of contents, shared between forks until one side writes. */
export class BlockList {
  private readonly kernels: Kernels;
  /** bytes of block `index` */
  readonly sizeOf: (index: number) => number;
  private readonly held = new Map<number, HeldBlock>();

  constructor(kernels: Kernels, sizeOf: (index: number) => number) {
    this.kernels = kernels;
    this.sizeOf = sizeOf;
  }

  get sizeBytes(): number {
    return [...this.held.values()].reduce((sum, { buffer }) => sum + buffer.sizeBytes, 0);
  }

  /** The buffer of a block, or undefined if it is not held. */
  get(index: number): KernelBuffer | undefined {
    return this.held.get(index)?.buffer;
  }

  /**
   * Holds every block of the range, those from `writable` on for this list alone.
   * @throws KvError "memory"; blocks added so far stay and are dropped by `keep`
   */
  reserve({ first, end }: Range, writable: number): void {
    for (let index = first; index < end; index++) {
      const block = this.held.get(index);
      if (block && (block.holders === 1 || index < writable)) continue;
      const buffer = this.kernels.alloc(this.sizeOf(index));
      if (block) {
        this.kernels.copy(wholeBuffer(block.buffer), wholeBuffer(buffer));
        block.holders--;
      }
      this.held.set(index, { buffer, holders: 1 });
    }
  }

  /** Gives back the blocks outside the range. */
  keep({ first, end }: Range): void {
    for (const [index, block] of this.held) {
      if (index >= first && index < end) continue;
      this.held.delete(index);
      if (--block.holders === 0) this.kernels.free(block.buffer);
    }
  }

  fork(): BlockList {
    const copy = new BlockList(this.kernels, this.sizeOf);
    for (const [index, block] of this.held) {
      block.holders++;
      copy.held.set(index, block);
    }
    return copy;
  }

  /** A copy of a block that is held, as it is once everything enqueued so far is done. */
  save(index: number): Promise<Uint8Array> {
    return this.kernels.read(wholeBuffer(this.at(index))) as Promise<Uint8Array>;
  }

  /** Holds a block with these contents. @throws KvError "memory" */
  restore(index: number, data: Uint8Array): void {
    this.reserve({ first: index, end: index + 1 }, index);
    this.kernels.write(wholeBuffer(this.at(index)), data);
  }

  private at(index: number): KernelBuffer {
    const buffer = this.get(index);
    if (!buffer) throw new KvError('usage', `cache: block ${index} is not held.`);
    return buffer;
  }
}

const wholeBuffer = (buffer: KernelBuffer) => tensor(buffer, 'u8', [buffer.sizeBytes]);
