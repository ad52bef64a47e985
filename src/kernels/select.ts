import { platform } from '#kernels-platform';
import { ensure, KvError } from '../errors/errors.ts';
import type { BackendChoice, InstructionSet, Kernels } from './kernels.ts';
import type { NativeOptions } from './native.ts';
import { ReferenceKernels } from './reference.ts';
import { createWasmKernels } from './wasm.ts';

/** What can be asked for in this version. */
export const backendChoices = [
  'auto',
  'native',
  'native-avx512',
  'native-avx2',
  'native-neon',
  'native-baseline',
  'wasm',
  'reference',
] as const satisfies readonly BackendChoice[];

/**
 * Starts a backend by name; `auto` is what the environment variable H1BKV_BACKEND names, else the
 * fastest that works here.
 * @param options threads: how many compute; the reference has one whatever is asked
 * @throws KvError "unsupported" for a backend that this version does not have, "backend" if it
 *   cannot start, "usage" if the environment names none
 */
export async function createKernels(
  name: BackendChoice,
  options: { threads?: number } = {},
): Promise<Kernels> {
  const choice = name === 'auto' ? fromEnvironment() : name;
  switch (choice) {
    case 'reference':
      return new ReferenceKernels();
    case 'wasm':
      return createWasmKernels(options);
    case 'native':
      return createNativeKernels(options);
    case 'native-avx512':
    case 'native-avx2':
    case 'native-neon':
    case 'native-baseline':
      return createNativeKernels({
        ...options,
        instructionSet: choice.slice('native-'.length) as InstructionSet,
      });
    case 'auto':
      return fastest(options);
    default:
      throw new KvError(
        'unsupported',
        `kernels: no backend "${choice}" in this version; there are ${backendChoices.join(', ')}.`,
      );
  }
}

function fromEnvironment(): BackendChoice {
  const name = platform.environmentBackend() ?? 'auto';
  const choice = backendChoices.find((known) => known === name);
  ensure(
    choice !== undefined,
    'usage',
    () => `H1BKV_BACKEND: no backend "${name}"; there are ${backendChoices.join(', ')}.`,
  );
  return choice;
}

/** @throws KvError "backend" with a next step */
function createNativeKernels(options: NativeOptions): Kernels {
  try {
    return platform.createNativeKernels(options);
  } catch (cause) {
    const problem = backendProblem(cause);
    throw new KvError('backend', `${problem} Use --backend auto or wasm.`, { cause });
  }
}

/** The addon, else threads, else one thread (a page may forbid workers), else plain TypeScript. */
async function fastest(options: { threads?: number }): Promise<Kernels> {
  const reasons: string[] = [];
  if (platform.hasAddons) {
    try {
      return platform.createNativeKernels(options);
    } catch (noAddon) {
      reasons.push(backendProblem(noAddon).replace(/\.$/, ''));
    }
  }
  try {
    return await createWasmKernels({ ...options, reasons });
  } catch (threaded) {
    reasons.push(backendProblem(threaded));
  }
  try {
    return await createWasmKernels({ threads: 1, shared: false, reasons });
  } catch (single) {
    return new ReferenceKernels(backendProblem(single));
  }
}

function backendProblem(error: unknown): string {
  if (error instanceof KvError && error.code === 'backend') return error.message;
  throw error;
}
