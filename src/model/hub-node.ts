/**
 * Models from the Hugging Face hub, in the cache folder that all Hugging Face tools share:
 *
 *   models--owner--repo/blobs/<sha256, or git's hash of a small file>
 *   models--owner--repo/refs/main                      the commit that "main" was
 *   models--owner--repo/snapshots/<commit>/<file>      links into blobs
 *
 * `@huggingface/hub` asks the hub what there is. The bytes are fetched here, because the library
 * can neither resume a download nor verify it. A blob has its final name only when it is whole.
 */
import { createHash, randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import * as fs from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, relative, sep } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { HubApiError, listFiles, listModels, modelInfo } from '@huggingface/hub';
import { ensure, KvError } from '../errors/errors.ts';
import { writeFileAtomically } from '../format/file-node.ts';

export interface HubFile {
  /** path inside the repository, with `/` */
  readonly path: string;
  readonly sizeBytes: number;
}

export interface HubOptions {
  /** default: `$HF_HUB_CACHE`, `$HF_HOME/hub` or `~/.cache/huggingface/hub` */
  readonly cacheDir?: string;
  /** default: `$HF_ENDPOINT` or `https://huggingface.co` */
  readonly endpoint?: string;
  /** default: `$HF_TOKEN`; it is sent to the endpoint only, never where that redirects to */
  readonly token?: string;
  /** Bytes of one file, those of an earlier attempt included. */
  readonly onProgress?: (doneBytes: number, totalBytes: number, file: string) => void;
  readonly signal?: AbortSignal;
  readonly fetch?: typeof fetch;
  /** Picks one of several GGUF files; without it several are an error that lists them. */
  readonly choose?: (files: readonly HubFile[]) => string | Promise<string>;
  /** First wait before trying again; it doubles every time. Default 500. */
  readonly retryDelayMs?: number;
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

/** Attempts after the first; also how often in a row a download may break without progress. */
const maxRetries = 4;
/** A break after fewer new bytes than this counts as one without progress. */
const progressBytes = 1 << 20;
/** A hub that asks for a longer wait gets an error instead. */
const maxWaitMs = 60_000;
/** A repository of a million files would be no model; a listing without end is an attack. */
const maxListed = 100_000;
/** A shard index takes about 100 bytes per tensor. */
const maxIndexBytes = 50e6;

const shardIndex = 'model.safetensors.index.json';
/** What a safetensors model has beside its weights; whichever exist are taken. */
const companions = [
  'chat_template.jinja',
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
];

/** The hub gave no answer; the cache may still have one. */
class HubUnavailable extends KvError {}

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
  const cached = await openCached(repository);
  const hasFile = cached?.files.some(({ path }) => path === file);
  if (cached && hasFile && isCommit(revision)) return collect(cached, repository, options);
  const fallback = hasFile || file === undefined ? cached : undefined;
  let snapshot: Snapshot;
  try {
    snapshot = await new Hub(repository, options).open(fallback ? 0 : maxRetries);
  } catch (error) {
    if (!(error instanceof HubUnavailable && fallback)) throw error;
    const found = await collect(fallback, repository, options).catch((cause: unknown) => {
      const message = `${error.message} The cache does not serve either: ${reason(cause)}`;
      throw new KvError('io', message, { cause });
    });
    return { ...found, note: `${error.message} Using the copy in ${fallback.folder}.` };
  }
  const found = await collect(snapshot, repository, options);
  if (!isCommit(revision)) {
    // Last, so that without the hub "main" stays what is here as a whole.
    const commit = new TextEncoder().encode(snapshot.folder.slice(-40));
    const reference = join(folder, 'refs', ...revision.split('/'));
    await onDisk(reference, fs.mkdir(dirname(reference), { recursive: true }));
    await writeFileAtomically(reference, (sink) => sink.write(commit));
  }
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
  return { name, file, revision, folder: join(cacheDir, `models--${name.replace('/', '--')}`) };
}

function defaultCacheDir(): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env;
  const home = HF_HOME ?? join(XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface');
  return HF_HUB_CACHE ?? HUGGINGFACE_HUB_CACHE ?? join(home, 'hub');
}

const isCommit = (revision: string) => /^[0-9a-f]{40}$/.test(revision);

/** Whether a name from outside stays inside the folder that it is joined to, on any system. */
function isSafePath(path: string): boolean {
  const isSafe = (part: string) =>
    part !== '' && part !== '.' && part !== '..' && !/^[a-z]:|[\\\p{Cc}]/iu.test(part);
  return path.split('/').every(isSafe);
}

/** The commit that the cache has for the revision, if any. */
async function openCached({ folder, revision }: Repository): Promise<Snapshot | undefined> {
  const reference = join(folder, 'refs', ...revision.split('/'));
  const named = await fs.readFile(reference, 'utf8').catch(() => '');
  const commit = isCommit(revision) ? revision : named.trim();
  if (!isCommit(commit)) return undefined;
  const snapshot = join(folder, 'snapshots', commit);
  const names = await fs.readdir(snapshot, { recursive: true }).catch(() => []);
  const files: HubFile[] = [];
  for (const name of names) {
    const sizeBytes = await fileSize(join(snapshot, name));
    if (sizeBytes !== undefined) files.push({ path: name.split(sep).join('/'), sizeBytes });
  }
  if (files.length === 0) return undefined;
  return { folder: snapshot, files, obtain: async (file) => join(snapshot, file) };
}

/** Undefined if there is no such file; links are followed. */
async function fileSize(path: string): Promise<number | undefined> {
  const found = await fs.stat(path).catch(() => undefined);
  return found?.isFile() ? found.size : undefined;
}

/** Chooses the files that make the model, and brings them into the snapshot's folder. */
async function collect(
  snapshot: Snapshot,
  { name, file }: Repository,
  { choose }: HubOptions,
): Promise<HubDownload> {
  const { files, folder } = snapshot;
  const paths = files.map(({ path }) => path);
  const ggufs = files.filter(({ path }) => path.endsWith('.gguf'));
  if (file !== undefined) requireFile(name, file, paths);
  if (file?.endsWith('.gguf') || (file === undefined && ggufs.length > 0)) {
    const chosen = file ?? (await chooseGguf(name, ggufs, choose));
    return { paths: [await snapshot.obtain(chosen)], kind: 'gguf', folder };
  }
  const weights = file ?? ['model.safetensors', shardIndex].find((path) => paths.includes(path));
  ensure(
    weights !== undefined && /\.safetensors(\.index\.json)?$/.test(weights),
    'unsupported',
    () =>
      `hub: ${name} has ${file ?? `${files.length} files`}; a model is a .gguf file, model.safetensors or ${shardIndex}. Look for a GGUF version of it.`,
  );
  for (const companion of companions) {
    if (paths.includes(companion)) await snapshot.obtain(companion);
  }
  const first = await snapshot.obtain(weights);
  if (!weights.endsWith('.json')) return { paths: [first], kind: 'safetensors', folder };
  const shards: string[] = [];
  for (const shard of await readShardNames(first)) {
    requireFile(name, shard, paths);
    shards.push(await snapshot.obtain(shard));
  }
  return { paths: shards, kind: 'safetensors', folder };
}

function requireFile(repository: string, file: string, paths: readonly string[]): void {
  ensure(paths.includes(file), 'usage', () => {
    const near = nearest(
      file,
      paths.filter((path) => /\.(gguf|safetensors)$/.test(path)),
    );
    const hint = near.length > 0 ? `The nearest: ${near.join(', ')}.` : 'It holds no model files.';
    return `hub: ${repository} has no file ${JSON.stringify(file)}. ${hint}`;
  });
}

async function chooseGguf(
  repository: string,
  files: readonly HubFile[],
  choose: HubOptions['choose'],
): Promise<string> {
  if (files.length === 1) return files[0].path;
  const chosen = await choose?.(files);
  if (chosen !== undefined && files.some(({ path }) => path === chosen)) return chosen;
  const list = files.map(({ path, sizeBytes }) => `  ${(sizeBytes / 1e6).toFixed(1)} MB  ${path}`);
  throw new KvError(
    'usage',
    `hub: ${repository} has ${files.length} GGUF files:\n${list.join('\n')}\n` +
      `Name one of them, such as hf:${repository}/${files[0].path}`,
  );
}

/** @throws KvError "format" if the file is no shard index */
async function readShardNames(path: string): Promise<string[]> {
  try {
    ensure(((await fileSize(path)) ?? 0) <= maxIndexBytes, 'format', () => 'it is too large');
    const index = JSON.parse(await fs.readFile(path, 'utf8')) as { weight_map: object };
    const names = new Set<unknown>(Object.values(index.weight_map));
    const shards = [...names].filter((name) => typeof name === 'string');
    ensure(names.size > 0 && shards.length === names.size, 'format', () => 'no names of files');
    return shards.sort();
  } catch (cause) {
    throw new KvError(
      'format',
      `hub: ${path} is no index of safetensors files (${reason(cause)}); it needs a "weight_map". Ask the repository's owner.`,
      { cause },
    );
  }
}

interface RemoteFile extends HubFile {
  /** sha256 of a large file, git's sha1 of a small one; also the name of the blob */
  readonly hash: string;
}

/** Talks to the hub about one repository. */
class Hub {
  private readonly repository: Repository;
  private readonly options: HubOptions;
  private readonly endpoint: string;
  private readonly token: string | undefined;
  private retries = maxRetries;

  constructor(repository: Repository, options: HubOptions) {
    this.repository = repository;
    this.options = options;
    const endpoint = options.endpoint ?? process.env.HF_ENDPOINT ?? 'https://huggingface.co';
    ensure(
      URL.canParse(endpoint) && /^https?:/.test(endpoint),
      'usage',
      () => `hub: the endpoint is "${endpoint}"; it must be a URL such as https://huggingface.co.`,
    );
    this.endpoint = endpoint.replace(/\/+$/, '');
    this.token = options.token ?? process.env.HF_TOKEN;
  }

  /**
   * Asks for the commit and its files.
   * @param retries attempts after the first, here; downloads have their own
   */
  async open(retries: number): Promise<Snapshot> {
    this.retries = retries;
    const { name, revision, folder } = this.repository;
    const how = { hubUrl: this.endpoint, fetch: this.request };
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
      throw await this.translate(error);
    }
    this.retries = maxRetries;
    const snapshot = join(folder, 'snapshots', commit);
    return {
      folder: snapshot,
      files: [...files.values()],
      obtain: async (path) => {
        const file = files.get(path);
        ensure(
          file !== undefined &&
            isSafePath(path) &&
            Number.isSafeInteger(file.sizeBytes) &&
            /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(file.hash),
          'format',
          () =>
            `hub: ${name} lists ${JSON.stringify(path)} with hash ${JSON.stringify(file?.hash)}; names must stay inside the repository and hashes be hexadecimal. Do not use this repository.`,
        );
        return this.obtain(file, commit, join(snapshot, path));
      },
    };
  }

  private async obtain(file: RemoteFile, commit: string, pointer: string): Promise<string> {
    if ((await fileSize(pointer)) === file.sizeBytes) return pointer;
    const blob = join(this.repository.folder, 'blobs', file.hash);
    await onDisk(blob, fs.mkdir(dirname(blob), { recursive: true }));
    if ((await fileSize(blob)) !== file.sizeBytes) {
      const path = file.path.split('/').map(encodeURIComponent).join('/');
      const url = `${this.endpoint}/${this.repository.name}/resolve/${commit}/${path}`;
      await this.download(url, file, blob);
    }
    await onDisk(pointer, placeLink(blob, pointer));
    return pointer;
  }

  /**
   * Fills `<blob>.incomplete`, checks it, and gives it its name. Two downloads of one file write
   * the same bytes to the same places, so they need no lock.
   */
  private async download(url: string, file: RemoteFile, blob: string): Promise<void> {
    const partial = `${blob}.incomplete`;
    const flags = constants.O_RDWR | constants.O_CREAT;
    const handle = await onDisk(partial, fs.open(partial, flags));
    try {
      let done = (await handle.stat()).size;
      let stalls = 0;
      while (done !== file.sizeBytes) {
        if (done > file.sizeBytes) done = 0;
        const start = done;
        done = await this.receive(url, file, handle, start);
        if (done === file.sizeBytes) break;
        stalls = done - start >= progressBytes ? 0 : stalls + 1;
        ensure(
          stalls <= maxRetries,
          'io',
          () =>
            `hub: ${file.path} broke off ${stalls} times in a row; ${done} of ${file.sizeBytes} bytes are here. Run it again to go on from there.`,
        );
        await this.wait(this.backoffMs(stalls));
      }
      await onDisk(partial, handle.truncate(done));
      await onDisk(partial, handle.sync());
      await this.verify(handle, file);
    } catch (error) {
      // What contradicts the listing is of no use to the next attempt.
      if (error instanceof KvError && error.code === 'format')
        await fs.rm(partial, { force: true });
      throw error;
    } finally {
      await handle.close();
    }
    await fs.rename(partial, blob).catch(async (cause: unknown) => {
      // Another download of the same file may have been faster.
      if ((await fileSize(blob)) !== file.sizeBytes) throw diskError(blob, cause);
    });
  }

  /** Receives from byte `start` on. @returns how far it came until the end, or a broken connection */
  private async receive(
    url: string,
    { path, sizeBytes }: RemoteFile,
    handle: fs.FileHandle,
    start: number,
  ): Promise<number> {
    const lie = (found: string) =>
      new KvError(
        'format',
        `hub: ${path} should have ${sizeBytes} bytes; the server ${found}. Try again later, or report it to the hub.`,
      );
    const headers = {
      'accept-encoding': 'identity',
      ...(start > 0 && { range: `bytes=${start}-` }),
    };
    const response = await this.request(url, { headers });
    if (!response.ok || !response.body) {
      await response.body?.cancel();
      if (response.status === 416) throw lie(`has none from ${start} on`);
      throw this.refusal(response.status, path);
    }
    let done = 0;
    if (response.status === 206) {
      const range = response.headers.get('content-range') ?? '';
      done = Number(/^bytes (\d+)-/.exec(range)?.[1]);
      if (done !== start) {
        await response.body.cancel();
        throw lie(`answered a request from ${start} on with "${range}"`);
      }
    }
    try {
      for await (const chunk of response.body) {
        if (done + chunk.length > sizeBytes) throw lie('sent more');
        for (let written = 0; written < chunk.length;) {
          const writing = handle.write(chunk, written, chunk.length - written, done + written);
          written += (await onDisk(path, writing)).bytesWritten;
        }
        done += chunk.length;
        this.options.onProgress?.(done, sizeBytes, path);
      }
    } catch (error) {
      if (error instanceof KvError) throw error;
      this.throwIfAborted();
    }
    return done;
  }

  /** @throws KvError "format" if the file has another hash than the hub says */
  private async verify(handle: fs.FileHandle, file: RemoteFile): Promise<void> {
    const isGit = file.hash.length === 40;
    const hash = createHash(isGit ? 'sha1' : 'sha256');
    if (isGit) hash.update(`blob ${file.sizeBytes}\0`);
    for await (const chunk of handle.createReadStream({ start: 0, autoClose: false })) {
      this.throwIfAborted();
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

  /**
   * `fetch` with the token, which tries again when the hub is busy or the network fails.
   * @throws KvError "io" when it has tried enough, "aborted"
   */
  private readonly request: typeof fetch = async (input, init) => {
    const { fetch: fetchOnce = fetch, signal } = this.options;
    const url = new URL(input instanceof Request ? input.url : input);
    const headers = new Headers(init?.headers);
    if (this.token && url.origin === new URL(this.endpoint).origin) {
      headers.set('authorization', `Bearer ${this.token}`);
    }
    for (let attempt = 1; ; attempt++) {
      this.throwIfAborted();
      let waitMs = this.backoffMs(attempt);
      let problem: string;
      let cause: unknown;
      try {
        const response = await fetchOnce(url, { ...init, headers, ...(signal && { signal }) });
        if (response.status !== 429 && response.status < 500) return response;
        await response.body?.cancel();
        problem = `answers ${response.status}`;
        const asked = response.status === 429 && response.headers.get('retry-after');
        if (asked) {
          waitMs = retryAfterMs(asked) ?? waitMs;
          problem += `, retry after ${asked}${/\D/.test(asked) ? '' : ' s'}`;
        }
      } catch (error) {
        this.throwIfAborted();
        cause = error;
        const inner = error instanceof Error && error.cause ? error.cause : error;
        problem = `cannot be reached (${reason(inner)})`;
      }
      if (attempt > this.retries || waitMs > maxWaitMs) {
        throw new HubUnavailable(
          'io',
          `hub: ${this.endpoint} ${problem} (attempts: ${attempt}). Try again later.`,
          { cause },
        );
      }
      await this.wait(waitMs);
    }
  };

  /** Errors of the library as ours. */
  private async translate(error: unknown): Promise<unknown> {
    if (error instanceof KvError) return error;
    if (error instanceof HubApiError) {
      const { statusCode } = error;
      const hint = [401, 404].includes(statusCode) ? await this.similarNames() : '';
      return this.refusal(statusCode, undefined, hint);
    }
    this.throwIfAborted();
    const { name } = this.repository;
    const message = `hub: the answer about ${name} is unusable (${reason(error)}). Try again later.`;
    return error instanceof SyntaxError
      ? new KvError('format', message, { cause: error })
      : new HubUnavailable('io', message, { cause: error });
  }

  private refusal(status: number, file: string | undefined, hint = ''): KvError {
    const { name, revision } = this.repository;
    const what = `${name}${file === undefined ? '' : `/${file}`} at revision "${revision}"`;
    if (status === 401 || status === 403) {
      const next = this.token
        ? `the token has no access to it. Accept the model's terms at ${this.endpoint}/${name}, or use another token.`
        : `it is private, gated, or does not exist. Check the name; for a gated model accept its terms at ${this.endpoint}/${name} and set HF_TOKEN.`;
      return new KvError('io', `hub: ${what} is refused (${status}): ${next}${hint}`);
    }
    if (status === 404) {
      return new KvError(
        'usage',
        `hub: there is no ${what}. Check owner, name and revision.${hint}`,
      );
    }
    return new KvError('io', `hub: ${what} is answered with ${status}. Try again later.`);
  }

  /** Names on the hub that are like the one that was asked for; nothing if it will not say. */
  private async similarNames(): Promise<string> {
    const { name } = this.repository;
    const names: string[] = [];
    try {
      const search = { query: name.slice(name.indexOf('/') + 1) };
      const how = { hubUrl: this.endpoint, fetch: this.request };
      for await (const found of listModels({ search, limit: 20, ...how })) names.push(found.name);
    } catch {
      this.throwIfAborted();
    }
    const near = nearest(
      name,
      names.filter((other) => other !== name),
    );
    return near.length > 0 ? ` Similar names: ${near.join(', ')}.` : '';
  }

  private backoffMs(attempt: number): number {
    return (this.options.retryDelayMs ?? 500) * 2 ** (attempt - 1);
  }

  private async wait(ms: number): Promise<void> {
    const { signal } = this.options;
    await pause(ms, undefined, signal && { signal }).catch(() => this.throwIfAborted());
  }

  private throwIfAborted(): void {
    const { signal } = this.options;
    if (!signal?.aborted) return;
    throw new KvError('aborted', 'hub: the signal was aborted. Run it again to go on.', {
      cause: signal.reason,
    });
  }
}

/** @param header seconds, or a date; undefined if it is neither */
function retryAfterMs(header: string): number | undefined {
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
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

function onDisk<T>(path: string, work: Promise<T>): Promise<T> {
  return work.catch((cause: unknown) => {
    throw diskError(path, cause);
  });
}

function diskError(path: string, cause: unknown): KvError {
  const full = (cause as NodeJS.ErrnoException).code === 'ENOSPC';
  const next = full
    ? 'Free some space, or set HF_HOME to a larger disk, and run it again.'
    : 'Check the folder and its permissions.';
  const what = full ? 'the disk is full' : reason(cause);
  return new KvError('io', `hub: ${path} cannot be written: ${what}. ${next}`, { cause });
}

/** The three names with the fewest changes of letters from `name`. */
function nearest(name: string, names: readonly string[]): string[] {
  const ranked = names.map((other) => ({ other, distance: editDistance(name, other) }));
  return ranked
    .sort((a, b) => a.distance - b.distance)
    .slice(0, 3)
    .map(({ other }) => other);
}

/** Letters to insert, delete or replace (Levenshtein 1966), whatever their case. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const differs = a[i - 1].toLowerCase() === b[j - 1].toLowerCase() ? 0 : 1;
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + differs));
    }
    row = next;
  }
  return row[b.length];
}

function reason(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
