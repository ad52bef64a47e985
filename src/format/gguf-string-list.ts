const chunkBytes = 1 << 20;
const prefixBytes = 4;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/**
 * Strings kept as UTF-8 and decoded one by one as they are asked for. A vocabulary's 280,000 merges
 * take 6 MB so; as JavaScript strings 12, and as much again while the garbage collector moves them.
 */
export class GgufStringList implements Iterable<string> {
  /** Each string is its size in bytes, u32, and its UTF-8; none crosses chunks. */
  private readonly chunks: Uint8Array<ArrayBuffer>[] = [];
  /** Bytes in use, by chunk. */
  private readonly ends: number[] = [];
  private count = 0;

  get length(): number {
    return this.count;
  }

  push(text: string): void {
    const most = prefixBytes + 3 * text.length; // UTF-8 takes up to 3 bytes per UTF-16 unit
    let last = this.chunks.length - 1;
    if (last < 0 || this.ends[last] + most > this.chunks[last].length) {
      last = this.chunks.push(new Uint8Array(Math.max(chunkBytes, most))) - 1;
      this.ends.push(0);
    }
    const chunk = this.chunks[last];
    const start = this.ends[last] + prefixBytes;
    const { written } = encoder.encodeInto(text, chunk.subarray(start));
    new DataView(chunk.buffer).setUint32(start - prefixBytes, written, true);
    this.ends[last] = start + written;
    this.count++;
  }

  *[Symbol.iterator](): Generator<string> {
    for (const [i, chunk] of this.chunks.entries()) {
      const view = new DataView(chunk.buffer);
      for (let at = 0; at < this.ends[i];) {
        const start = at + prefixBytes;
        at = start + view.getUint32(at, true);
        yield decoder.decode(chunk.subarray(start, at));
      }
    }
  }
}
