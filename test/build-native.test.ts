/** The build where there is no compiler, or one that fails, and the program that comes of it. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { packageRoot, skipBecause, temporaryFolder } from './forged.ts';

const folder = temporaryFolder();
const script = pathToFileURL(join(packageRoot, 'scripts', 'build-native.mjs')).href;

/** Builds into a folder of its own. @param path where the shell would look for cc */
function build(name: string, path: string) {
  const out = join(folder, name);
  const source = `import { buildNative } from ${JSON.stringify(script)};
    await buildNative(new URL(${JSON.stringify(pathToFileURL(`${out}/`).href)}));`;
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '--eval', source],
    { encoding: 'utf8', env: { ...process.env, PATH: path }, timeout: 20_000 },
  );
  expect(stderr).toBe('');
  expect(status).toBe(0);
  expect(existsSync(join(out, 'kernels.node'))).toBe(false);
  return { line: stdout, reason: readFileSync(join(out, 'reason.txt'), 'utf8') };
}

test('without a compiler the build says so in one line and goes on', () => {
  const { line, reason } = build('none', join(folder, 'nowhere'));
  expect(reason).toBe('cc not found at build');
  expect(line).toBe(
    'native: cc not found at build; the program runs on WebAssembly, more slowly\n',
  );
});

test('with a compiler that fails it quotes the error', () => {
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'cc'), "#!/bin/sh\necho 'x.c:1: error: no such thing' >&2\nexit 1\n");
  chmodSync(join(bin, 'cc'), 0o755);
  const { line, reason } = build('failing', bin);
  expect(reason).toBe('cc failed at build: error: no such thing');
  expect(line.split('\n').length).toBe(2);
});

test('the program then runs on WebAssembly and tells why', ({ skip }) => {
  const dist = join(packageRoot, 'dist');
  const what = 'the program without an addon';
  if (!existsSync(join(dist, 'cli.js'))) {
    skipBecause(skip, what, 'dist/cli.js is not there; npm run build makes it');
  }
  // Inside the package, where its dependencies are found.
  const copy = mkdtempSync(join(packageRoot, 'build', 'without-addon-'));
  afterAll(() => rmSync(copy, { recursive: true }));
  cpSync(dist, copy, { recursive: true });
  const platformFolder = join(copy, 'native', `${process.platform}-${process.arch}`);
  rmSync(join(platformFolder, 'kernels.node'), { force: true });
  writeFileSync(join(platformFolder, 'reason.txt'), 'cc not found at build');
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [join(copy, 'cli.js'), ...args], { encoding: 'utf8' });
  expect(run('info', '--system').stdout).toMatch(
    /^backend +wasm: .*\(no native addon: cc not found at build\)$/m,
  );
  const forced = run('generate', 'a', '--max-tokens', '1', '--backend', 'native');
  expect(forced.status).toBe(1);
  expect(forced.stderr).toMatch(
    /no native addon: cc not found at build\. Use --backend auto or wasm/,
  );
});
