import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdtemp, readFile, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openFileSource, writeFileAtomically } from './file-node.ts';
import { blobSource, memorySource, urlSource, type ByteSource } from './source.ts';

const bytes = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 31 + (i >> 8)) & 255);
let folder: string;
let server: Server;
let base: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'h1b-kv-source-'));
  await writeFile(join(folder, 'bytes'), bytes);
  server = createServer((request, response) => {
    const mode = request.url?.slice(1);
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    if (mode === 'absent') return void response.writeHead(404).end();
    if (request.method === 'HEAD') {
      return void response.writeHead(200, { 'content-length': bytes.length }).end();
    }
    if (!range || mode === 'whole') return void response.writeHead(200).end(bytes);
    const [from, to] = [Number(range[1]), Number(range[2])];
    const total = mode === 'hidden' ? {} : { 'content-range': `bytes ${from}-${to}/100000` };
    const extra = from === 0 ? 0 : mode === 'short' ? -1 : mode === 'long' ? 1 : 0;
    response.writeHead(206, total);
    if (mode === 'broken' && from > 0) {
      response.write(bytes.subarray(from, from + 2));
      return void setTimeout(() => response.destroy(), 20);
    }
    response.end(bytes.subarray(from, to + 1 + extra));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(async () => {
  server.close();
  await rm(folder, { recursive: true });
});

const implementations: [string, () => Promise<ByteSource>][] = [
  ['memory', async () => memorySource(bytes, 'memory')],
  ['blob', async () => blobSource(new Blob([bytes]), 'blob')],
  ['file', () => openFileSource(join(folder, 'bytes'))],
  ['url', () => urlSource(`${base}/fine`)],
  ['url without Content-Range', () => urlSource(new URL(`${base}/hidden`))],
];

describe.each(implementations)('%s source', (_, open) => {
  test('reads exactly what was asked for', async () => {
    const source = await open();
    expect(source.sizeBytes).toBe(bytes.length);
    for (const [offset, length] of [
      [0, 1],
      [99_999, 1],
      [4_097, 70_001],
      [0, 100_000],
      [100_000, 0],
    ]) {
      const target = new Uint8Array(length);
      await source.read(offset, target);
      expect(Buffer.compare(target, bytes.subarray(offset, offset + length))).toBe(0);
    }
    await source.close();
  });

  test('fills a view over shared memory and nothing around it', async () => {
    const source = await open();
    const shared = new Uint8Array(new SharedArrayBuffer(3_000));
    await source.read(50_000, shared.subarray(1_000, 2_000));
    const expected = new Uint8Array(3_000);
    expected.set(bytes.subarray(50_000, 51_000), 1_000);
    expect(Buffer.compare(new Uint8Array(shared), expected)).toBe(0);
    await source.close();
  });

  test('refuses ranges outside, naming them', async () => {
    const source = await open();
    const needed = { name: 'KvError', code: 'format' };
    await expect(source.read(99_999, new Uint8Array(2))).rejects.toMatchObject(needed);
    await expect(source.read(-1, new Uint8Array(2))).rejects.toMatchObject(needed);
    await expect(source.read(2 ** 53, new Uint8Array(2))).rejects.toMatchObject(needed);
    await expect(source.read(99_999, new Uint8Array(2))).rejects.toThrow(/99999 to 100001.*100000/);
    await source.close();
  });
});

describe('urlSource', () => {
  test.each([
    ['whole', 'unsupported', /answered 200 to a Range request/],
    ['absent', 'io', /404/],
  ])('refuses a server that answers "%s"', async (mode, code, message) => {
    const opening = urlSource(`${base}/${mode}`);
    await expect(opening).rejects.toMatchObject({ name: 'KvError', code });
    await expect(opening).rejects.toThrow(message);
  });

  test.each([
    ['short', /gave 99 bytes; need 100/],
    ['long', /gave more than 100 bytes/],
    ['broken', /connection broke|gave 2 bytes/],
  ])('notices a "%s" answer', async (mode, message) => {
    const source = await urlSource(`${base}/${mode}`);
    const reading = source.read(100, new Uint8Array(100));
    await expect(reading).rejects.toMatchObject({ name: 'KvError', code: 'io' });
    await expect(reading).rejects.toThrow(message);
  });

  test('says that a host cannot be reached', async () => {
    await expect(urlSource('http://127.0.0.1:1/x')).rejects.toMatchObject({ code: 'io' });
  });
});

describe('files', () => {
  test('a missing file and a folder are refused', async () => {
    await expect(openFileSource(join(folder, 'no'))).rejects.toMatchObject({ code: 'io' });
    await expect(openFileSource(folder)).rejects.toThrow(/is not a file/);
  });

  test('a file that shrinks while open is noticed', async () => {
    const path = join(folder, 'shrinks');
    await writeFile(path, bytes);
    const source = await openFileSource(path);
    await truncate(path, 10);
    await expect(source.read(0, new Uint8Array(100))).rejects.toThrow(/ended at byte 10/);
    await source.close();
  });

  test('an atomic write leaves the whole file and no other', async () => {
    const path = join(folder, 'written');
    await writeFileAtomically(path, async (sink) => {
      await sink.write(bytes.subarray(0, 10));
      const shared = new Uint8Array(new SharedArrayBuffer(10));
      shared.set(bytes.subarray(10, 20));
      await sink.write(shared);
    });
    expect(new Uint8Array(await readFile(path))).toEqual(bytes.subarray(0, 20));
    expect((await readdir(folder)).filter((name) => name.startsWith('written'))).toEqual([
      'written',
    ]);
  });

  test('a failed write keeps the old file and removes the temporary one', async () => {
    const path = join(folder, 'kept');
    await writeFile(path, 'old');
    const failure = new Error('no more data');
    const writing = writeFileAtomically(path, async (sink) => {
      await sink.write(bytes);
      throw failure;
    });
    await expect(writing).rejects.toBe(failure);
    expect(await readFile(path, 'utf8')).toBe('old');
    expect((await readdir(folder)).filter((name) => name.startsWith('kept'))).toEqual(['kept']);
  });

  test('a folder that is not there, or a name that is taken by one, is an io error', async () => {
    const write = (path: string) => writeFileAtomically(path, (sink) => sink.write(bytes));
    await expect(write(join(folder, 'no', 'file'))).rejects.toMatchObject({ code: 'io' });
    const inner = await mkdtemp(join(folder, 'taken-'));
    await expect(write(inner)).rejects.toMatchObject({ code: 'io' });
    expect((await readdir(folder)).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });
});
