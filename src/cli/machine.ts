import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from './options.ts';

/** The machine in a line: processor, cores, memory, Node. */
export function machine(): string {
  return `${cpus()[0]?.model ?? 'unknown processor'}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.versions.node}`;
}

/** The commit that the program was built from, where its folder is a repository. */
export function sourceCommit(): string | undefined {
  if (!existsSync(join(packageRoot(), '.git'))) return undefined;
  const args = ['-C', packageRoot(), 'describe', '--always', '--dirty'];
  const { status, stdout } = spawnSync('git', args, { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}
