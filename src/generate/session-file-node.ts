import { open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { openFileSource, writeFileAtomically } from '../format/file-node.ts';
import { decodeSession } from './session-file.ts';
import type { SessionState } from './session-state.ts';

/**
 * Writes a session file, `encodeSession(state)`: after a failure, a crash or a loss of power `path`
 * holds what it held before, or all of the new one.
 * @throws KvError "io" if it cannot be written; what `pieces` throws
 */
export async function writeSessionFile(
  path: string,
  pieces: AsyncIterable<Uint8Array>,
): Promise<void> {
  await writeFileAtomically(path, async (sink) => {
    for await (const piece of pieces) await sink.write(piece);
  });
  await flushFolder(dirname(path));
}

/** @throws KvError "io" if there is no such file; "format" as `decodeSession` */
export async function readSessionFile(path: string): Promise<SessionState> {
  const source = await openFileSource(path);
  try {
    return await decodeSession(source);
  } finally {
    await source.close();
  }
}

/** Makes a rename last; the file itself is safe before. */
async function flushFolder(path: string): Promise<void> {
  // Windows opens no folders; there the rename is the system's to keep.
  if (process.platform === 'win32') return;
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
