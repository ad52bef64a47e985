/** What a repository on the hub holds, asked through `@huggingface/hub`. */
import { HubApiError, listFiles, listModels, modelInfo } from '@huggingface/hub';
import { ensure, KvError } from '../errors/errors.ts';
import { isCommit, isSafePath, reason } from './hub-cache-node.ts';
import { HubUnavailable, type HubClient } from './hub-request-node.ts';
import { nearest, type HubFile } from './hub-select.ts';

export interface RemoteFile extends HubFile {
  /** sha256 of a large file, git's sha1 of a small one; also the name of the blob */
  readonly hash: string;
}

export interface Listing {
  readonly commit: string;
  readonly files: readonly RemoteFile[];
}

/** A repository of a million files would be no model; a listing without end is an attack. */
const maxListed = 100_000;

/**
 * Asks for the commit of the client's revision and its files.
 * @param retries attempts after the first
 * @throws KvError as `downloadFromHub` says; a HubUnavailable if there was no answer
 */
export async function listRepository(client: HubClient, retries: number): Promise<Listing> {
  const { name, revision } = client;
  const how = { hubUrl: client.endpoint, fetch: client.fetcher(retries) };
  const files = new Map<string, RemoteFile>();
  let commit = revision;
  try {
    if (!isCommit(revision)) {
      const info = await modelInfo({ name, revision, additionalFields: ['sha'], ...how });
      commit = String(info.sha);
      ensure(isCommit(commit), 'format', () => `hub: ${name} has the commit "${commit}".`);
    }
    const entries = listFiles({ repo: name, recursive: true, revision: commit, ...how });
    for await (const { type, path, size, oid, lfs } of entries) {
      if (type !== 'file') continue;
      files.set(path, { path, sizeBytes: lfs?.size ?? size, hash: lfs?.oid ?? oid ?? '' });
      ensure(files.size <= maxListed, 'format', () => `hub: ${name} lists too many files.`);
    }
  } catch (error) {
    throw await translate(client, error, how);
  }
  return { commit, files: [...files.values()] };
}

/**
 * The listed file, if it may be written to disk.
 * @throws KvError "format" if its name or its hash leads out of the cache
 */
export function soundFile({ files }: Listing, path: string, repository: string): RemoteFile {
  const file = files.find((listed) => listed.path === path);
  ensure(
    file !== undefined &&
      isSafePath(path) &&
      Number.isSafeInteger(file.sizeBytes) &&
      /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(file.hash),
    'format',
    () =>
      `hub: ${repository} lists ${JSON.stringify(path)} with hash ${JSON.stringify(file?.hash)}; names must stay inside the repository and hashes be hexadecimal. Do not use this repository.`,
  );
  return file;
}

interface How {
  readonly hubUrl: string;
  readonly fetch: typeof fetch;
}

/** Errors of the library as ours. */
async function translate(client: HubClient, error: unknown, how: How): Promise<unknown> {
  if (error instanceof KvError) return error;
  if (error instanceof HubApiError) {
    const { statusCode } = error;
    const hint = [401, 404].includes(statusCode) ? await similarNames(client, how) : '';
    return client.refusal(statusCode, undefined, hint);
  }
  client.throwIfAborted();
  const message = `hub: the answer about ${client.name} is unusable (${reason(error)}). Try again later.`;
  return error instanceof SyntaxError
    ? new KvError('format', message, { cause: error })
    : new HubUnavailable('io', message, { cause: error });
}

/** Names on the hub that are like the one that was asked for; nothing if it will not say. */
async function similarNames(client: HubClient, how: How): Promise<string> {
  const { name } = client;
  const names: string[] = [];
  try {
    const search = { query: name.slice(name.indexOf('/') + 1) };
    for await (const found of listModels({ search, limit: 20, ...how })) {
      if (found.name !== name) names.push(found.name);
    }
  } catch {
    client.throwIfAborted();
  }
  return names.length > 0 ? ` Similar names: ${nearest(name, names).join(', ')}.` : '';
}
