/** `h1bkv info --system`: what this machine can compute with, what it takes, and why. */
import { KvError } from '../errors/errors.ts';
import type { BackendChoice } from '../kernels/kernels.ts';
import { backendChoices, createKernels } from '../kernels/select.ts';
import { machine } from './machine.ts';
import { packageVersion } from './options.ts';

interface BackendReport {
  readonly name: BackendChoice;
  readonly works: boolean;
  /** What it would be, or why it does not work. */
  readonly about: string;
}

/** Starts each backend once, which is the only sure way to know. */
export async function systemReport() {
  const named = process.env['H1BKV_BACKEND'] || undefined;
  const chosen = await tried('auto');
  const backends: BackendReport[] = [];
  for (const name of backendChoices) {
    if (name !== 'auto') backends.push(await tried(name));
  }
  return {
    version: packageVersion(),
    machine: machine(),
    platform: `${process.platform}-${process.arch}`,
    chosen: {
      about: chosen.about,
      works: chosen.works,
      reason: named === undefined ? 'the fastest that works here' : `H1BKV_BACKEND is ${named}`,
    },
    backends,
  };
}

async function tried(name: BackendChoice): Promise<BackendReport> {
  try {
    const kernels = await createKernels(name);
    const about = kernels.description;
    kernels.dispose();
    return { name, works: true, about };
  } catch (error) {
    if (!(error instanceof KvError)) throw error;
    return { name, works: false, about: error.message };
  }
}

export function systemLines(report: Awaited<ReturnType<typeof systemReport>>): string[] {
  const { version, machine, platform, chosen, backends } = report;
  return [
    `h1b-kv    ${version}`,
    `machine   ${machine}, ${platform}`,
    `backend   ${chosen.about}`,
    `because   ${chosen.reason}`,
    'each',
    ...backends.map(
      ({ name, works, about }) => `  ${name.padEnd(17)}${works ? about : `no: ${about}`}`,
    ),
  ];
}
