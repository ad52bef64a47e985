import { randomUUID } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { KvError } from '../errors/errors.ts';
import { ensureInside, type ByteSink, type ByteSource } from './source.ts';

/** One system call reads at most this much; Linux itself stops a little below 2^31. */
const readChunkBytes = 1 << 30;

/**
 * A source over a file on disk. Close it.
 * @throws KvError "io" if there is no such file or it may not be read
 */
export async function openFileSource(path: string): Promise<ByteSource> {
  const handle = await open(path, 'r').catch((cause: unknown) => {
    throw new KvError('io', `${path}: cannot be opened (${reason(cause)}). Check the path.`, {
      cause,
    });
  });
  const stat = await handle.stat();
  if (!stat.isFile()) {
    await handle.close();
    throw new KvError('io', `${path}: is not a file. Name the model file itself.`);
  }
  const sizeBytes = stat.size;
  return {
    name: path,
    sizeBytes,
    descriptor: handle.fd,
    async read(offset, target) {
      ensureInside({ name: path, sizeBytes }, offset, target.length);
      for (let done = 0; done < target.length;) {
        const length = Math.min(readChunkBytes, target.length - done);
        const position = offset + done;
        const { bytesRead } = await handle
          .read(target, done, length, position)
          .catch((cause: unknown) => {
            throw new KvError(
              'io',
              `${path}: ${length} bytes at ${position} cannot be read (${reason(cause)}).`,
              { cause },
            );
          });
        if (bytesRead === 0) {
          throw new KvError(
            'io',
            `${path}: ended at byte ${position}; it had ${sizeBytes} when it was opened. ` +
              `Something is writing to it: try again later.`,
          );
        }
        done += bytesRead;
      }
    },
    close: () => handle.close(),
  };
}

/**
 * Writes a file so that `path` holds either all of it or what it held before: a temporary file in
 * the same folder, flushed to the disk, then renamed. A failure, of `write` too, removes it.
 * @throws KvError "io" if the file cannot be written; what `write` throws
 */
export async function writeFileAtomically(
  path: string,
  write: (sink: ByteSink) => Promise<void>,
): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  const failed = (cause: unknown): never => {
    throw new KvError(
      'io',
      `${path}: cannot be written (${reason(cause)}). Check the folder and the free space.`,
      { cause },
    );
  };
  const handle = await open(temporary, 'wx').catch(failed);
  try {
    try {
      await write({
        async write(bytes) {
          for (let done = 0; done < bytes.length;) {
            const { bytesWritten } = await handle.write(bytes, done).catch(failed);
            done += bytesWritten;
          }
        },
      });
      await handle.sync().catch(failed);
    } finally {
      await handle.close();
    }
    await rename(temporary, path).catch(failed);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

function reason(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
