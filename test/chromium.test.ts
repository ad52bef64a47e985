/**
 * The library in a real browser: Chromium, at CHROMIUM_PATH or /usr/bin/chromium, opens a page that
 * runs the bundle and posts what it found to a server in this process.
 */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { beforeAll, describe, expect, test } from 'vitest';
import { loadModel, Session } from '../src/index.ts';
import { chromium, openChromium } from './chromium.ts';
import { firstTokens, type Answer } from './fixtures/first-tokens.mjs';
import { embeddedModel, packageRoot, say } from './forged.ts';

const folders: Record<string, string> = {
  engine: join(packageRoot, 'dist', 'browser'),
  fixtures: join(packageRoot, 'test', 'fixtures'),
  models: join(packageRoot, 'models'),
};
const missing = [chromium, join(folders.engine, 'index.js')].filter((path) => !existsSync(path));
if (missing.length > 0) {
  const next = 'npm run build makes dist; CHROMIUM_PATH may name another Chromium';
  say(`skipped: test/chromium.test.ts: there is no ${missing.join(' and no ')}; ${next}`);
}

const contentTypes: Record<string, string> = {
  js: 'text/javascript',
  json: 'application/json',
  mjs: 'text/javascript',
  wasm: 'application/wasm',
};
/** What a server must send for a page to share memory between threads. */
const isolation = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
};
const scripts = {
  page: `<script type="module" src="/fixtures/browser-run.mjs"></script>`,
  worker: `<script>new Worker('/fixtures/browser-run.mjs', { type: 'module' })</script>`,
};

describe.skipIf(missing.length > 0)('in Chromium', { timeout: 120_000 }, () => {
  let expected: Answer['ids'];
  beforeAll(async () => {
    expected = (await firstTokens({ loadModel, Session }, embeddedModel, 8)).ids;
  });

  test('a worker computes on one thread, and says why', async () => {
    const answer = await ask('worker', {});
    expect(answer.description).toMatch(/ 1 thread \(the page is not cross-origin isolated\)$/);
    expect(firstOf(answer)).toEqual(expected);
  });

  test('a worker of an isolated page shares memory between threads', async () => {
    const answer = await ask('worker', isolation);
    expect(answer.description).toBe('wasm: relaxed SIMD, 2 threads');
    expect(firstOf(answer)).toEqual(expected);
  });

  test('an isolated page itself, which may not wait, computes on one thread', async () => {
    const answer = await ask('page', isolation);
    expect(answer.description).toMatch(/ 1 thread \(a page's main thread may not wait/);
    expect(firstOf(answer)).toEqual(expected);
  });
});

/** Those that Node computed too; for h1b only if the adapter beside the model was found. */
function firstOf({ ids }: Answer): Answer['ids'] {
  return { f16: ids.f16.slice(0, 8), h1b: ids.h1b.slice(0, 8) };
}

/** Opens the page with these headers. @returns what it posts */
async function ask(where: keyof typeof scripts, headers: Record<string, string>): Promise<Answer> {
  let receive: (answer: string) => void = () => {};
  const posted = new Promise<string>((resolve) => (receive = resolve));
  const server = createServer((request, response) => {
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    if (request.method === 'GET') return void serve(request, response, scripts[where]);
    void text(request).then(receive);
    response.end();
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const browser = openChromium(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  try {
    const answer = JSON.parse(await Promise.race([posted, browser.failed])) as Answer;
    expect(answer).not.toHaveProperty('error');
    const { f16, h1b } = answer.tokensPerSecond;
    say(
      `Chromium, ${where}, ${answer.description}: f16 ${f16.toFixed(0)}, h1b ${h1b.toFixed(0)} tokens/s`,
    );
    return answer;
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
  }
}

/** Serves the page, or a file of one of the folders, whole or the range that is asked for. */
async function serve(request: IncomingMessage, response: ServerResponse, script: string) {
  const { pathname } = new URL(request.url ?? '', 'http://server');
  if (pathname === '/') {
    response.setHeader('content-type', 'text/html').end(`<!doctype html>${script}`);
    return;
  }
  const [, folder, ...path] = pathname.split('/');
  const bytes = await readFile(join(folders[folder] ?? '', ...path)).catch(() => undefined);
  if (!bytes) return void response.writeHead(404).end();
  const type = contentTypes[pathname.split('.').pop() ?? ''] ?? 'application/octet-stream';
  response.setHeader('content-type', type);
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  if (first === undefined) return void response.end(bytes);
  response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${bytes.length}` });
  response.end(bytes.subarray(Number(first), Number(last) + 1));
}
