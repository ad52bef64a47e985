import { ensure, KvError } from '../errors/errors.ts';

const alignment = 64;
const pageBytes = 65536;
const maxPages = 65536;
/** Memory grows by at least this much, so that many small buffers do not mean many growths. */
const growthBytes = 4 << 20;

/** A free run of bytes. */
interface Gap {
  start: number;
  end: number;
}

/**
 * First fit over a WebAssembly memory, which it grows on demand. The gaps are few (buffers live
 * as long as a model or a session), so a sorted array serves.
 */
export class Heap {
  readonly memory: WebAssembly.Memory;
  /** Sorted, never adjacent, never empty. */
  private readonly gaps: Gap[] = [];
  private readonly sizes = new Map<number, number>();
  private end: number;
  /** Bytes from here on have never been handed out, so they are zero. */
  private untouched: number;
  private used = 0;

  /** @param start first byte that the heap may use */
  constructor(memory: WebAssembly.Memory, start: number) {
    this.memory = memory;
    this.end = memory.buffer.byteLength;
    this.untouched = roundUp(start);
    this.gaps.push({ start: this.untouched, end: this.end });
  }

  /**
   * Address of `sizeBytes` zeroed bytes, aligned to 64.
   * @throws KvError "memory"; nothing is changed
   */
  allocate(sizeBytes: number): number {
    const size = roundUp(Math.max(sizeBytes, 1));
    let index = this.gaps.findIndex((gap) => gap.end - gap.start >= size);
    if (index < 0) {
      this.grow(size);
      index = this.gaps.length - 1;
    }
    const gap = this.gaps[index];
    const address = gap.start;
    gap.start += size;
    if (gap.start === gap.end) this.gaps.splice(index, 1);
    this.sizes.set(address, size);
    this.used += size;

    const dirty = Math.min(address + size, this.untouched) - address;
    if (dirty > 0) new Uint8Array(this.memory.buffer, address, dirty).fill(0);
    this.untouched = Math.max(this.untouched, address + size);
    return address;
  }

  /** @throws KvError "shape" if nothing is allocated at this address */
  free(address: number): void {
    const size = this.sizes.get(address);
    ensure(size !== undefined, 'shape', () => 'wasm: this buffer was freed before.');
    this.sizes.delete(address);
    this.used -= size;
    this.insert({ start: address, end: address + size });
  }

  private insert(freed: Gap): void {
    const found = this.gaps.findIndex((gap) => gap.start > freed.start);
    const index = found < 0 ? this.gaps.length : found;
    const before = this.gaps[index - 1];
    const after = this.gaps[index];
    const joinsBefore = before !== undefined && before.end === freed.start;
    const joinsAfter = after !== undefined && after.start === freed.end;
    if (joinsBefore) before.end = joinsAfter ? after.end : freed.end;
    else if (joinsAfter) after.start = freed.start;
    else this.gaps.splice(index, 0, freed);
    if (joinsBefore && joinsAfter) this.gaps.splice(index, 1);
  }

  /** Lengthens the memory until its last gap holds `size` bytes. */
  private grow(size: number): void {
    const last = this.gaps.at(-1);
    const tail = last !== undefined && last.end === this.end ? last.end - last.start : 0;
    const needed = Math.ceil((size - tail) / pageBytes);
    const pages = this.end / pageBytes;
    const generous = Math.min(Math.max(needed, growthBytes / pageBytes), maxPages - pages);
    for (const count of [generous, needed]) {
      if (count < needed) continue;
      try {
        this.memory.grow(count);
      } catch {
        continue;
      }
      this.insert({ start: this.end, end: this.end + count * pageBytes });
      this.end += count * pageBytes;
      return;
    }
    throw new KvError(
      'memory',
      `wasm: cannot allocate ${size} bytes beside the ${this.used} in use; WebAssembly memory ends at 4 GB and at what the machine has. Use a shorter context, a more compressed cache or a smaller model.`,
    );
  }
}

/** A memory of the largest maximum that the engine grants: shared ones reserve it at once. */
export function createMemory(shared: boolean): WebAssembly.Memory {
  for (let maximum = maxPages; ; maximum /= 2) {
    try {
      return new WebAssembly.Memory({ initial: 64, maximum, shared });
    } catch (cause) {
      if (maximum > 1024) continue;
      throw new KvError(
        'memory',
        `wasm: the engine refuses to reserve even ${(maximum * pageBytes) >> 20} MB of memory. Close other programs or raise the process's limits.`,
        { cause },
      );
    }
  }
}

function roundUp(sizeBytes: number): number {
  return Math.ceil(sizeBytes / alignment) * alignment;
}
