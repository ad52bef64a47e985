/** The report of docs/report in Chromium, at the width of a telephone and of a desk. */
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, expect, test } from 'vitest';
import { chromium, openChromium } from './chromium.ts';
import { packageRoot, say } from './forged.ts';

const hasChromium = existsSync(chromium);
if (!hasChromium) {
  say(`skipped: test/report-page.test.ts: there is no ${chromium}; CHROMIUM_PATH may name another`);
}

interface Seen {
  /** of the page, and of all that it holds */
  readonly width: number;
  readonly scrollWidth: number;
  readonly errors: readonly string[];
  /** charts and tables that are shown */
  readonly charts: number;
  readonly tables: number;
}

/** Opens what it is told in a frame of a width, and posts what becomes of it. */
const host = (width: number) => `<!doctype html><meta charset="utf-8">
<iframe src="/report.html" style="width: ${width}px; height: 800px; border: 0"></iframe>
<script>
const frame = document.querySelector('iframe');
frame.onload = () => {
  const { document: page, failures } = frame.contentWindow;
  const { clientWidth: width, scrollWidth } = page.documentElement;
  const shown = (what) => [...page.querySelectorAll(what)].filter((e) => e.getBoundingClientRect().width > 0).length;
  page.querySelector('td')?.click();
  const seen = { width, scrollWidth, errors: failures, charts: shown('figure svg'), tables: shown('table') };
  fetch('/', { method: 'POST', body: JSON.stringify(seen) });
};
</script>`;

/** Collects what goes wrong in the page, from its beginning. */
const watcher = `<script>
window.failures = [];
addEventListener('error', ({ message }) => failures.push(message));
console.error = (...all) => failures.push(all.join(' '));
</script>`;

async function look(page: string, width: number): Promise<Seen> {
  let receive: (seen: string) => void = () => {};
  const posted = new Promise<string>((resolve) => (receive = resolve));
  const server = createServer((request, response) => {
    if (request.method === 'POST') {
      void text(request).then(receive);
      return void response.end();
    }
    response.setHeader('content-type', 'text/html');
    response.end(request.url === '/' ? host(width) : page.replace('<head>', `<head>${watcher}`));
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const browser = openChromium(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  try {
    return JSON.parse(await Promise.race([posted, browser.failed])) as Seen;
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
  }
}

describe.skipIf(!hasChromium)('the page of the report', { timeout: 120_000 }, () => {
  const page = hasChromium
    ? readFileSync(join(packageRoot, 'docs', 'report', 'report.html'), 'utf8')
    : '';

  test.each([400, 1200])('fits a window of %d, and runs without errors', async (width) => {
    const seen = await look(page, width);
    expect(seen.errors).toEqual([]);
    expect(seen.scrollWidth).toBe(seen.width);
    expect(seen.charts).toBeGreaterThan(3);
    expect(seen.tables).toBeGreaterThan(3);
  });

  test('and would be seen not to', async () => {
    const wide = page.replace('</main>', '<p style="width: 2000px">x</p></main><script>x</script>');
    const { scrollWidth, width, errors } = await look(wide, 400);
    expect(scrollWidth).toBeGreaterThan(width);
    expect(errors).toEqual([expect.stringContaining('x is not defined')]);
  });
});
