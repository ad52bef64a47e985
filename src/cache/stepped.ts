import { ensure, KvError } from '../errors/errors.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import type { CacheBytes, CacheState, KvCache } from './cache.ts';
import { expectState, type Place } from './saved-state.ts';

/**
 * The book-keeping of a cache: which calls are in turn, how many positions there are, who is left of
 * a family of forks. A subclass holds the positions; it is never asked out of turn.
 */
export abstract class SteppedCache implements KvCache {
  abstract readonly spec: string;
  /** positions of finished steps */
  protected committed: number;
  /** positions of the step under way; 0: there is none */
  protected pending = 0;
  /** forks share what their method holds; the last one gives it back */
  private readonly family: { size: number };
  private disposed = false;

  protected constructor(
    private readonly layerCount: number,
    origin: SteppedCache | undefined,
  ) {
    this.committed = origin?.committed ?? 0;
    this.family = origin?.family ?? { size: 0 };
    this.family.size++;
  }

  /** Room for n more positions. What a failure leaves is dropped by `unwind`. @throws KvError "memory" */
  protected abstract reserve(n: number): void;
  protected abstract store(layer: number, k: Tensor, v: Tensor): void;
  protected abstract answer(layer: number, q: Tensor, out: Tensor): void;
  /** Makes everything as it is at length `committed`. */
  protected abstract unwind(): void;
  /** Drops what was held for the step that has just been committed. */
  protected settle(): void {
    this.unwind();
  }
  /** The longest length <= `length` < `committed` whose past is all still there. */
  protected abstract recallable(length: number): number;
  protected abstract copy(): SteppedCache;
  abstract bytes(): CacheBytes;
  /** What is saved at a length, block by block; written to after `reserveSaved`. */
  protected abstract places(length: number): Iterable<Place>;
  /** Makes an empty cache one of this length, its contents to be written. @throws KvError "memory" */
  protected abstract reserveSaved(length: number): void;
  /** What else a saved state has to say. */
  protected numbersAt(_length: number): CacheState['numbers'] {
    return {};
  }
  /** Frees what this cache holds for itself. */
  protected abstract release(): void;
  /** Frees what the family holds. */
  protected abstract releaseShared(): void;

  get length(): number {
    return this.committed;
  }

  /** Positions with those of the step under way. */
  protected get end(): number {
    return this.committed + this.pending;
  }

  begin(n: number): void {
    this.expectIdle();
    ensure(
      Number.isInteger(n) && n > 0,
      'usage',
      () => `cache: a step of ${n} positions; it must be a whole number above 0.`,
    );
    this.orUnwind(() => this.reserve(n));
    this.pending = n;
  }

  append(layer: number, k: Tensor, v: Tensor): void {
    this.expectStep(layer, k);
    this.store(layer, k, v);
  }

  attend(layer: number, q: Tensor, out: Tensor): void {
    this.expectStep(layer, q);
    this.answer(layer, q, out);
  }

  commit(): void {
    this.committed = this.end;
    this.pending = 0;
    this.settle();
  }

  rollback(): void {
    this.pending = 0;
    this.unwind();
  }

  truncate(length: number): number {
    ensure(
      Number.isInteger(length) && length >= 0,
      'usage',
      () => `cache: cannot truncate to ${length}; give a whole number from 0.`,
    );
    this.rollback();
    if (length < this.committed) {
      this.committed = this.recallable(length);
      this.unwind();
    }
    return this.committed;
  }

  fork(): KvCache {
    this.expectIdle();
    return this.copy();
  }

  async save(): Promise<CacheState> {
    this.expectIdle();
    const { committed: length } = this;
    // All reads are enqueued before the first is waited for: a later step cannot get in between.
    const reads = Array.from(this.places(length), (place) => place.read());
    return { length, numbers: this.numbersAt(length), blocks: await Promise.all(reads) };
  }

  restore(state: CacheState): void {
    this.expectIdle();
    ensure(
      this.committed === 0,
      'usage',
      () => `cache: it holds ${this.committed} positions. Restore into an empty one.`,
    );
    const { length, blocks } = state;
    expectState(this.spec, state, () => ({
      numbers: this.numbersAt(length),
      places: this.places(length),
    }));
    this.orUnwind(() => {
      this.reserveSaved(length);
      let at = 0;
      for (const place of this.places(length)) place.write(blocks[at++]);
    });
    this.committed = length;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.committed = 0;
    this.pending = 0;
    this.release();
    if (--this.family.size === 0) this.releaseShared();
  }

  private orUnwind(change: () => void): void {
    try {
      change();
    } catch (error) {
      this.unwind();
      throw error;
    }
  }

  private expectIdle(): void {
    ensure(!this.disposed, 'usage', () => 'cache: it was disposed. Create a new one.');
    ensure(
      this.pending === 0,
      'usage',
      () => 'cache: a step is under way. Commit it or roll back first.',
    );
  }

  private expectStep(layer: number, { shape: [n] }: Tensor): void {
    if (this.pending > 0 && n === this.pending && layer >= 0 && layer < this.layerCount) return;
    throw new KvError(
      'usage',
      `cache: layer ${layer} of ${this.layerCount} was given ${n} positions; begin() announced ${this.pending}.`,
    );
  }
}

/** @throws KvError "unsupported" if TypeScript cannot look into the backend's memory */
export function expectVisibleMemory({ backend }: Kernels, spec: string): void {
  ensure(
    backend !== 'webgpu',
    'unsupported',
    () =>
      `cache ${spec}: the backend is webgpu; it runs on wasm, native and reference. Use one of those, or another cache.`,
  );
}
