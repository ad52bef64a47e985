import { KvError, ensure } from '../errors/errors.ts';

/**
 * Bytes that can be read at any place, asynchronously: a file, a URL, a Blob or memory.
 * `target` may be a view over a SharedArrayBuffer.
 */
export interface ByteSource {
  /** What to call it in messages: a path, a URL, a file name. */
  readonly name: string;
  readonly sizeBytes: number;
  /** File descriptor, where the source is one file as it lies on the disk. */
  readonly descriptor?: number;
  /**
   * Fills the whole of `target` with the bytes from `offset` on.
   * @throws KvError "format" if the range is not inside the source, "io" if it cannot be read
   */
  read(offset: number, target: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** Where bytes go, in order. `bytes` may be reused by the caller once the promise resolves. */
export interface ByteSink {
  write(bytes: Uint8Array): Promise<void>;
}

/** @throws KvError "format" unless bytes [offset, offset + length) exist in `source` */
export function ensureInside(
  source: Pick<ByteSource, 'name' | 'sizeBytes'>,
  offset: number,
  length: number,
): void {
  ensure(
    Number.isSafeInteger(offset) && offset >= 0 && offset + length <= source.sizeBytes,
    'format',
    () =>
      `${source.name}: bytes ${offset} to ${offset + length} were asked for; it has ` +
      `${source.sizeBytes}. The file is truncated or damaged: fetch it again.`,
  );
}

/** A source over bytes already in memory, which must not change while it is open. */
export function memorySource(bytes: Uint8Array, name: string): ByteSource {
  const sizeBytes = bytes.length;
  return {
    name,
    sizeBytes,
    async read(offset, target) {
      ensureInside({ name, sizeBytes }, offset, target.length);
      target.set(bytes.subarray(offset, offset + target.length));
    },
    async close() {},
  };
}

/** Bytes held twice at most while a Blob is read: the copy that `arrayBuffer()` makes. */
const blobChunkBytes = 1 << 24;

/** A source over a Blob, such as a file that a user picked in a browser. */
export function blobSource(blob: Blob, name: string): ByteSource {
  const sizeBytes = blob.size;
  return {
    name,
    sizeBytes,
    async read(offset, target) {
      ensureInside({ name, sizeBytes }, offset, target.length);
      for (let done = 0; done < target.length; done += blobChunkBytes) {
        const end = Math.min(done + blobChunkBytes, target.length);
        const part = await blob
          .slice(offset + done, offset + end)
          .arrayBuffer()
          .catch((cause: unknown) => {
            throw new KvError(
              'io',
              `${name}: bytes ${offset + done} to ${offset + end} cannot be read. ` +
                `The file may have changed since it was picked: pick it again.`,
              { cause },
            );
          });
        target.set(new Uint8Array(part), done);
      }
    },
    async close() {},
  };
}

/**
 * A source over a URL whose server answers HTTP Range requests.
 * @throws KvError "io" if the server cannot be reached or refuses, "unsupported" if it ignores
 *   ranges: reading a header must not download a model
 */
export async function urlSource(url: string | URL): Promise<ByteSource> {
  const name = String(url);
  const first = await request(name, { headers: { range: 'bytes=0-0' } });
  await first.body?.cancel();
  ensurePartial(name, first);
  const sizeBytes = sizeFromRange(first) ?? (await sizeFromHead(name));
  return {
    name,
    sizeBytes,
    async read(offset, target) {
      ensureInside({ name, sizeBytes }, offset, target.length);
      if (target.length === 0) return;
      const range = `bytes=${offset}-${offset + target.length - 1}`;
      const response = await request(name, { headers: { range } });
      ensurePartial(name, response);
      await readBody(name, range, response, target);
    },
    async close() {},
  };
}

async function request(url: string, init: RequestInit): Promise<Response> {
  const response = await fetch(url, init).catch((cause: unknown) => {
    throw new KvError('io', `${url}: cannot be reached. Check the address and the network.`, {
      cause,
    });
  });
  if (!response.ok) {
    await response.body?.cancel();
    throw new KvError(
      'io',
      `${url}: the server answered ${response.status} ${response.statusText}; need 206. ` +
        `Check the address and that it is public.`,
    );
  }
  return response;
}

function ensurePartial(url: string, response: Response): void {
  if (response.status === 206) return;
  void response.body?.cancel();
  throw new KvError(
    'unsupported',
    `${url}: the server answered ${response.status} to a Range request; need 206. ` +
      `It cannot send parts of a file: download the file and open that.`,
  );
}

/** The total of `Content-Range: bytes 0-0/1234`; undefined where CORS hides the header. */
function sizeFromRange(response: Response): number | undefined {
  const total = /\/(\d+)$/.exec(response.headers.get('content-range') ?? '')?.[1];
  return total === undefined ? undefined : Number(total);
}

async function sizeFromHead(url: string): Promise<number> {
  const response = await request(url, { method: 'HEAD' });
  const length = Number(response.headers.get('content-length') ?? NaN);
  ensure(
    Number.isSafeInteger(length) && length > 0,
    'io',
    () => `${url}: the server does not say how large the file is. Download it and open that.`,
  );
  return length;
}

/** Copies the body chunk by chunk, so that a tensor is never in memory twice. */
async function readBody(
  url: string,
  range: string,
  response: Response,
  target: Uint8Array,
): Promise<void> {
  let received = 0;
  try {
    for await (const chunk of chunksOf(response)) {
      if (received + chunk.length <= target.length) target.set(chunk, received);
      received += chunk.length;
      if (received > target.length) break;
    }
  } catch (cause) {
    throw new KvError('io', `${url}: the connection broke during ${range}. Try again.`, { cause });
  }
  ensure(
    received === target.length,
    'io',
    () =>
      `${url}: ${range} gave ${received > target.length ? 'more than ' : ''}` +
      `${Math.min(received, target.length)} bytes; need ${target.length}. Try again.`,
  );
}

/** Not `for await` over the body itself: not every browser has async iteration of streams. */
async function* chunksOf(response: Response): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel();
  }
}
