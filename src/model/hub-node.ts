/**
 * A model from the Hugging Face hub, the way of one download. Read first; then the cache folder
 * (hub-cache-node.ts), what a repository holds (hub-listing-node.ts), which of it makes a model
 * (hub-select.ts), and how a file comes over (hub-transfer-node.ts, hub-request-node.ts).
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ensure, KvError } from '../errors/errors.ts';
import {
  cachedSnapshot,
  defaultCacheDir,
  fileSize,
  isCommit,
  isSafePath,
  placeFile,
  reason,
  repositoryFolder,
  saveReference,
  snapshotFolder,
} from './hub-cache-node.ts';
import { listRepository, soundFile } from './hub-listing-node.ts';
import { HubClient, HubUnavailable, maxRetries, type RequestOptions } from './hub-request-node.ts';
import { requireFile, selectFiles, shardNames, type HubFile } from './hub-select.ts';
import { transfer, type TransferProgress } from './hub-transfer-node.ts';

export interface HubOptions extends RequestOptions {
  /** default: that of all Hugging Face tools */
  readonly cacheDir?: string;
  readonly onProgress?: TransferProgress;
  /** Picks one of several GGUF files; without it several are an error that lists them. */
  readonly choose?: (files: readonly HubFile[]) => string | Promise<string>;
}

export interface HubDownload {
  /** The model file, or the safetensors files; config and tokenizer lie beside them. */
  readonly paths: string[];
  readonly kind: 'gguf' | 'safetensors';
  /** The snapshot: the repository's files under their own names. */
  readonly folder: string;
  /** Set when the hub gave no answer and the files are from the cache. */
  readonly note?: string;
}

/** A shard index takes about 100 bytes per tensor. */
const maxIndexBytes = 50e6;

interface Repository {
  /** `owner/repo` */
  readonly name: string;
  readonly file: string | undefined;
  /** branch, tag or commit */
  readonly revision: string;
  /** its folder in the cache */
  readonly folder: string;
}

/** One commit of a repository, as the hub or the cache has it. */
interface Snapshot {
  readonly commit: string;
  readonly folder: string;
  readonly files: readonly HubFile[];
  /** Makes sure that the file is in the folder. @returns its path on disk */
  obtain(file: string): Promise<string>;
}

/**
 * Brings a model into the cache, or finds it there.
 * @param spec `hf:owner/repo[/file][@revision]`. Without a file: the repository's one GGUF file, or
 *   its safetensors files if it has no GGUF. A file at a full commit hash that is in the cache is
 *   taken without asking the hub.
 * @throws KvError "usage" if there is no such repository or file, or several files to choose from;
 *   "unsupported" if it holds no model; "format" if the hub's answers contradict themselves, such
 *   as bytes of another hash, or name files outside the folder; "io" if the hub refuses or cannot
 *   be reached, or the disk is full; "aborted". The next call goes on where this one stopped.
 */
export async function downloadFromHub(
  spec: string,
  options: HubOptions = {},
): Promise<HubDownload> {
  const repository = parseSpec(spec, options.cacheDir ?? defaultCacheDir());
  const { file, revision, folder } = repository;
  const cached = await inCache(repository);
  const hasFile = cached?.files.some(({ path }) => path === file);
  if (cached && hasFile && isCommit(revision)) return collect(cached, repository, options);
  const fallback = hasFile || file === undefined ? cached : undefined;
  let snapshot: Snapshot;
  try {
    snapshot = await onHub(repository, options, fallback ? 0 : maxRetries);
  } catch (error) {
    if (!(error instanceof HubUnavailable && fallback)) throw error;
    const found = await collect(fallback, repository, options).catch((cause: unknown) => {
      const message = `${error.message} The cache does not serve either: ${reason(cause)}`;
      throw new KvError('io', message, { cause });
    });
    return { ...found, note: `${error.message} Using the copy in ${fallback.folder}.` };
  }
  const found = await collect(snapshot, repository, options);
  // Last, so that without the hub "main" stays what is here as a whole.
  if (!isCommit(revision)) await saveReference(folder, revision, snapshot.commit);
  return found;
}

function parseSpec(spec: string, cacheDir: string): Repository {
  const at = spec.lastIndexOf('@');
  const [owner, repo = '', ...rest] = (at < 0 ? spec : spec.slice(0, at)).split('/');
  const revision = at < 0 ? 'main' : spec.slice(at + 1);
  const file = rest.length > 0 ? rest.join('/') : undefined;
  const name = `${owner.replace(/^hf:/, '')}/${repo}`;
  ensure(
    owner.startsWith('hf:') &&
      /^[\w.-]*\w[\w.-]*\/[\w.-]*\w[\w.-]*$/.test(name) &&
      isSafePath(revision) &&
      (file === undefined || isSafePath(file)),
    'usage',
    () =>
      `hub: ${JSON.stringify(spec)} names no model. Write hf:owner/repo, hf:owner/repo/file.gguf or hf:owner/repo@revision.`,
  );
  return { name, file, revision, folder: repositoryFolder(cacheDir, name) };
}

async function inCache({ folder, revision }: Repository): Promise<Snapshot | undefined> {
  const cached = await cachedSnapshot(folder, revision);
  if (!cached) return undefined;
  const snapshot = snapshotFolder(folder, cached.commit);
  return { ...cached, folder: snapshot, obtain: async (file) => join(snapshot, file) };
}

/** @param retries how often to ask again what there is; downloads have their own */
async function onHub(
  { name, revision, folder }: Repository,
  options: HubOptions,
  retries: number,
): Promise<Snapshot> {
  const client = new HubClient(name, revision, options);
  const listing = await listRepository(client, retries);
  const { commit, files } = listing;
  return {
    commit,
    files,
    folder: snapshotFolder(folder, commit),
    obtain: async (path) => {
      const file = soundFile(listing, path, name);
      return placeFile(folder, commit, file, (blob) =>
        transfer(client, commit, file, blob, options.onProgress),
      );
    },
  };
}

/** Chooses the files that make the model, and brings them into the snapshot's folder. */
async function collect(
  { files, folder, obtain }: Snapshot,
  { name, file }: Repository,
  { choose }: HubOptions,
): Promise<HubDownload> {
  const { kind, weights, companions } = await selectFiles(name, files, file, choose);
  for (const companion of companions) await obtain(companion);
  const first = await obtain(weights);
  if (!weights.endsWith('.json')) return { paths: [first], kind, folder };
  const paths: string[] = [];
  for (const shard of await readShardIndex(first)) {
    requireFile(name, shard, files);
    paths.push(await obtain(shard));
  }
  return { paths, kind, folder };
}

/** @throws KvError "format" if the file is no shard index */
async function readShardIndex(path: string): Promise<string[]> {
  try {
    ensure(((await fileSize(path)) ?? 0) <= maxIndexBytes, 'format', () => 'it is too large');
    return shardNames(await readFile(path, 'utf8'));
  } catch (cause) {
    throw new KvError(
      'format',
      `hub: ${path} is no index of safetensors files (${reason(cause)}); it needs a "weight_map". Ask the repository's owner.`,
      { cause },
    );
  }
}
