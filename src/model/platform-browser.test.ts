import { afterEach, expect, test, vi } from 'vitest';
import { forgeBytes } from '../bench/forge-node.ts';
import { tinyShape } from '../../test/forged.ts';
import { openModel } from './platform-browser.ts';

afterEach(() => vi.unstubAllGlobals());

/** Opens a model whose server answers like this where its adapter would be. */
async function adapterFrom(answer: () => Promise<Response>) {
  const bytes = await forgeBytes(tinyShape);
  const asked: string[] = [];
  vi.stubGlobal('fetch', async (url: string | URL, init?: RequestInit) => {
    asked.push(String(url));
    if (!String(url).includes('.gguf')) return answer();
    const [, first, last] = /(\d+)-(\d+)/.exec(new Headers(init?.headers).get('range') ?? '') ?? [];
    return new Response(bytes.slice(Number(first), Number(last) + 1), {
      status: 206,
      headers: { 'content-range': `bytes ${first}-${last}/${bytes.length}` },
    });
  });
  const { readSibling } = await openModel('https://models.test/tiny.gguf?key=1');
  const found = await readSibling('.adapter.safetensors');
  expect(asked.at(-1)).toBe('https://models.test/tiny.adapter.safetensors?key=1');
  return found;
}

test('the adapter beside a model is found', async () => {
  const bytes = Uint8Array.of(0, 255, 128, 10);
  expect(await adapterFrom(async () => new Response(bytes))).toEqual(bytes);
});

test.each([
  ['a server that has none', async () => new Response('none', { status: 404 })],
  ['an answer that the page may not read', () => Promise.reject(new TypeError('Failed to fetch'))],
  [
    'a server that shows its start page instead',
    async () => new Response('<p>', { headers: { 'content-type': 'text/html; charset=utf-8' } }),
  ],
])('no adapter is no error: %s', async (_, answer) => {
  expect(await adapterFrom(answer)).toBeUndefined();
});
