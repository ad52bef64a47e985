import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  breakOff,
  fault,
  hubHash,
  startHub,
  status,
  type HubServer,
} from '../../test/hub-server.ts';
import type { ErrorCode } from '../errors/errors.ts';
import { downloadFromHub, type HubOptions } from './hub-node.ts';

/** Set by tests of systems that have no links. */
const system = vi.hoisted(() => ({ hasLinks: true }));
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof fs>();
  const symlink: typeof fs.symlink = (...all) =>
    system.hasLinks ? real.symlink(...all) : Promise.reject(new Error('no links here'));
  return { ...real, symlink };
});

const utf8 = new TextEncoder();
const noise = (length: number, seed: number) =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + seed + (i >> 8) * 7) & 255);
const gguf = noise(300_000, 1);
const commit = 'a'.repeat(40);
const shardNames = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
const index = { weight_map: { b: shardNames[1], a: shardNames[0], c: shardNames[1] } };
const config = utf8.encode('{"model_type":"llama"}');

const repositories = () => ({
  'owner/one': { commit, files: { 'README.md': config, 'sub/one.gguf': gguf } },
  'owner/several': {
    commit,
    files: { 'model-Q8_0.gguf': gguf, 'model-F16.gguf': noise(500_000, 2), 'config.json': config },
  },
  'owner/tensors': {
    commit,
    files: {
      'config.json': config,
      'chat_template.jinja': utf8.encode('{{ x }}'),
      'model.safetensors': gguf,
    },
  },
  'owner/shards': {
    commit,
    files: {
      'config.json': config,
      'model.safetensors.index.json': utf8.encode(JSON.stringify(index)),
      [shardNames[0]]: noise(2000, 3),
      [shardNames[1]]: noise(3000, 4),
    },
  },
  'owner/evil': { commit, files: { '../../../evil.gguf': gguf } },
  'owner/windows': { commit, files: { '..\\evil.gguf': gguf } },
  'owner/empty': { commit, files: { 'README.md': config } },
});

let hub: HubServer;
let cacheDir: string;
const folders: string[] = [];
beforeAll(async () => {
  hub = await startHub(repositories());
});
beforeEach(() => {
  cacheDir = mkdtempSync(join(tmpdir(), 'h1bkv-hub-'));
  folders.push(cacheDir);
});
afterEach(() => {
  hub.faults.length = 0;
  hub.requests.length = 0;
  Object.assign(hub.repositories, repositories());
  system.hasLinks = true;
});
afterAll(async () => {
  await hub.close();
  for (const folder of folders) await fs.rm(folder, { recursive: true });
});

const download = (spec: string, options: HubOptions = {}) =>
  downloadFromHub(spec, { cacheDir, endpoint: hub.url, retryDelayMs: 1, token: '', ...options });
const error = (code: ErrorCode, pattern: RegExp) =>
  expect.objectContaining({ name: 'KvError', code, message: expect.stringMatching(pattern) });
const failing = (spec: string, code: ErrorCode, pattern: RegExp, options?: HubOptions) =>
  expect(download(spec, options)).rejects.toEqual(error(code, pattern));

const repoFolder = (repo = 'one') => join(cacheDir, `models--owner--${repo}`);
const blobs = (repo = 'one') => join(repoFolder(repo), 'blobs');
const blob = () => join(blobs(), hubHash(gguf));
const partial = () => `${blob()}.incomplete`;
const asked = (part: string) => hub.requests.filter(({ path }) => path.includes(part));

describe('what is taken', () => {
  test('the one GGUF file, into the shared layout, with progress', async () => {
    const seen: [number, number, string][] = [];
    const onProgress = (...all: [number, number, string]) => void seen.push(all);
    const found = await download('hf:owner/one', { onProgress });
    const folder = join(repoFolder(), 'snapshots', commit);
    expect(found).toEqual({ kind: 'gguf', folder, paths: [join(folder, 'sub/one.gguf')] });
    expect(readFileSync(found.paths[0]).equals(gguf)).toBe(true);
    expect(readlinkSync(found.paths[0])).toBe(`../../../blobs/${hubHash(gguf)}`);
    expect(readFileSync(join(repoFolder(), 'refs/main'), 'utf8')).toBe(commit);
    expect(readdirSync(blobs())).toEqual([hubHash(gguf)]);
    expect(seen.at(-1)).toEqual([gguf.length, gguf.length, 'sub/one.gguf']);
  });

  test('of several only the named or chosen one', async () => {
    await failing(
      'hf:owner/several',
      'usage',
      /2 GGUF files:\n +0\.3 MB {2}model-Q8_0\.gguf\n +0\.5 MB.*\n.*hf:owner\/several\/model-Q8_0\.gguf/,
    );
    const named = await download('hf:owner/several/model-F16.gguf@main');
    expect(named.paths[0]).toMatch(/model-F16\.gguf$/);
    const chosen = await download('hf:owner/several', { choose: (files) => files[0].path });
    expect(chosen.paths[0]).toMatch(/model-Q8_0\.gguf$/);
    await failing('hf:owner/several', 'usage', /2 GGUF/, { choose: () => 'other.gguf' });
  });

  test('safetensors with what lies beside them', async () => {
    const { kind, folder, paths } = await download('hf:owner/tensors');
    expect({ kind, paths }).toEqual({
      kind: 'safetensors',
      paths: [join(folder, 'model.safetensors')],
    });
    expect(readdirSync(folder).sort()).toEqual([
      'chat_template.jinja',
      'config.json',
      'model.safetensors',
    ]);
  });

  test('every shard that the index names', async () => {
    const { folder, paths } = await download('hf:owner/shards');
    expect(paths).toEqual(shardNames.map((name) => join(folder, name)));
    expect(existsSync(join(folder, 'config.json'))).toBe(true);
  });

  test('nothing when there is no model', async () => {
    await failing('hf:owner/empty', 'unsupported', /a model is a \.gguf/);
    await failing('hf:owner/empty/README.md', 'unsupported', /has README\.md/);
  });

  test.each(['[]', '{}', '{"weight_map":{"a":7}}', 'x'])('no index that is %s', async (text) => {
    const files = { 'model.safetensors.index.json': utf8.encode(text) };
    hub.repositories['owner/shards'] = { commit, files };
    await failing('hf:owner/shards', 'format', /no index of safetensors/);
  });

  test('no shard that is not in the repository', async () => {
    const evil = { weight_map: { a: '../../../../evil.safetensors' } };
    const files = { 'model.safetensors.index.json': utf8.encode(JSON.stringify(evil)) };
    hub.repositories['owner/shards'] = { commit, files };
    await failing('hf:owner/shards', 'usage', /no file "\.\.\/\.\./);
  });
});

describe('the cache', () => {
  test('serves a pinned file without the network', async () => {
    const { paths } = await download('hf:owner/one');
    hub.requests.length = 0;
    const again = await download(`hf:owner/one/sub/one.gguf@${commit}`);
    expect(again.paths).toEqual(paths);
    expect(hub.requests).toEqual([]);
  });

  test('needs no second download, nor one for a new commit with the same file', async () => {
    await download('hf:owner/one');
    await download('hf:owner/one');
    hub.repositories['owner/one'] = { commit: 'b'.repeat(40), files: { 'x.gguf': gguf } };
    const { paths } = await download('hf:owner/one');
    expect(paths[0]).toContain('b'.repeat(40));
    expect(asked('/cdn/')).toHaveLength(1);
  });

  test('serves what another tool has put there, when the hub cannot be reached', async () => {
    const folder = join(repoFolder(), 'snapshots', commit);
    for (const path of [folder, blobs(), join(repoFolder(), 'refs')]) {
      await fs.mkdir(path, { recursive: true });
    }
    await fs.writeFile(blob(), gguf);
    await fs.symlink(`../../blobs/${hubHash(gguf)}`, join(folder, 'one.gguf'));
    await fs.symlink('../../blobs/missing', join(folder, 'broken.gguf'));
    await fs.writeFile(join(repoFolder(), 'refs/main'), `${commit}\n`);
    const gone = await startHub({});
    await gone.close();
    const endpoint = gone.url;
    const found = await download('hf:owner/one', { endpoint });
    expect(found.paths).toEqual([join(folder, 'one.gguf')]);
    expect(found.note).toMatch(/cannot be reached.*ECONNREFUSED.*Using the copy in/);
    await failing('hf:owner/one/broken.gguf', 'io', /attempts: 5/, { endpoint });
    await fs.copyFile(blob(), join(folder, 'two.gguf'));
    const both = /attempts: 1.*does not serve either.*2 GGUF files/s;
    await failing('hf:owner/one', 'io', both, { endpoint });
    await failing('hf:owner/tensors', 'io', /cannot be reached/, { endpoint });
  });

  test('takes copies where there are no links', async () => {
    system.hasLinks = false;
    const { paths } = await download('hf:owner/one');
    expect((await fs.lstat(paths[0])).isFile()).toBe(true);
    expect(readFileSync(paths[0]).equals(gguf)).toBe(true);
  });

  test('stands where the environment says', async () => {
    vi.stubEnv('HF_HUB_CACHE', undefined);
    vi.stubEnv('HUGGINGFACE_HUB_CACHE', undefined);
    vi.stubEnv('HF_HOME', join(cacheDir, 'home'));
    vi.stubEnv('HF_ENDPOINT', hub.url);
    vi.stubEnv('HF_TOKEN', 'secret');
    const home = await downloadFromHub('hf:owner/one');
    vi.stubEnv('HF_HUB_CACHE', join(cacheDir, 'direct'));
    const direct = await downloadFromHub('hf:owner/one');
    vi.unstubAllEnvs();
    expect(home.folder).toContain(join(cacheDir, 'home', 'hub', 'models--owner--one'));
    expect(direct.folder).toContain(join(cacheDir, 'direct', 'models--owner--one'));
    expect(hub.requests[0].authorization).toBe('Bearer secret');
  });
});

describe('a broken connection', () => {
  test('is taken up where it broke', async () => {
    hub.faults.push(fault('/cdn/', 2, breakOff(gguf, 100_000)));
    const { paths } = await download('hf:owner/one');
    expect(readFileSync(paths[0]).equals(gguf)).toBe(true);
    const ranges = asked('/cdn/').map(({ range }) => range);
    expect(ranges[0]).toBeUndefined();
    expect(ranges).toHaveLength(3);
    expect(Number(ranges[2]?.match(/\d+/)?.[0])).toBeGreaterThan(0);
  });

  test('that breaks again and again is an error, and the next call goes on', async () => {
    hub.faults.push(fault('/cdn/', 5, breakOff(gguf, 50_000)));
    await failing('hf:owner/one', 'io', /broke off 5 times.*Run it again/);
    expect(readdirSync(blobs())).toEqual([`${hubHash(gguf)}.incomplete`]);
    expect(existsSync(join(repoFolder(), 'snapshots'))).toBe(false);
    const { paths } = await download('hf:owner/one');
    expect(readFileSync(paths[0]).equals(gguf)).toBe(true);
    expect(asked('/cdn/').at(-1)?.range).toMatch(/^bytes=[1-9]/);
  });

  test('starts over with a server that knows no ranges', async () => {
    await fs.mkdir(blobs(), { recursive: true });
    await fs.writeFile(partial(), noise(1000, 9));
    hub.faults.push(fault('/cdn/', 1, (response) => void response.end(gguf)));
    const { paths } = await download('hf:owner/one');
    expect(readFileSync(paths[0]).equals(gguf)).toBe(true);
  });

  test('leaves a partial file that is too long behind', async () => {
    await fs.mkdir(blobs(), { recursive: true });
    await fs.writeFile(partial(), noise(gguf.length + 5, 9));
    const { paths } = await download('hf:owner/one');
    expect(readFileSync(paths[0]).equals(gguf)).toBe(true);
  });

  test('of two downloads at once harms neither', async () => {
    hub.faults.push(fault('/cdn/', 2, breakOff(gguf, 100_000)));
    const both = await Promise.all([download('hf:owner/one'), download('hf:owner/one')]);
    for (const { paths } of both) expect(readFileSync(paths[0]).equals(gguf)).toBe(true);
  });
});

describe('a server that lies', () => {
  test.each([
    ['sends more', 'sent more', (bytes: Uint8Array) => Buffer.concat([bytes, bytes])],
    ['sends other bytes', 'removed: run it again', (bytes: Uint8Array) => bytes.map((b) => b ^ 1)],
  ])('and %s leaves nothing behind', async (_, message, change) => {
    hub.faults.push(fault('/cdn/', 1, (response) => void response.end(change(gguf))));
    await failing('hf:owner/one', 'format', new RegExp(message));
    expect(readdirSync(blobs())).toEqual([]);
    await download('hf:owner/one');
    expect(readdirSync(blobs())).toEqual([hubHash(gguf)]);
  });

  test('and sends less is asked for the rest', async () => {
    hub.faults.push(fault('/cdn/', 1, (response) => void response.end(gguf.subarray(0, 10))));
    const { paths } = await download('hf:owner/one');
    expect(readFileSync(paths[0]).equals(gguf)).toBe(true);
    hub.faults.push(fault('/cdn/', 9, (response) => void response.end(gguf.subarray(0, 10))));
    await fs.rm(repoFolder(), { recursive: true });
    await failing('hf:owner/one', 'io', /broke off 5 times/);
  });

  test('and sends another part, or has none, is an error', async () => {
    await fs.mkdir(blobs(), { recursive: true });
    await fs.writeFile(partial(), gguf.subarray(0, 1000));
    hub.faults.push(
      fault('/cdn/', 1, (response) => {
        response.writeHead(206, { 'content-range': 'bytes 7-9/10' }).end('abc');
      }),
    );
    await failing('hf:owner/one', 'format', /from 1000 on with "bytes 7-9\/10"/);
    expect(existsSync(partial())).toBe(false);
    await fs.writeFile(partial(), gguf.subarray(0, 1000));
    hub.faults.push(fault('/cdn/', 1, status(416)));
    await failing('hf:owner/one', 'format', /has none from 1000 on/);
    expect(existsSync(partial())).toBe(false);
  });

  test('and changes a small file is found out too', async () => {
    hub.faults.push(
      fault('/config.json', 1, (response) => void response.end('{"model_type":"other"}')),
    );
    await failing('hf:owner/tensors', 'format', /config\.json has the hash/);
    expect(readdirSync(blobs('tensors'))).toEqual([hubHash(utf8.encode('{{ x }}'))]);
  });

  test.each(['evil', 'windows'])('and names a file outside the folder (%s)', async (repo) => {
    await failing(`hf:owner/${repo}`, 'format', /must stay inside/);
    expect(existsSync(repoFolder(repo))).toBe(false);
    expect(readdirSync(cacheDir)).toEqual([]);
  });

  test('and gives a hash that is a path', async () => {
    const entry = { type: 'file', path: 'a.gguf', size: 5, oid: '../../evil' };
    hub.faults.push(fault('/tree/', 1, (response) => void response.end(JSON.stringify([entry]))));
    await failing('hf:owner/one', 'format', /hashes be hexadecimal/);
  });

  test.each([
    ['not JSON', 'format'],
    ['[{', 'format'],
    ['7', 'io'],
  ] as const)('and answers %j', async (text, code) => {
    hub.faults.push(fault('/tree/', 9, (response) => void response.end(text)));
    await failing('hf:owner/one', code, /unusable/);
  });

  test('and gives a commit that is a path', async () => {
    const answer = JSON.stringify({ id: 'x', _id: 'x', sha: '../..' });
    hub.faults.push(fault('/revision/', 1, (response) => void response.end(answer)));
    await failing('hf:owner/one', 'format', /has the commit/);
  });
});

describe('refusals', () => {
  test.each([401, 403])('%i says what to do about the token', async (code) => {
    hub.faults.push(fault('/api/models/', 2, status(code)));
    await failing('hf:owner/one', 'io', /private, gated, or does not exist.*set HF_TOKEN/);
    await failing('hf:owner/one', 'io', /terms at .*owner\/one, or use another token/, {
      token: 'x',
    });
  });

  test('a download may be refused as well', async () => {
    hub.faults.push(fault('/resolve/', 1, status(403)));
    await failing('hf:owner/one', 'io', /owner\/one\/sub\/one\.gguf.*refused \(403\)/);
  });

  test('404 names what is like it', async () => {
    await failing('hf:ownr/several', 'usage', /no ownr\/several.*Similar names: owner\/several/);
    await failing(
      'hf:owner/several/model-Q8.gguf',
      'usage',
      /"model-Q8\.gguf".*nearest: model-Q8_0/,
    );
    await failing('hf:owner/one@v9', 'usage', /at revision "v9"/);
    await failing(`hf:owner/one@${'c'.repeat(40)}`, 'usage', /at revision "ccc/);
  });

  test('429 is waited for as long as it says, a few times', async () => {
    hub.faults.push(fault('/tree/', 1, status(429, { 'retry-after': '1' })));
    const begin = performance.now();
    await download('hf:owner/one');
    expect(performance.now() - begin).toBeGreaterThan(950);
    hub.faults.push(fault('/tree/', 99, status(429, { 'retry-after': '0' })));
    await failing('hf:owner/several', 'io', /answers 429.*attempts: 5/);
    expect(asked('several/tree/')).toHaveLength(5);
  });

  test('429 is not waited for all day', async () => {
    hub.faults.push(fault('/tree/', 1, status(429, { 'retry-after': '3600' })));
    await failing('hf:owner/one', 'io', /retry after 3600 s \(attempts: 1\)/);
  });

  test('500 is tried again, then an error', async () => {
    hub.faults.push(fault('/revision/', 2, status(500)), fault('/cdn/', 2, status(503)));
    await download('hf:owner/one');
    hub.faults.push(fault('/revision/', 99, status(500)));
    const { note } = await download('hf:owner/one');
    expect(note).toMatch(/answers 500.*Using the copy/);
    await failing('hf:owner/several', 'io', /answers 500 \(attempts: 5/);
  });

  test.each([
    'owner/one',
    'hf:one',
    'hf:../one',
    'hf:owner/one/../x',
    'hf:owner/one@../x',
    'hf:owner/one/',
    'hf:owner/one@',
    'hf:/etc/passwd',
    'hf:owner/one/a\\b',
  ])('the call %j is wrong', (spec) => failing(spec, 'usage', /names no model/));

  test('an endpoint must be a URL', () =>
    failing('hf:owner/one', 'usage', /endpoint is "nowhere"/, { endpoint: 'nowhere' }));
});

test('the token goes to the hub and nowhere else', async () => {
  await download('hf:owner/one', { token: 'secret' });
  for (const { path, authorization } of hub.requests) {
    expect(authorization, path).toBe(path.startsWith('/cdn/') ? undefined : 'Bearer secret');
  }
  expect(asked('/cdn/')).toHaveLength(1);
});

test('the token does not follow a listing that goes on elsewhere', async () => {
  const elsewhere = await startHub(repositories());
  const link = `<${elsewhere.url}/api/models/owner/one/tree/${commit}>; rel="next"`;
  hub.faults.push(
    fault('/tree/', 1, (response) => void response.setHeader('link', link).end('[]')),
  );
  await download('hf:owner/one', { token: 'secret' });
  await elsewhere.close();
  expect(elsewhere.requests.map(({ authorization }) => authorization)).toEqual([undefined]);
});

describe('abort', () => {
  test('in mid-download stops, keeps what there is, and the next call goes on', async () => {
    const stop = new AbortController();
    // Half of the file, and then nothing more for ever.
    hub.faults.push(
      fault('/cdn/', 1, (response) => {
        response.writeHead(200, { 'content-length': gguf.length });
        response.write(gguf.subarray(0, 150_000));
      }),
    );
    const onProgress = (done: number) => void (done >= 150_000 && stop.abort());
    await failing('hf:owner/one', 'aborted', /Run it again/, { signal: stop.signal, onProgress });
    expect(readdirSync(blobs())).toEqual([`${hubHash(gguf)}.incomplete`]);
    await download('hf:owner/one');
    expect(asked('/cdn/')[1].range).toBe('bytes=150000-');
  });

  test('before and while waiting', async () => {
    await failing('hf:owner/one', 'aborted', /aborted/, { signal: AbortSignal.abort() });
    hub.faults.push(fault('/tree/', 1, status(429, { 'retry-after': '30' })));
    await failing('hf:owner/one', 'aborted', /aborted/, { signal: AbortSignal.timeout(100) });
  });
});

test('a full disk says so', async ({ skip }) => {
  if (!existsSync('/dev/full')) skip('there is no /dev/full on this system');
  await fs.mkdir(blobs(), { recursive: true });
  await fs.symlink('/dev/full', partial());
  await failing('hf:owner/one', 'io', /the disk is full. Free some space/);
});
