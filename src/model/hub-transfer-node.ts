/**
 * One file from the hub, which goes on where an earlier attempt stopped and is verified.
 * `@huggingface/hub` can do neither.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import * as fs from 'node:fs/promises';
import { ensure, KvError } from '../errors/errors.ts';
import { fileSize, onDisk } from './hub-cache-node.ts';
import type { RemoteFile } from './hub-listing-node.ts';
import { maxRetries, type HubClient } from './hub-request-node.ts';

/** Bytes of one file, those of an earlier attempt included. */
export type TransferProgress = (doneBytes: number, totalBytes: number, file: string) => void;

/** A break after fewer new bytes than this counts as one without progress. */
const progressBytes = 1 << 20;

/**
 * Fills `<blob>.incomplete`, checks it, and gives it its name. Two downloads of one file write the
 * same bytes to the same places, so they need no lock.
 * @throws KvError "format" if the bytes are not what the hub listed, "io", "aborted"
 */
export async function transfer(
  client: HubClient,
  commit: string,
  file: RemoteFile,
  blob: string,
  onProgress?: TransferProgress,
): Promise<void> {
  const path = file.path.split('/').map(encodeURIComponent).join('/');
  const url = `${client.endpoint}/${client.name}/resolve/${commit}/${path}`;
  const partial = `${blob}.incomplete`;
  const flags = constants.O_RDWR | constants.O_CREAT;
  const handle = await onDisk(partial, fs.open(partial, flags));
  try {
    let done = (await handle.stat()).size;
    let stalls = 0;
    while (done !== file.sizeBytes) {
      if (done > file.sizeBytes) done = 0;
      const start = done;
      const body = await open(client, url, file, start);
      done = await receive(client, body, file, handle, onProgress);
      if (done === file.sizeBytes) break;
      stalls = done - start >= progressBytes ? 0 : stalls + 1;
      ensure(
        stalls <= maxRetries,
        'io',
        () =>
          `hub: ${file.path} broke off ${stalls} times in a row; ${done} of ${file.sizeBytes} bytes are here. Run it again to go on from there.`,
      );
      await client.wait(client.backoffMs(stalls));
    }
    await onDisk(partial, handle.truncate(done));
    await onDisk(partial, handle.sync());
    await verify(client, handle, file);
  } catch (error) {
    // What contradicts the listing is of no use to the next attempt.
    if (error instanceof KvError && error.code === 'format') await fs.rm(partial, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
  const renamed = fs.rename(partial, blob).catch(async (cause: unknown) => {
    // Another download of the same file may have been faster.
    if ((await fileSize(blob)) !== file.sizeBytes) throw cause;
  });
  await onDisk(blob, renamed);
}

interface Body {
  /** where it begins: at `start`, or at 0 from a server that sends whole files only */
  readonly from: number;
  readonly chunks: AsyncIterable<Uint8Array>;
}

/** Asks for the bytes from `start` on. */
async function open(
  client: HubClient,
  url: string,
  file: RemoteFile,
  start: number,
): Promise<Body> {
  const range = start > 0 && { range: `bytes=${start}-` };
  const headers = { 'accept-encoding': 'identity', ...range };
  const response = await client.fetcher(maxRetries)(url, { headers });
  if (!response.ok || !response.body) {
    await response.body?.cancel();
    if (response.status === 416) throw contradiction(file, `has none from ${start} on`);
    throw client.refusal(response.status, file.path);
  }
  if (response.status !== 206) return { from: 0, chunks: response.body };
  const sent = response.headers.get('content-range') ?? '';
  if (Number(/^bytes (\d+)-/.exec(sent)?.[1]) !== start) {
    await response.body.cancel();
    throw contradiction(file, `answered a request from ${start} on with "${sent}"`);
  }
  return { from: start, chunks: response.body };
}

/** Writes what comes. @returns how far it came until the end, or a broken connection */
async function receive(
  client: HubClient,
  { from, chunks }: Body,
  file: RemoteFile,
  handle: fs.FileHandle,
  onProgress?: TransferProgress,
): Promise<number> {
  const { path, sizeBytes } = file;
  let done = from;
  try {
    for await (const chunk of chunks) {
      if (done + chunk.length > sizeBytes) throw contradiction(file, 'sent more');
      for (let written = 0; written < chunk.length;) {
        const writing = handle.write(chunk, written, chunk.length - written, done + written);
        written += (await onDisk(path, writing)).bytesWritten;
      }
      done += chunk.length;
      onProgress?.(done, sizeBytes, path);
    }
  } catch (error) {
    if (error instanceof KvError) throw error;
    client.throwIfAborted();
  }
  return done;
}

function contradiction({ path, sizeBytes }: RemoteFile, found: string): KvError {
  return new KvError(
    'format',
    `hub: ${path} should have ${sizeBytes} bytes; the server ${found}. Try again later, or report it to the hub.`,
  );
}

/** @throws KvError "format" if the file has another hash than the hub says */
async function verify(client: HubClient, handle: fs.FileHandle, file: RemoteFile): Promise<void> {
  const isGit = file.hash.length === 40;
  const hash = createHash(isGit ? 'sha1' : 'sha256');
  if (isGit) hash.update(`blob ${file.sizeBytes}\0`);
  for await (const chunk of handle.createReadStream({ start: 0, autoClose: false })) {
    client.throwIfAborted();
    hash.update(chunk as Uint8Array);
  }
  const found = hash.digest('hex');
  ensure(
    found === file.hash,
    'format',
    () =>
      `hub: ${file.path} has the hash ${found}; the hub says ${file.hash}. The bad file was removed: run it again.`,
  );
}
