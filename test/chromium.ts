/** Chromium, for tests of what a browser makes of a page. */
import { spawn } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';

export const chromium = process.env.CHROMIUM_PATH ?? '/usr/bin/chromium';

/** A browser that knows of no other. `failed` fails should it end by itself, or take too long. */
export function openChromium(url: string) {
  const quiet = ['no-first-run', 'disable-background-networking', 'disable-component-update'];
  const flags = ['headless', 'no-sandbox', 'disable-gpu', 'disable-sync', ...quiet];
  const profile = mkdtempSync(join(tmpdir(), 'h1bkv-chromium-'));
  const args = [...flags, `user-data-dir=${profile}`];
  // A group of its own, so that all its processes end with it.
  const browser = spawn(chromium, [...args.map((flag) => `--${flag}`), url], {
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const errors = text(browser.stderr);
  const exit = new Promise<void>((resolve) => browser.once('exit', () => resolve()));
  const kill = () => {
    const isRunning = browser.exitCode === null && browser.signalCode === null;
    if (isRunning && browser.pid !== undefined) process.kill(-browser.pid, 'SIGKILL');
  };
  const late = pause(60_000, 'gave no answer', { ref: false });
  const failed = Promise.race([exit.then(() => 'ended without an answer'), late]).then(
    async (what): Promise<never> => {
      kill();
      throw new Error(`Chromium ${what}: ${await errors}`);
    },
  );
  failed.catch(() => {});
  return {
    failed,
    close: async () => {
      kill();
      await exit;
      // Its other processes end a moment later.
      await rm(profile, { recursive: true, force: true, maxRetries: 10 });
    },
  };
}
