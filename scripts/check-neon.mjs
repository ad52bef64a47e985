/**
 * Compiles the NEON kernels and the portable ones for a 64-bit ARM, with scripts/check-neon.c, which
 * holds one against the other. Runs where a compiler for ARM is (Debian: gcc-aarch64-linux-gnu) and,
 * on another processor, qemu-aarch64 (qemu-user); says what is missing where not.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { flags, neon } from './build-native.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = join(root, 'build', 'neon');
const isArm = process.arch === 'arm64';
const compiler = isArm ? 'cc' : 'aarch64-linux-gnu-gcc';

function skip(reason) {
  console.log(`skipped: NEON kernels: ${reason}`);
  process.exit(0);
}

/** @returns whether there is such a program */
const runs = (program) => !spawnSync(program, ['--version']).error;

function run(program, args) {
  const { status, error, signal } = spawnSync(program, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) {
    console.error(`${program} failed: ${error?.message ?? signal ?? `exit code ${status}`}`);
    process.exit(1);
  }
}

if (!runs(compiler)) skip(`${compiler} is not installed`);
if (!isArm && !runs('qemu-aarch64')) skip('qemu-aarch64 is not installed');
mkdirSync(folder, { recursive: true });
const [unit, program] = [join(folder, 'neon.o'), join(folder, 'check-neon')];
run(compiler, [...flags, ...neon, '-DTARGET=kernels_neon', '-c', 'native/kernels.c', '-o', unit]);
const sources = ['scripts/check-neon.c', 'native/pool.c', unit];
run(compiler, [...flags, ...(isArm ? [] : ['-static']), ...sources, '-o', program]);
if (isArm) run(program, []);
else run('qemu-aarch64', ['-cpu', 'max', program]);
