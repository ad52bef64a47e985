import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const examples = readdirSync(`${root}examples`).filter((file) => file.endsWith('.mjs'));

test.each(examples)('examples/%s runs as it stands', (file) => {
  const output = execFileSync(process.execPath, [`examples/${file}`], {
    cwd: root,
    encoding: 'utf8',
    timeout: 60_000,
  });
  expect(output).toMatch(/\d+ positions in \d+ bytes/);
});

test('the README shows the example that runs', () => {
  const readme = readFileSync(`${root}README.md`, 'utf8');
  const [, block] = /```js\n([\s\S]*?)```/.exec(readme) ?? [];
  expect(block).toBe(readFileSync(`${root}examples/generate.mjs`, 'utf8'));
});
