import { spawnSync } from 'node:child_process';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { closePython, runPython, type PythonResult } from './python-node.ts';
import { sandboxFlags } from './python-sandbox-node.ts';

/** Generous, as the machine may be busy; programs that end take a small part of it. */
const timeoutMs = 20_000;
const run = (code: string): Promise<PythonResult> => runPython(code, { timeoutMs });

const folder = mkdtempSync(join(realpathSync(tmpdir()), 'h1b-python-'));
const secret = join(folder, 'secret.txt');
const loot = join(folder, 'loot.txt');
const treasure = 'the treasure of the host';
let port = 0;
let connections = 0;
const server = createServer((_, response) => response.end(treasure));

beforeAll(async () => {
  writeFileSync(secret, treasure);
  process.env.H1B_TREASURE = treasure;
  server.on('connection', () => connections++);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  port = (server.address() as AddressInfo).port;
});

afterEach(() => {
  expect(connections).toBe(0);
  expect(readdirSync(folder)).toEqual(['secret.txt']);
  expect(readFileSync(secret, 'utf8')).toBe(treasure);
});

afterAll(async () => {
  await closePython();
  server.close();
  delete process.env.H1B_TREASURE;
  rmSync(folder, { recursive: true });
});

describe('a program that means well', () => {
  const answer = `
from typing import List

def below_zero(operations: List[int]) -> bool:
    balance = 0
    for step in operations:
        balance += step
        if balance < 0:
            return True
    return False
`;
  const tests = `
def check(candidate):
    assert candidate([]) == False
    assert candidate([1, 2, -4, 5, 6]) == True

check(below_zero)
`;

  it('is ok if it runs to its end', async () => {
    expect(await run(answer + tests)).toEqual({ ok: true });
  });

  it.each([
    ['a wrong answer', answer.replace('return True', 'return None') + tests, 'AssertionError'],
    ['a syntax error', 'def f(:\n  pass', 'SyntaxError: invalid syntax'],
    ['a message of several lines', 'raise ValueError("one\\ntwo")', 'ValueError: one'],
    [
      'letters beyond ASCII',
      `raise ValueError("${'ß😀'.repeat(50)}")`,
      `ValueError: ${'ß😀'.repeat(50)}`,
    ],
    ['a missing package', 'import numpy', "ModuleNotFoundError: No module named 'numpy'"],
    ['input', 'input()', 'EOFError: EOF when reading a line'],
    ['an exit', 'import sys; sys.exit(0)', 'SystemExit: 0'],
    ['an exit without exception', 'import os; os._exit(0)', 'Program terminated with exit(0)'],
  ])('is told of %s', async (_, code, error) => {
    expect(await run(code)).toEqual({ ok: false, error });
  });

  it('may use the standard library, classes and its own name', async () => {
    const code = `
import collections, dataclasses, hashlib, itertools, json, math, re
@dataclasses.dataclass
class Point:
    x: int
assert Point(1) == Point(1) and __name__ == '__main__'
assert hashlib.md5(b'').hexdigest().startswith('d41d8')
object()`;
    expect(await run(code)).toEqual({ ok: true });
  });

  it('is not confused with another that runs at the same time', async () => {
    const errors = await Promise.all(
      [1, 2, 3].map(async (n) => (await run(`1 / 0 if ${n} == 2 else ${n}`)).error),
    );
    expect(errors).toEqual([undefined, 'ZeroDivisionError: division by zero', undefined]);
  });
});

/** Tells what the attack, which puts its prey into \`got\`, came to. */
async function attack(lines: string): Promise<string> {
  const code = `
try:
${lines.replace(/^/gm, '    ')}
    outcome = 'got ' + repr(got)
except BaseException as error:
    outcome = 'blocked by ' + repr(error).replace(chr(10), ' ')
raise SystemExit(outcome)`;
  const { ok, error } = await run(code);
  expect(ok).toBe(false);
  return String(error);
}

const path = (name: string): string => JSON.stringify(name);

describe('a program that means harm', () => {
  it('is blocked in all that it tries', async () => {
    const attacks = {
      'read /etc/passwd': 'got = open("/etc/passwd").read()',
      'read a file': `got = open(${path(secret)}).read()`,
      'write a file': `got = open(${path(loot)}, "w").write("x")`,
      'run a command': 'import subprocess; got = subprocess.run(["id"])',
      'open a pipe': 'import os; got = os.popen("id").read()',
      'fork without end': 'import os\nwhile True: got = os.fork()',
      'start threads': 'import threading\nwhile True: threading.Thread(target=print).start()',
      'replace itself': 'import os; got = os.execv("/bin/sh", ["sh"])',
      'kill this test': `import os; got = os.kill(${process.pid}, 9)`,
      fetch: 'import urllib.request; got = urllib.request.urlopen("http://127.0.0.1:PORT")',
      connect: 'import socket; got = socket.create_connection(("127.0.0.1", PORT))',
      'send a datagram': `import socket
got = socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT))`,
      'fetch by Pyodide': 'from pyodide.http import *; got = open_url("http://127.0.0.1:PORT")',
      'use js.fetch': 'import js; got = js.fetch("http://127.0.0.1:PORT")',
      'use js.process': 'import js; got = js.process.exit()',
      'use js.require': 'import js; got = js.require("fs")',
      'run JavaScript': 'from pyodide.code import run_js; got = run_js("process.exit()")',
      'compile JavaScript': 'import js; got = js.toString.constructor("return process")()',
      'mount a folder': `import os, pyodide_js
os.mkdir("/host")
pyodide_js.mountNodeFS("/host", "/")
got = os.listdir("/host")`,
      'mount by file system': `import os
from pyodide_js import FS
os.mkdir("/root")
FS.mount(FS.filesystems.NODEFS, {}, "/root")
got = os.listdir("/root")`,
      'walk to an opener': `
def walk(kind):
    yield kind
    for below in type.__subclasses__(kind): yield from walk(below)
opener = next(kind for kind in walk(().__class__.__base__) if kind.__name__ == "FileIO")
got = opener(${path(secret)}).read()`,
      'read through /proc': 'got = open("/proc/self/environ").read()',
      'follow a link': `import os
os.symlink(${path(secret)}, "/tmp/link")
got = open("/tmp/link").read()`,
      'spawn by posix': 'import os; got = os.posix_spawn("/bin/id", ["id"], {})',
      'start a process': `import multiprocessing
got = multiprocessing.Process(target=print).start()`,
      'take a pseudo-terminal': 'import pty; got = pty.spawn("id")',
      'use js.Function': 'import js; got = js.Function.new("return process")()',
      'use js.eval': 'import js; got = js.eval("process")',
      'use js.globalThis': 'import js; got = js.globalThis.process.pid',
      'import a module of Node':
        'from pyodide.code import run_js; got = run_js("import(\'node:fs\')")',
      'start a worker': 'import js; got = js.Worker.new("data:,0")',
      'compile Python': `got = eval(compile('open(' + repr(${path(secret)}) + ')', 'x', 'eval'))`,
    };
    const code = `
import json
outcomes = {}
for name, lines in json.loads(${JSON.stringify(JSON.stringify(attacks)).replaceAll('PORT', String(port))}).items():
    try:
        scope = {}
        exec(lines, scope)
        outcomes[name] = 'got ' + repr(scope['got'])
    except (SyntaxError, KeyError, IndexError, StopIteration) as error:
        outcomes[name] = 'mistaken: ' + repr(error)
    except BaseException as error:
        outcomes[name] = type(error).__name__
raise SystemExit(json.dumps({name: text for name, text in outcomes.items() if ' ' in text} or len(outcomes)))`;
    const { error } = await run(code);
    expect(error).toBe(`SystemExit: ${Object.keys(attacks).length}`);
  });

  it('sees neither the environment nor the folders of the host', async () => {
    const outcome = await attack(
      'import os\ngot = (os.environ.get("H1B_TREASURE"), sorted(os.listdir("/")))',
    );
    expect(outcome).toBe("SystemExit: got (None, ['dev', 'home', 'lib', 'proc', 'tmp'])");
  });

  it('runs no shell by os.system', async () => {
    expect(await attack(`import os\ngot = os.system("touch ${loot}")`)).toBe('SystemExit: got -1');
  });

  it('finds no way out by ctypes, neither by JavaScript nor by the C library', async () => {
    const script = await run(
      'import ctypes\nctypes.CDLL(None).emscripten_run_script(b"process.exit()")',
    );
    expect(script.error).toBe('Code generation from strings disallowed for this context');
    const shell = await attack(`import ctypes\ngot = ctypes.CDLL(None).system(b"touch ${loot}")`);
    expect(shell).toMatch(/got -1|blocked/);
    const memory = await run('import ctypes\nctypes.string_at(0xfffffff0, 16)');
    expect(memory.error).toBe('memory access out of bounds');
  });

  it('finds nothing of the host in the objects of JavaScript', async () => {
    // Follows properties, and so prototypes, constructors and Pyodide's own innards.
    const outcome = await attack(`
import pyodide_js
from pyodide.ffi import JsProxy
forbidden = {'process', 'require', 'mainModule', 'getBuiltinModule', 'fetch', 'WebSocket'}
todo, seen, got = [pyodide_js], set(), set()
while todo and len(seen) < 500:
    thing = todo.pop(0)
    if not isinstance(thing, JsProxy) or thing.js_id in seen or hasattr(thing, 'byteLength'): continue
    seen.add(thing.js_id)
    for name in dir(thing):
        if name in forbidden: got.add(name)
        try: todo.append(getattr(thing, name))
        except Exception: pass
got = (sorted(got), len(seen))`);
    expect(outcome).toBe('SystemExit: got ([], 500)');
  });

  it.each([
    ['an endless loop', 'while True: pass'],
    [
      'one that catches all',
      'while True:\n  try:\n    while True: pass\n  except BaseException: pass',
    ],
    ['endless output', 'while True: print("x" * 1000)'],
    ['sleep', 'import time\ntime.sleep(1000)'],
    ['a regular expression', 'import re\nre.match(r"(a+)+$", "a" * 40 + "b")'],
  ])('is stopped in %s', async (_, code) => {
    expect(await runPython(code, { timeoutMs: 300 })).toEqual({ ok: false, error: 'timed out' });
  });

  it.each([
    ['one string', 'x = "a" * 10**9'],
    ['a list that grows', 'x = [0]\nwhile True: x += x'],
    ['a large number', 'x = 1 << 10**10'],
    ['more than this run may have', 'x = bytearray(200 * 2**20)', 100 * 2 ** 20],
  ])('runs out of memory by %s', async (_, code, memoryBytes = 256 * 2 ** 20) => {
    const result = await runPython(code, { timeoutMs, memoryBytes });
    expect(result).toEqual({ ok: false, error: 'out of memory' });
  });

  // Elsewhere no kernel limit holds what JavaScript takes outside of its heap.
  it.skipIf(process.platform !== 'linux')(
    'runs out of memory of the process (only on Linux)',
    async () => {
      const memoryBytes = 64 * 2 ** 20;
      const files = 'n = 0\nwhile True:\n  n += 1\n  open(f"/tmp/{n}", "wb").write(b"x" * 10**7)';
      expect(await runPython(files, { timeoutMs, memoryBytes })).toEqual({
        ok: false,
        error: 'out of memory',
      });
      const buffers = `
import pyodide_js
kept, Bytes = [], pyodide_js._module.HEAPU8.constructor
while True:
  kept.append(Bytes.new(10**7))
  kept[-1].fill(1)`;
      expect(await runPython(buffers, { timeoutMs, memoryBytes })).toEqual({
        ok: false,
        error: 'out of memory',
      });
    },
  );

  it.each([
    ['plain', '', /^RecursionError: /],
    [
      'unlimited',
      'import sys\nsys.setrecursionlimit(10**9)',
      /^RecursionError: |Maximum call stack/,
    ],
  ])('recurses without end: %s', async (_, before, error) => {
    const result = await run(`${before}\ndef f(n): return f(n + 1)\nf(0)`);
    expect(result.error).toMatch(error);
  });

  it('prints 100 MB into nowhere', async () => {
    expect(await run('for _ in range(100): print("x" * 10**6)')).toEqual({ ok: true });
  });

  it('leaves nothing to the next', async () => {
    const poison = `
import builtins, math, sys, js, pyodide_js
open('/tmp/left', 'w').write('x')
sys.modules['re'] = None
sys.setrecursionlimit(50)
math.sqrt = lambda x: 0
builtins.left = True
pyodide_js._module.HEAP8.constructor.prototype.left = True
builtins.len = builtins.exec = builtins.compile = lambda *_: 0`;
    expect(await run(poison)).toEqual({ ok: true });
    const next = `
import builtins, math, os, re, sys, pyodide_js
assert len('abc') == 3 and math.sqrt(4) == 2 and sys.getrecursionlimit() > 50
assert not hasattr(builtins, 'left') and not os.path.exists('/tmp/left')
assert not hasattr(pyodide_js._module.HEAP8, 'left')
exec(compile('assert True', 'x', 'exec'))`;
    expect(await run(next)).toEqual({ ok: true });
  });
});

describe('the second wall', () => {
  // What a program could do that holds the objects of Node itself.
  const probe = `'use strict';
    const attempts = {
      read: () => require('node:fs').readFileSync(${path(secret)}),
      list: () => require('node:fs').readdirSync(${path(folder)}),
      write: () => require('node:fs').writeFileSync(process.argv[1], 'x'),
      spawn: () => { if (require('node:child_process').spawnSync('true').error) throw 0; },
      thread: () => new (require('node:worker_threads').Worker)('0', { eval: true }),
      compile: () => new Function('return 1'),
      pollute: () => { Object.prototype.left = 1; },
    };
    for (const [name, attempt] of Object.entries(attempts)) {
      try { attempt(); console.log(name); } catch {}
    }`;
  const succeeded = (flags: readonly string[]): string[] => {
    const target = flags.length === 0 ? join(tmpdir(), `h1b-probe-${process.pid}`) : loot;
    const { stdout } = spawnSync(process.execPath, [...flags, '-e', probe, target], {
      encoding: 'utf8',
    });
    rmSync(target, { force: true });
    return stdout
      .split('\n')
      .filter(
        (name) =>
          name in { read: 1, list: 1, write: 1, spawn: 1, thread: 1, compile: 1, pollute: 1 },
      );
  };

  it('lets nothing through', () => {
    expect(succeeded(sandboxFlags('/nowhere/', 2 ** 28))).toEqual([]);
  });

  it('is what stops it', () => {
    expect(succeeded([])).toEqual([
      'read',
      'list',
      'write',
      'spawn',
      'thread',
      'compile',
      'pollute',
    ]);
  });
});
