/**
 * A Hugging Face hub on this machine: the endpoints that downloads use, large files redirected to
 * a second server as the real one does, and whatever faults a test puts in the way.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface HubRepository {
  /** full hash of the commit that `main` is */
  readonly commit: string;
  readonly files: Readonly<Record<string, Uint8Array>>;
}

export interface HubRequest {
  readonly path: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** Answers the request itself and returns true, or lets the hub answer. */
export type Fault = (request: IncomingMessage, response: ServerResponse) => boolean;

export interface HubServer {
  readonly url: string;
  /** Everything that was asked, oldest first; paths of the second server begin with `/cdn/`. */
  readonly requests: HubRequest[];
  readonly repositories: Record<string, HubRepository>;
  /** Asked in turn before the hub answers. */
  readonly faults: Fault[];
  close(): Promise<void>;
}

/** Files of this size and more are stored apart and known by their sha256, as Git LFS does. */
export const largeFileBytes = 1000;

/** sha256 of a large file, git's hash of a small one. */
export function hubHash(bytes: Uint8Array): string {
  if (bytes.length >= largeFileBytes) return createHash('sha256').update(bytes).digest('hex');
  return createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
}

/** The first `times` requests whose path contains `part` are answered by `answer`. */
export function fault(
  part: string,
  times: number,
  answer: (response: ServerResponse, request: IncomingMessage) => void,
): Fault {
  let left = times;
  return (request, response) => {
    if (left === 0 || !request.url?.includes(part)) return false;
    left--;
    answer(response, request);
    return true;
  };
}

/** Sends a status with headers and no body. */
export function status(code: number, headers: Record<string, string> = {}) {
  return (response: ServerResponse) => void response.writeHead(code, headers).end();
}

/** Announces all the bytes asked for, sends `sentBytes` of them, and drops the connection. */
export function breakOff(bytes: Uint8Array, sentBytes: number) {
  return (response: ServerResponse, request: IncomingMessage) => {
    const rest = bytes.subarray(writeRange(request, response, bytes.length));
    response.write(rest.subarray(0, sentBytes), () => response.destroy());
  };
}

export async function startHub(repositories: Record<string, HubRepository>): Promise<HubServer> {
  const requests: HubRequest[] = [];
  const faults: Fault[] = [];
  const serve = (answer: (request: IncomingMessage, response: ServerResponse) => void) =>
    createServer((request, response) => {
      const { range, authorization } = request.headers;
      requests.push({ path: request.url ?? '', range, authorization });
      if (!faults.some((fails) => fails(request, response))) answer(request, response);
    });

  const cdn = serve((request, response) => {
    const hash = request.url?.split('/').pop();
    const files = Object.values(repositories).flatMap(({ files }) => Object.values(files));
    const bytes = files.find((file) => hubHash(file) === hash);
    if (!bytes) return status(404)(response);
    response.end(bytes.subarray(writeRange(request, response, bytes.length)));
  });
  const cdnUrl = await listen(cdn);

  const hub = serve((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://hub');
    const json = (value: unknown) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify(value));
    };
    if (pathname === '/api/models') {
      const query = searchParams.get('search') ?? '';
      const names = Object.keys(repositories).filter((name) => name.includes(query.slice(0, 4)));
      return json(names.map((id) => ({ id, _id: id })));
    }
    const [, api, name, action, revision, path] =
      /^(\/api\/models)?\/([^/]+\/[^/]+)(?:\/(tree|revision|resolve)\/([^/]+)(?:\/(.*))?)?$/.exec(
        pathname,
      ) ?? [];
    const repository = repositories[name ?? ''];
    if (!repository) return status(404, { 'x-error-code': 'RepoNotFound' })(response);
    const { commit, files } = repository;
    if (revision !== undefined && revision !== 'main' && revision !== commit) {
      return status(404, { 'x-error-code': 'RevisionNotFound' })(response);
    }
    if (api && action === 'tree') return json(Object.entries(files).map(treeEntry));
    if (api) return json({ id: name, _id: name, sha: commit, lastModified: 0 });
    const bytes = files[decodeURIComponent(path ?? '')];
    if (!bytes) return status(404, { 'x-error-code': 'EntryNotFound' })(response);
    const etag = `"${hubHash(bytes)}"`;
    if (bytes.length < largeFileBytes) {
      response.setHeader('x-repo-commit', commit).setHeader('etag', etag);
      response.end(bytes.subarray(writeRange(request, response, bytes.length)));
      return;
    }
    status(302, {
      location: `${cdnUrl}/cdn/${hubHash(bytes)}`,
      'x-repo-commit': commit,
      'x-linked-etag': etag,
      'x-linked-size': String(bytes.length),
    })(response);
  });
  return {
    url: await listen(hub),
    requests,
    repositories,
    faults,
    close: async () => {
      for (const server of [hub, cdn]) {
        server.closeAllConnections();
        await new Promise((done) => server.close(done));
      }
    },
  };
}

function treeEntry([path, bytes]: [string, Uint8Array]) {
  const oid = hubHash(bytes);
  const entry = { type: 'file', path, size: bytes.length, oid };
  if (bytes.length < largeFileBytes) return entry;
  return { ...entry, oid: '0'.repeat(40), lfs: { oid, size: bytes.length, pointerSize: 130 } };
}

/** Writes the head of the answer to a request for all or the end of a file. @returns where it begins */
function writeRange(request: IncomingMessage, response: ServerResponse, sizeBytes: number): number {
  const start = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1];
  if (start === undefined) {
    response.writeHead(200, { 'content-length': sizeBytes });
    return 0;
  }
  response.writeHead(206, {
    'content-length': sizeBytes - Number(start),
    'content-range': `bytes ${start}-${sizeBytes - 1}/${sizeBytes}`,
  });
  return Number(start);
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
