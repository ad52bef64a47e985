import { spawn, type ChildProcess } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Socket } from 'node:net';
import { dirname, sep } from 'node:path';
import { KvError } from '../errors/errors.ts';
import {
  sandboxFlags,
  sandboxSource,
  type SandboxProgram,
  type SandboxTask,
} from './python-sandbox-node.ts';

export interface PythonOptions {
  /** for the program alone; the start of an interpreter is not counted */
  readonly timeoutMs: number;
  /** what the program may use beside the interpreter itself; default 512 MiB */
  readonly memoryBytes?: number;
}

export interface PythonResult {
  /** whether the program ran to its end without an exception */
  readonly ok: boolean;
  /** last line of the traceback, "timed out" or "out of memory" */
  readonly error?: string;
}

/** A child process that runs one program and ends. */
interface Interpreter {
  readonly child: ChildProcess;
  readonly memoryBytes: number;
  /** true once it has written to stdout, false if it ended without */
  readonly spoke: Promise<boolean>;
  /** all that was written to stdout and stderr */
  readonly ended: Promise<{ output: Buffer; complaint: string }>;
}

const defaultMemoryBytes = 512 * 2 ** 20;
/**
 * Data of a process whose program does nothing: measured 300 MiB on Node 20 and 820 MiB on Node 24,
 * where V8 has reserved 512 MiB for compiled code. With room for what the loads of a start vary.
 */
const idleBytes = 1152 * 2 ** 20;

let snapshot: Promise<Buffer> | undefined;
let spare: Interpreter | undefined;

/**
 * Runs a Python program that nobody vouches for, such as one written by a language model, in
 * CPython compiled to WebAssembly, and throws away all that it printed.
 *
 * - The host's files, network, processes, environment: the interpreter lives in a JavaScript realm
 *   that has nothing but the language (python-sandbox-node.ts), so `import js`, ctypes or a walk
 *   through `__subclasses__` leads to nothing that could touch them. Should V8 or Node leak an
 *   object into that realm, `sandboxFlags` is the second wall, though Node 20 and 24 have no flag against the network.
 * - Endless loops: the process is killed after `timeoutMs`.
 * - Memory: WebAssembly and JavaScript have limits of their own, and on Linux the kernel caps
 *   all data of the process, about 1 GiB higher. (`ulimit -v` is no way: WebAssembly reserves 20 GiB
 *   of addresses.) Elsewhere nothing caps what JavaScript takes outside of its heap.
 * - The next run: every program has a process of its own, which starts from a snapshot of an
 *   interpreter that has seen no program. Runs are alike to the seed of `random`.
 * - Not its own verdict: what could lie about itself to a test could also lie to this.
 *
 * The first call takes 3 s to make the snapshot; after it a process starts in 0.4 s, and one is
 * kept ready.
 *
 * @throws KvError "backend" if no interpreter starts; never for what the program does
 */
export async function runPython(code: string, options: PythonOptions): Promise<PythonResult> {
  const { timeoutMs, memoryBytes = defaultMemoryBytes } = options;
  const image = await (snapshot ??= makeSnapshot());
  const { child, spoke, ended } = takeSpare(memoryBytes) ?? startInterpreter(image, memoryBytes);
  if (!(await spoke)) throw notStarted((await ended).complaint);
  // The next one starts while this program runs.
  spare ??= idle(startInterpreter(image, memoryBytes));

  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    child.kill('SIGKILL');
  }, timeoutMs);
  const program: SandboxProgram = { code, timeoutMs };
  child.stdin?.end(JSON.stringify(program));
  const { output, complaint } = await ended;
  clearTimeout(timer);
  return timedOut ? { ok: false, error: 'timed out' } : resultFrom(output.toString(), complaint);
}

/** Ends the interpreter that waits for a next program; it ends by itself with this process. */
export async function closePython(): Promise<void> {
  const waiting = spare;
  spare = undefined;
  waiting?.child.kill('SIGKILL');
  await waiting?.ended;
}

function resultFrom(output: string, complaint: string): PythonResult {
  const written = output.slice(output.indexOf('\n') + 1);
  if (written === '') {
    const memory = /out of memory|allocation failed/i.test(complaint);
    return { ok: false, error: memory ? 'out of memory' : 'the interpreter broke down' };
  }
  const result = JSON.parse(written) as PythonResult;
  return /^MemoryError|Array buffer allocation failed$/.test(result.error ?? '')
    ? { ok: false, error: 'out of memory' }
    : result;
}

async function makeSnapshot(): Promise<Buffer> {
  const { child, ended } = launch('snapshot', defaultMemoryBytes);
  const { output, complaint } = await ended;
  if (child.exitCode !== 0) throw notStarted(complaint);
  return output;
}

function startInterpreter(image: Buffer, memoryBytes: number): Interpreter {
  const interpreter = launch('run', memoryBytes);
  (interpreter.child.stdio[3] as Socket).end(image);
  return interpreter;
}

function takeSpare(memoryBytes: number): Interpreter | undefined {
  const taken = spare;
  if (taken === undefined) return undefined;
  spare = undefined;
  const gone = taken.child.exitCode !== null || taken.child.signalCode !== null;
  if (gone || taken.memoryBytes !== memoryBytes) {
    taken.child.kill('SIGKILL');
    return undefined;
  }
  for (const handle of handles(taken)) handle.ref();
  return taken;
}

/** Lets this process end although `interpreter` still runs. */
function idle(interpreter: Interpreter): Interpreter {
  for (const handle of handles(interpreter)) handle.unref();
  return interpreter;
}

function handles({ child }: Interpreter): (ChildProcess | Socket)[] {
  // As the type of a stream says nothing of the pipe that it is.
  return [child, ...(child.stdio as unknown as Socket[])];
}

function launch(task: SandboxTask['task'], memoryBytes: number): Interpreter {
  const folder = pyodideFolder();
  const source = sandboxSource({ folder, task });
  const node = [process.execPath, ...sandboxFlags(folder, memoryBytes), '-e', source];
  const dataKiB = Math.ceil((idleBytes + memoryBytes) / 1024);
  // No core dumps: they would be as large as what the program filled.
  const limited = [
    '/bin/sh',
    '-c',
    'ulimit -c 0; ulimit -d "$0"; exec "$@"',
    `${dataKiB}`,
    ...node,
  ];
  const [command, ...parameters] = process.platform === 'win32' ? node : limited;
  const child = spawn(command, parameters, {
    cwd: folder,
    env: {},
    stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    windowsHide: true,
  });
  // Writing to a process that has just ended is no error; how it ended is known from `ended`.
  for (const pipe of child.stdio) pipe?.on('error', () => undefined);

  const output: Buffer[] = [];
  const complaint: string[] = [];
  child.stdout.on('data', (bytes: Buffer) => output.push(bytes));
  child.stderr.on('data', (bytes: Buffer) => complaint.push(bytes.toString()));
  const ended = new Promise<void>((resolve) => {
    child.on('close', () => resolve());
    child.on('error', (error) => {
      complaint.push(error.message);
      resolve();
    });
  });
  return {
    child,
    memoryBytes,
    spoke: new Promise((resolve) => {
      child.stdout.once('data', () => resolve(true));
      void ended.then(() => resolve(false));
    }),
    ended: ended.then(() => ({ output: Buffer.concat(output), complaint: complaint.join('') })),
  };
}

function pyodideFolder(): string {
  try {
    const entry = createRequire(import.meta.url).resolve('pyodide');
    return realpathSync(dirname(entry)) + sep;
  } catch (cause) {
    throw new KvError('backend', 'python: the package pyodide is missing. Run "npm install".', {
      cause,
    });
  }
}

function notStarted(complaint: string): KvError {
  const reason = /^(\w*Error|FATAL ERROR): .*$/m.exec(complaint)?.[0] ?? complaint.slice(0, 500);
  return new KvError('backend', `python: the interpreter did not start: ${reason}`);
}
