import type * as FileSystem from 'node:fs';
import type * as VirtualMachine from 'node:vm';

/** What the program below is told; all of it is plain text and numbers. */
export interface SandboxTask {
  /** folder of the package `pyodide`, with a slash at its end */
  readonly folder: string;
  /** `snapshot`: write a started interpreter to stdout. `run`: start from one and run a program. */
  readonly task: 'snapshot' | 'run';
}

/** What `run` is sent on stdin. */
export interface SandboxProgram {
  readonly code: string;
  readonly timeoutMs: number;
}

/** WebAssembly memory of an interpreter that has started, measured 30 MiB, with some room. */
const interpreterBytes = 64 * 2 ** 20;
/** Objects on the JavaScript side of the interpreter; it needs 30 MiB. */
const javaScriptMiB = 256;
const pageBytes = 65536;

/**
 * Flags of Node for the child process. Even with an object of Node's own realm in its hands, such as
 * the RangeError that Node throws when it formats a stack trace on a full stack, a program could
 * compile no JavaScript, change no prototype that Node relies on, and do nothing beyond reading the
 * package `pyodide`: no other file, no process, no thread, no addon.
 */
export function sandboxFlags(folder: string, memoryBytes: number): string[] {
  const permission = '--permission';
  return [
    // Node 20 knows it by its first name only.
    process.allowedNodeEnvironmentFlags.has(permission) ? permission : '--experimental-permission',
    `--allow-fs-read=${folder}*`,
    '--disallow-code-generation-from-strings',
    '--frozen-intrinsics',
    `--wasm-max-mem-pages=${Math.ceil((interpreterBytes + memoryBytes) / pageBytes)}`,
    `--max-old-space-size=${javaScriptMiB}`,
    '--no-warnings',
  ];
}

/** Source text of the CommonJS program that a child process of `runPython` executes. */
export function sandboxSource(task: SandboxTask): string {
  return `'use strict';
    const guest = ${JSON.stringify({ shell: String(shell), start: String(start) })};
    (${host})(require('node:fs'), require('node:vm'), ${JSON.stringify(task)}, guest);`;
}

/**
 * The trusted half. Only strings, numbers and arrays made by the guest's own realm are handed to
 * the guest, and of what the guest returns only a string is believed: no object of this realm,
 * through whose prototypes a guest could reach `process`, is ever within its reach.
 *
 * `run` reads the snapshot from file descriptor 3, writes "ready" and a newline to stdout, reads a
 * `SandboxProgram` up to the end of stdin, and writes a `PythonResult`, both as JSON.
 */
async function host(
  fs: typeof FileSystem,
  vm: typeof VirtualMachine,
  { folder, task }: SandboxTask,
  guest: { readonly shell: string; readonly start: string },
): Promise<void> {
  const readAll = async (stream: AsyncIterable<Buffer>): Promise<Buffer> => {
    const parts: Buffer[] = [];
    for await (const part of stream) parts.push(part);
    return Buffer.concat(parts);
  };
  // An object without prototype: globalThis.constructor must not be this realm's Object.
  const realm = vm.createContext(Object.create(null), {
    codeGeneration: { strings: false, wasm: true },
  });
  const evaluate = (source: string, options: VirtualMachine.RunningScriptOptions = {}): unknown =>
    vm.runInContext(`'use strict';${source}`, realm, options);
  const allocate = evaluate('(length) => new Uint8Array(length)') as (length: number) => Uint8Array;
  const give = (bytes: Uint8Array): Uint8Array => {
    const given = allocate(bytes.length);
    given.set(bytes);
    return given;
  };
  const text = (name: string): string => fs.readFileSync(folder + name, 'utf8');
  // import() in a script is answered with an error of this realm, so there shall be none.
  const script = (name: string): string =>
    text(name)
      .replace(/(?<![\w$.])import\(/g, 'notImported(')
      .replaceAll('import.meta.url', '""')
      .replace('export default _createPyodideModule;', '');

  evaluate(`(${guest.shell})()`);
  evaluate(script('pyodide.js'));
  evaluate(script('pyodide.asm.mjs'));
  const image = task === 'run' ? await readAll(fs.createReadStream('', { fd: 3 })) : undefined;
  const made = await (evaluate(`(${guest.start})`) as typeof start)(
    give(fs.readFileSync(folder + 'pyodide.asm.wasm')),
    give(fs.readFileSync(folder + 'python_stdlib.zip')),
    text('pyodide-lock.json'),
    image && give(image),
  );
  if (made !== undefined) {
    fs.writeFileSync(1, made);
    return;
  }
  fs.writeSync(1, 'ready\n');
  const input = (await readAll(process.stdin)).toString();
  // Nothing was sent: the parent has no use for this process any more, or is gone.
  if (input === '') return;
  const { code, timeoutMs } = JSON.parse(input) as SandboxProgram;
  let error: unknown;
  try {
    // The parent kills this process sooner; a process whose parent is gone ends by itself.
    error = evaluate(`run(${JSON.stringify(code)})`, { timeout: Math.ceil(timeoutMs) + 1000 });
  } catch {
    // What was thrown may be a trap of the guest, so it is not looked at.
  }
  const failed = typeof error === 'string' ? error.slice(0, 1000) : 'the interpreter broke down';
  fs.writeSync(1, JSON.stringify(failed === '' ? { ok: true } : { ok: false, error: failed }));
  process.exit();
}

/**
 * The untrusted half begins here: what follows runs in a realm that has nothing but the language.
 * This makes it look like a bare JavaScript shell, which is all that Pyodide needs.
 */
function shell(): void {
  const decode = (bytes: Uint8Array, label: string): string => {
    let latin1 = '';
    for (let at = 0; at < bytes.length; at += 4096) {
      latin1 += String.fromCharCode(...bytes.subarray(at, at + 4096));
    }
    return label === 'latin1' ? latin1 : decodeURIComponent(escape(latin1));
  };
  const encodeInto = (text: string, bytes: Uint8Array): { written: number } => {
    const latin1 = unescape(encodeURIComponent(text));
    for (let at = 0; at < latin1.length; at++) bytes[at] = latin1.charCodeAt(at);
    return { written: latin1.length };
  };
  const silent = (): void => undefined;
  Object.assign(globalThis, {
    // Pyodide takes itself to be in a shell because of the first two, Emscripten to be in a worker.
    read: silent,
    load: silent,
    WorkerGlobalScope: Object,
    console: { log: silent, warn: silent, error: silent, info: silent, debug: silent },
    performance: { now: () => Date.now() },
    setTimeout: silent,
    clearTimeout: silent,
    crypto: {
      getRandomValues(bytes: Uint8Array) {
        for (let at = 0; at < bytes.length; at++) bytes[at] = Math.random() * 256;
      },
    },
    TextDecoder: function (label = 'utf-8') {
      return { decode: (bytes: Uint8Array) => decode(bytes, label) };
    },
    TextEncoder: function () {
      return { encodeInto };
    },
  });
  // Node answers these with errors of its own realm.
  const { WebAssembly } = globalThis as unknown as { WebAssembly: Record<string, unknown> };
  delete WebAssembly.compileStreaming;
  delete WebAssembly.instantiateStreaming;
}

/** What the guest's realm holds, as far as it is used. */
interface GuestRealm {
  readbuffer: (path: string) => Uint8Array;
  run: (code: string) => string;
  _createPyodideModule: unknown;
  loadPyodide(options: object): Promise<{
    setStdout(options: { write: (bytes: Uint8Array) => number }): void;
    setStderr(options: { write: (bytes: Uint8Array) => number }): void;
    runPython(code: string): unknown;
    makeMemorySnapshot(): Uint8Array;
  }>;
}

/**
 * Starts Pyodide. Without a snapshot it returns one. With one it defines the global function
 * `run(code)`, which returns '' or the last line of a traceback.
 */
async function start(
  wasm: Uint8Array,
  library: Uint8Array,
  lockFile: string,
  snapshot: Uint8Array | undefined,
): Promise<Uint8Array | undefined> {
  const realm = globalThis as unknown as GuestRealm;
  realm.readbuffer = (path) => (path.endsWith('.wasm') ? wasm : library);
  const python = await realm.loadPyodide({
    indexURL: '/',
    lockFileContents: JSON.parse(lockFile),
    createPyodideModule: realm._createPyodideModule,
    jsglobals: {},
    stdin: () => null,
    // Sets are ordered alike in every run.
    env: { PYTHONHASHSEED: '0' },
    ...(snapshot === undefined ? { _makeSnapshot: true } : { _loadSnapshot: snapshot }),
  });
  if (snapshot === undefined) {
    // What programs import most need not be loaded in every run.
    python.runPython(`
import bisect, collections, copy, datetime, decimal, fractions, functools, hashlib, heapq
import itertools, json, math, operator, random, re, statistics, string, time, typing
random.seed(0)`);
    return python.makeMemorySnapshot();
  }
  const swallow = { write: (bytes: Uint8Array) => bytes.length };
  python.setStdout(swallow);
  python.setStderr(swallow);
  const execute = python.runPython(`
lambda code: exec(compile(code, 'program.py', 'exec'), {'__name__': '__main__'})`) as (
    code: string,
  ) => void;
  realm.run = (code) => {
    try {
      execute(code);
      return '';
    } catch (thrown) {
      const { message, type } = thrown as { message: string; type?: string };
      const lines = message.trim().split('\n');
      // A message may have several lines; the first of them names the exception.
      return lines.findLast((line) => type && line.startsWith(type)) ?? lines[lines.length - 1];
    }
  };
  return undefined;
}
