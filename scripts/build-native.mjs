/**
 * Compiles native/ to a Node-API addon with the system's compiler:
 * build/native/<platform>-<arch>/kernels.node. Without a compiler it says so in one line, leaves the
 * reason in reason.txt there, and the program runs on WebAssembly.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const sourceDir = new URL('../native/', import.meta.url);
const defaultOutDir = new URL(
  `../build/native/${process.platform}-${process.arch}/`,
  import.meta.url,
);

export const flags = [
  '-O2',
  '-std=gnu11',
  '-fPIC',
  '-fvisibility=hidden',
  '-pthread',
  '-Wall',
  '-Wextra',
];
// What of -O3 the kernels gain from: it takes a sixth more time to compile.
flags.push('-fpeel-loops', '-funswitch-loops');
// Products and sums are rounded each, so that every target gives the contract's bits.
flags.push('-ffp-contract=off', '-fno-math-errno', '-fno-trapping-math', '-fno-strict-aliasing');
// gcc 12 sees overflows in loops that it unrolled itself.
flags.push('-Wno-unknown-warning-option', '-Wno-aggressive-loop-optimizations');

const avx2 = ['-mavx2', '-mfma', '-mf16c', '-mbmi', '-mbmi2', '-mpopcnt'];
const avx512 = ['f', 'bw', 'vl', 'dq', 'vnni', 'vbmi', 'vpopcntdq'].map((x) => `-mavx512${x}`);
/** ARM's; scripts/check-neon.mjs compiles it too. */
export const neon = ['-march=armv8.2-a+dotprod'];
/** As native/addon.c lists them. */
const setsOf = { x64: { avx2, avx512: [...avx2, ...avx512] }, arm64: { neon } };
const sets = setsOf[process.arch] ?? {};
const units = [
  ...Object.entries({ ...sets, baseline: [] }).map(([name, own]) => ({
    source: 'kernels.c',
    object: `${name}.o`,
    own: [...own, `-DTARGET=kernels_${name}`],
  })),
  ...['addon', 'memory', 'pool'].map((name) => ({
    source: `${name}.c`,
    object: `${name}.o`,
    own: [],
  })),
];
const linkFlags =
  process.platform === 'darwin' ? ['-bundle', '-undefined', 'dynamic_lookup'] : ['-shared'];

async function hashOfSources() {
  const names = (await readdir(sourceDir)).filter((name) => /\.[ch]$/.test(name)).sort();
  const texts = await Promise.all(names.map((name) => readFile(new URL(name, sourceDir), 'utf8')));
  return createHash('sha256')
    .update(JSON.stringify([names, texts, units, flags, linkFlags]))
    .digest('hex');
}

/** @throws Error whose message is one line */
async function compile(outDir, addon) {
  if (process.platform === 'win32') throw new Error('there is no build for Windows');
  const headers = createRequire(import.meta.url)('node-api-headers').include_dir;
  const folder = await mkdtemp(fileURLToPath(new URL('objects-', outDir)));
  try {
    const cc = (...args) => run('cc', args, { cwd: folder });
    const source = fileURLToPath(sourceDir);
    await Promise.all(
      units.map((unit) =>
        cc(...flags, ...unit.own, `-I${headers}`, '-c', source + unit.source, '-o', unit.object),
      ),
    );
    const objects = units.map(({ object }) => object);
    await cc(...linkFlags, '-pthread', ...objects, '-o', 'kernels.node');
    // Renamed, so that a program that has the old one loaded keeps it.
    await rename(`${folder}/kernels.node`, addon);
  } catch (error) {
    if (error.code === 'ENOENT') throw new Error('cc not found at build', { cause: error });
    const line = /error:.*|undefined.*/.exec(error.stderr ?? '')?.[0] ?? error.message;
    throw new Error(`cc failed at build: ${line.split('\n')[0]}`, { cause: error });
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** @param outDir URL of a folder, made if it is not there */
export async function buildNative(outDir = defaultOutDir) {
  const [addon, stamp, reasonFile] = ['kernels.node', 'sources.sha256', 'reason.txt'].map(
    (name) => new URL(name, outDir),
  );
  const hash = await hashOfSources();
  if (existsSync(addon) && existsSync(stamp) && (await readFile(stamp, 'utf8')) === hash) {
    console.log('native: up to date');
    return;
  }
  const started = Date.now();
  await mkdir(outDir, { recursive: true });
  await Promise.all([addon, stamp, reasonFile].map((file) => rm(file, { force: true })));
  try {
    await compile(outDir, addon);
  } catch (error) {
    await writeFile(reasonFile, error.message);
    console.log(`native: ${error.message}; the program runs on WebAssembly, more slowly`);
    return;
  }
  await writeFile(stamp, hash);
  console.log(`native: kernels.node in ${((Date.now() - started) / 1000).toFixed(1)} s`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildNative();
