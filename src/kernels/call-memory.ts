/** Memory for one call of a C kernel at a time: its structs, and what it works in. */
import type { Machine } from './machine.ts';

/** It only grows; what was in it may be lost. */
export class Scratch {
  private address = 0;
  private sizeBytes = 0;

  at(machine: Machine, sizeBytes: number): number {
    if (this.sizeBytes >= sizeBytes) return this.address;
    const larger = Math.ceil(sizeBytes * 1.25);
    const address = machine.allocate(larger);
    if (this.sizeBytes > 0) machine.free(this.address);
    this.address = address;
    this.sizeBytes = larger;
    return address;
  }
}

/** Writes structs of C one field after the other; addresses are aligned as C aligns them. */
export class StructWriter {
  /** Address of the first field. */
  readonly start: number;
  private readonly words: Uint32Array;
  private readonly floats: Float32Array;
  private readonly addressWords: number;
  private next = 0;

  constructor(machine: Machine, address: number, words: number) {
    const { buffer, start } = machine.memory(address);
    this.start = address;
    this.words = new Uint32Array(buffer, start, words);
    this.floats = new Float32Array(buffer, start, words);
    this.addressWords = machine.addressWords;
  }

  word(value: number): void {
    this.words[this.next++] = value;
  }

  wordsOf(values: Int32Array | Uint32Array): void {
    this.words.set(values, this.next);
    this.next += values.length;
  }

  float(value: number): void {
    this.floats[this.next++] = value;
  }

  address(value: number): void {
    this.next += this.next % this.addressWords;
    this.words[this.next++] = value;
    if (this.addressWords === 2) this.words[this.next++] = value / 2 ** 32;
  }
}
