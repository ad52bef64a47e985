import { KvError, ensure } from '../errors/errors.ts';
import { maxHeaderBytes, maxStringBytes } from './gguf-limits.ts';
import type { GgufStringList } from './gguf-string-list.ts';
import type { ByteSource } from './source.ts';

/** Read at a time: small headers come in one read, large ones in a few. */
const windowBytes = 1 << 20;

/** Keeps a leading byte order mark, so that a string can be written back unchanged. */
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Reads a GGUF header front to back through a small window, never more than `maxHeaderBytes` and
 * never past the end of the source. `what` names the thing being read, for messages.
 */
export class HeaderCursor {
  /** Bytes consumed so far. */
  position = 0;
  private bytes = new Uint8Array(0);
  private start = 0;
  /** What `bytes` is part of; one for all reads, as each would wait for the garbage collector. */
  private window = new Uint8Array(0);
  private readonly source: ByteSource;

  constructor(source: ByteSource) {
    this.source = source;
  }

  /** Bytes that the header can still have. */
  get remaining(): number {
    return Math.min(this.source.sizeBytes, maxHeaderBytes) - this.position;
  }

  /** The next `length` bytes; the view holds until the next call. */
  async take(length: number, what: string): Promise<DataView<ArrayBuffer>> {
    this.ensureRemaining(length, what);
    let at = this.position - this.start;
    if (at + length > this.bytes.length) {
      const size = Math.min(Math.max(length, windowBytes), this.remaining);
      if (size > this.window.length) this.window = new Uint8Array(size);
      this.bytes = this.window.subarray(0, size);
      this.start = this.position;
      at = 0;
      await this.source.read(this.start, this.bytes);
    }
    this.position += length;
    return new DataView(this.bytes.buffer, at, length);
  }

  /** @throws KvError "format" unless the header can still hold `length` bytes */
  ensureRemaining(length: number, what: string): void {
    ensure(length <= this.remaining, 'format', () =>
      this.position + length > this.source.sizeBytes
        ? `gguf: ${this.source.name}: ${what} needs ${length} bytes at ${this.position}, but the ` +
          `file ends at ${this.source.sizeBytes}. It is truncated or damaged: fetch it again.`
        : `gguf: ${this.source.name}: ${what} needs ${length} bytes at ${this.position}; a ` +
          `header may have ${maxHeaderBytes}. The file is damaged, or not a language model.`,
    );
  }

  async u32(what: string): Promise<number> {
    return (await this.take(4, what)).getUint32(0, true);
  }

  async u64(what: string): Promise<number | bigint> {
    return safe((await this.take(8, what)).getBigUint64(0, true));
  }

  /** A count or a length: u64, at most `limit`. */
  async count(limit: number, what: string): Promise<number> {
    const value = await this.u64(what);
    if (typeof value === 'bigint' || value > limit) {
      throw new KvError(
        'format',
        `gguf: ${this.source.name}: ${what} is ${value}; at most ${limit} is allowed. ` +
          `The file is damaged: fetch it again.`,
      );
    }
    return value;
  }

  async string(limitBytes: number, what: string): Promise<string> {
    const length = await this.count(limitBytes, `length of ${what}`);
    return this.decode(await this.take(length, what), what);
  }

  /**
   * Appends up to `count` strings, as many as lie whole in the window, without waiting: waiting
   * for each of a vocabulary's would take longer than everything else in the header.
   */
  stringsInWindow(into: string[] | GgufStringList, count: number, what: string): void {
    const view = new DataView(this.bytes.buffer, 0, this.bytes.length);
    while (into.length < count) {
      const at = this.position - this.start + 8;
      if (at > view.byteLength || view.getUint32(at - 4, true) !== 0) return;
      const length = view.getUint32(at - 8, true);
      if (length > Math.min(maxStringBytes, view.byteLength - at)) return;
      into.push(this.decode(this.bytes.subarray(at, at + length), what));
      this.position += 8 + length;
    }
  }

  private decode(bytes: ArrayBufferView<ArrayBuffer>, what: string): string {
    try {
      return utf8.decode(bytes);
    } catch (cause) {
      throw new KvError(
        'format',
        `gguf: ${this.source.name}: ${what} is not valid UTF-8. The file is damaged.`,
        { cause },
      );
    }
  }
}

/** A number where it is exact, otherwise the bigint itself. */
export function safe(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
