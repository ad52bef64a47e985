// Installs the peer that tests and benchmarks compare with, llama.cpp through node-llama-cpp, into
// .peer/, which git ignores. It is never a dependency. --ignore-scripts keeps it from compiling
// llama.cpp for ten minutes; the prebuilt binary comes as a package of its own.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const version = '3.22.1';
const folder = fileURLToPath(new URL('../.peer', import.meta.url));
const flags = ['--ignore-scripts', '--omit=optional', '--no-package-lock'];
const binary = `@node-llama-cpp/${process.platform === 'darwin' ? 'mac' : process.platform}-${process.arch}${process.platform === 'darwin' && process.arch === 'arm64' ? '-metal' : ''}`;

mkdirSync(folder, { recursive: true });
writeFileSync(`${folder}/package.json`, '{ "private": true, "type": "module" }\n');
for (const name of ['node-llama-cpp', binary]) {
  execFileSync('npm', ['install', ...flags, `${name}@${version}`], {
    cwd: folder,
    stdio: 'inherit',
  });
}
