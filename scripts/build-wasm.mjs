/** Compiles native/ to WebAssembly with npm's clang: build/wasm/kernels[-shared][-relaxed].wasm. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const sourceDir = new URL('../native/', import.meta.url);
const outDir = new URL('../build/wasm/', import.meta.url);

const compileFlags = ['--target=wasm32', '-O3', '-ffreestanding', '-std=c11', '-Wall', '-Wextra'];
compileFlags.push('-msimd128', '-mbulk-memory', '-mmutable-globals', '-mnontrapping-fptoint');
// Stack first: an overflow then traps instead of overwriting data.
const linkFlags = ['--no-entry', '--import-memory', '--max-memory=4294967296', '--stack-first'];
linkFlags.push('-z', 'stack-size=262144', '--export=__stack_pointer', '--export=__heap_base');

const relaxations = [
  { suffix: '', flags: [] },
  { suffix: '-relaxed', flags: ['-mrelaxed-simd'] },
];
// pool.c alone has to do with threads. What a shared memory is linked to must all have atomics.
const memories = [
  { suffix: '', compile: [], link: [] },
  { suffix: '-shared', compile: ['-matomics'], link: ['--shared-memory'] },
];
const nameOf = (memory, relaxation) => `kernels${memory.suffix}${relaxation.suffix}`;

/** The addon alone has these: a change in them must not cost a compilation here. */
const ofAddon = /^(addon|memory|simd-x86|simd-portable|simd-wide-avx2|simd-wide-avx512)\./;

async function readSources() {
  const names = (await readdir(sourceDir))
    .filter((name) => /\.[ch]$/.test(name) && !ofAddon.test(name))
    .sort();
  const texts = names.map((name) => readFile(new URL(name, sourceDir), 'utf8'));
  return Object.fromEntries((await Promise.all(texts)).map((text, i) => [names[i], text]));
}

/** Writes beside the target and renames, so that a reader never sees half a file. */
async function replaceFile(url, data) {
  const temporary = new URL(`${url.href}.${process.pid}.tmp`);
  await writeFile(temporary, data);
  await rename(temporary, url);
}

/** The compiler prints what is wrong; its exception carries only every file there is. */
async function run(command, flags, files) {
  try {
    return await command(flags, files);
  } catch (error) {
    throw new Error(`wasm: the compiler failed (${error.constructor.name} ${error.code})`);
  }
}

export async function buildWasm() {
  const sources = await readSources();
  const hash = createHash('sha256')
    .update(JSON.stringify([sources, compileFlags, linkFlags, relaxations, memories]))
    .digest('hex');
  const stamp = new URL('sources.sha256', outDir);
  const names = relaxations.flatMap((r) => memories.map((m) => nameOf(m, r)));
  const outputs = names.map((name) => new URL(`${name}.wasm`, outDir));
  const current = existsSync(stamp) && (await readFile(stamp, 'utf8')) === hash;
  if (current && outputs.every((url) => existsSync(url))) {
    console.log('wasm: up to date');
    return;
  }
  const started = Date.now();
  const { commands, runLLVM } = await import('@yowasp/clang');
  // Loads the compiler; left to the first command, it would print its progress.
  await runLLVM(null, {}, { fetchProgress: () => {} });
  await mkdir(outDir, { recursive: true });
  const sizes = [];
  const compile = async (unit, flags) => {
    const command = [...compileFlags, ...flags, '-c', `${unit}.c`, '-o', `${unit}.o`];
    const files = await run(commands.clang, command, sources);
    return { [`${unit}.o`]: files[`${unit}.o`] };
  };
  for (const relaxation of relaxations) {
    const kernels = await compile('kernels', ['-matomics', ...relaxation.flags]);
    for (const memory of memories) {
      const name = nameOf(memory, relaxation);
      const objects = { ...kernels, ...(await compile('pool', memory.compile)) };
      const command = [...linkFlags, ...memory.link, ...Object.keys(objects), '-o', 'kernels.wasm'];
      const linked = await run(commands['wasm-ld'], command, objects);
      await replaceFile(new URL(`${name}.wasm`, outDir), linked['kernels.wasm']);
      sizes.push(`${name} ${(linked['kernels.wasm'].length / 1024).toFixed(0)} KiB`);
    }
  }
  await replaceFile(stamp, hash);
  console.log(`wasm: ${sizes.join(', ')} in ${((Date.now() - started) / 1000).toFixed(1)} s`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildWasm();
