/**
 * The cache folder that all Hugging Face tools share. Of one repository:
 *
 *   models--owner--repo/blobs/<sha256, or git's hash of a small file>
 *   models--owner--repo/refs/main                      the commit that "main" was
 *   models--owner--repo/snapshots/<commit>/<file>      links into blobs
 *
 * A blob has its final name only when it is whole.
 */
import { randomUUID } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, relative, sep } from 'node:path';
import { KvError } from '../errors/errors.ts';
import { writeFileAtomically } from '../format/file-node.ts';
import type { HubFile } from './hub-select.ts';

/** `$HF_HUB_CACHE`, `$HF_HOME/hub` or `~/.cache/huggingface/hub`. */
export function defaultCacheDir(): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env;
  const home = HF_HOME ?? join(XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface');
  return HF_HUB_CACHE ?? HUGGINGFACE_HUB_CACHE ?? join(home, 'hub');
}

/** @param name `owner/repo` */
export function repositoryFolder(cacheDir: string, name: string): string {
  return join(cacheDir, `models--${name.replace('/', '--')}`);
}

export function snapshotFolder(folder: string, commit: string): string {
  return join(folder, 'snapshots', commit);
}

function referencePath(folder: string, revision: string): string {
  return join(folder, 'refs', ...revision.split('/'));
}

export const isCommit = (revision: string) => /^[0-9a-f]{40}$/.test(revision);

/** Whether a name from outside stays inside the folder that it is joined to, on any system. */
export function isSafePath(path: string): boolean {
  const isSafe = (part: string) =>
    part !== '' && part !== '.' && part !== '..' && !/^[a-z]:|[\\\p{Cc}]/iu.test(part);
  return path.split('/').every(isSafe);
}

/** The commit that the cache has for the revision, if any, and its files. */
export async function cachedSnapshot(
  folder: string,
  revision: string,
): Promise<{ commit: string; files: HubFile[] } | undefined> {
  const named = await fs.readFile(referencePath(folder, revision), 'utf8').catch(() => '');
  const commit = isCommit(revision) ? revision : named.trim();
  if (!isCommit(commit)) return undefined;
  const snapshot = snapshotFolder(folder, commit);
  const names = await fs.readdir(snapshot, { recursive: true }).catch(() => []);
  const files: HubFile[] = [];
  for (const name of names) {
    const sizeBytes = await fileSize(join(snapshot, name));
    if (sizeBytes !== undefined) files.push({ path: name.split(sep).join('/'), sizeBytes });
  }
  return files.length === 0 ? undefined : { commit, files };
}

/**
 * Makes sure that a snapshot has a file.
 * @param fetchBlob brings the file to a path, if the cache does not have it
 * @returns where it is
 */
export async function placeFile(
  folder: string,
  commit: string,
  file: HubFile & { readonly hash: string },
  fetchBlob: (path: string) => Promise<void>,
): Promise<string> {
  const pointer = join(snapshotFolder(folder, commit), file.path);
  if ((await fileSize(pointer)) === file.sizeBytes) return pointer;
  const blob = join(folder, 'blobs', file.hash);
  await onDisk(blob, fs.mkdir(dirname(blob), { recursive: true }));
  if ((await fileSize(blob)) !== file.sizeBytes) await fetchBlob(blob);
  await onDisk(pointer, placeLink(blob, pointer));
  return pointer;
}

/** A link that survives moving the cache; a copy where links cannot be made. */
async function placeLink(blob: string, pointer: string): Promise<void> {
  await fs.mkdir(dirname(pointer), { recursive: true });
  const temporary = `${pointer}.${randomUUID()}.tmp`;
  try {
    await fs
      .symlink(relative(dirname(pointer), blob), temporary)
      .catch(() => fs.copyFile(blob, temporary));
    await fs.rename(temporary, pointer);
  } catch (error) {
    await fs.rm(temporary, { force: true });
    throw error;
  }
}

/** Remembers which commit a branch or tag was. */
export async function saveReference(
  folder: string,
  revision: string,
  commit: string,
): Promise<void> {
  const reference = referencePath(folder, revision);
  await onDisk(reference, fs.mkdir(dirname(reference), { recursive: true }));
  await writeFileAtomically(reference, (sink) => sink.write(new TextEncoder().encode(commit)));
}

/** Undefined if there is no such file; links are followed. */
export async function fileSize(path: string): Promise<number | undefined> {
  const found = await fs.stat(path).catch(() => undefined);
  return found?.isFile() ? found.size : undefined;
}

/** Waits for `work`. @throws KvError "io" that names the path */
export function onDisk<T>(path: string, work: Promise<T>): Promise<T> {
  return work.catch((cause: unknown) => {
    const full = (cause as NodeJS.ErrnoException).code === 'ENOSPC';
    const next = full
      ? 'Free some space, or set HF_HOME to a larger disk, and run it again.'
      : 'Check the folder and its permissions.';
    const what = full ? 'the disk is full' : reason(cause);
    throw new KvError('io', `hub: ${path} cannot be written: ${what}. ${next}`, { cause });
  });
}

export function reason(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
