import { describe, expect, it } from 'vitest';
import { Random } from '../math/random.ts';
import { createMemory, Heap } from './memory.ts';

/** A heap over `pages` pages that can grow to twice that. */
function smallHeap(pages: number): Heap {
  return new Heap(new WebAssembly.Memory({ initial: pages, maximum: 2 * pages }), 100);
}

describe('Heap', () => {
  it('aligns to 64 bytes and starts after what is reserved', () => {
    const heap = smallHeap(1);
    expect(heap.allocate(1)).toBe(128);
    expect(heap.allocate(65)).toBe(192);
    expect(heap.allocate(0)).toBe(320);
  });

  it('zeroes memory that was used before', () => {
    const heap = smallHeap(1);
    const address = heap.allocate(1000);
    new Uint8Array(heap.memory.buffer, address, 1000).fill(255);
    heap.free(address);
    expect(heap.allocate(2000)).toBe(address);
    expect(new Uint8Array(heap.memory.buffer, address, 2000).every((b) => b === 0)).toBe(true);
  });

  it.each([
    ['first, second, third', [0, 1, 2]],
    ['third, second, first', [2, 1, 0]],
    ['outer ones, then the one between', [0, 2, 1]],
  ])('joins neighbours freed in the order %s', (_, order) => {
    const heap = smallHeap(1);
    const addresses = [heap.allocate(640), heap.allocate(640), heap.allocate(640)];
    heap.allocate(640);
    for (const i of order) heap.free(addresses[i]);
    expect(heap.allocate(3 * 640)).toBe(addresses[0]);
  });

  it('refuses to free twice or what it did not hand out', () => {
    const heap = smallHeap(1);
    const address = heap.allocate(10);
    heap.free(address);
    expect(() => heap.free(address)).toThrow(expect.objectContaining({ code: 'shape' }));
    expect(() => heap.free(7)).toThrow(expect.objectContaining({ code: 'shape' }));
  });

  it('grows, joining the new pages to a free end', () => {
    const heap = smallHeap(2);
    const address = heap.allocate(65536);
    expect(heap.allocate(2 * 65536)).toBe(address + 65536);
    expect(heap.memory.buffer.byteLength).toBe(4 * 65536);
  });

  it('says so when memory is out, and works on', () => {
    const heap = smallHeap(1);
    const address = heap.allocate(1000);
    expect(() => heap.allocate(3 * 65536)).toThrow(
      expect.objectContaining({
        code: 'memory',
        message: expect.stringMatching(/196608 bytes beside the 1024 in use.*4 GB.*smaller model/),
      }),
    );
    heap.free(address);
    expect(heap.allocate(1000)).toBe(address);
  });

  it('never overlaps and loses nothing, whatever the order', () => {
    const random = new Random(1);
    const heap = smallHeap(64);
    const whole = heap.allocate(63 * 65536);
    heap.free(whole);
    const live = new Map<number, number>();
    for (let step = 0; step < 2000; step++) {
      const addresses = [...live.keys()];
      if (random.uniform() < 0.55) {
        const size = 1 + Math.floor(random.uniform() * 5000);
        const address = heap.allocate(size);
        for (const [other, length] of live) {
          expect(address + size <= other || other + length <= address).toBe(true);
        }
        live.set(address, size);
      } else if (addresses.length > 0) {
        const address = addresses[random.uint32() % addresses.length];
        live.delete(address);
        heap.free(address);
      }
    }
    for (const address of live.keys()) heap.free(address);
    expect(heap.allocate(63 * 65536)).toBe(whole);
  });
});

describe('createMemory', () => {
  it.each([true, false])('may grow to a gigabyte at least (shared: %s)', (shared) => {
    const memory = createMemory(shared);
    expect(memory.grow((1 << 30) / 65536)).toBe(64);
  });
});
