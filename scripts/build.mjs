// Builds everything that start and test need: the kernels as WebAssembly and as an addon, and the
// bundles for Node and for browsers, each with its kernels beside it, and the types of the library.
import { cpSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'tsdown';
import { buildNative } from './build-native.mjs';
import { buildWasm } from './build-wasm.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const shared = { cwd: root, config: false, dts: false, fixedExtension: false, logLevel: 'error' };
const targets = [
  {
    outDir: 'dist',
    platform: 'node',
    target: 'node20.20',
    entry: { index: 'src/index.ts', cli: 'src/cli/cli.ts' },
  },
  {
    outDir: 'dist/browser',
    platform: 'browser',
    target: 'es2023',
    entry: { index: 'src/index.ts' },
    deps: { alwaysBundle: /./, onlyBundle: false },
  },
];
const types = { outDir: 'dist', clean: false, entry: { index: 'src/index.ts' } };

const notStamp = (path) => !path.endsWith('.sha256');

await buildWasm();
await buildNative();
for (const target of targets) {
  await build({ ...shared, ...target });
  cpSync(`${root}build/wasm`, `${root}${target.outDir}/wasm`, {
    recursive: true,
    filter: notStamp,
  });
}
cpSync(`${root}build/native`, `${root}dist/native`, { recursive: true, filter: notStamp });
await build({ ...shared, ...types, platform: 'node', dts: { emitDtsOnly: true } });
