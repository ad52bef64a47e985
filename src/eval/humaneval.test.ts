/** Completions of HumanEval's form, run for what they are: right, wrong, or meant to do harm. */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { afterAll, expect, test } from 'vitest';
import { jsonLines, textIn } from './data.ts';
import { programOf } from './humaneval.ts';
import { closePython, runPython } from './python-node.ts';

afterAll(closePython);

const problem = {
  prompt: 'def double(x: int) -> int:\n    """Twice x.\n    >>> double(2)\n    4\n    """\n',
  test: 'def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n',
  entryPoint: 'double',
};
const run = (written: string, timeoutMs = 20_000) =>
  runPython(programOf(problem, written), { timeoutMs });

test('a right function passes, a wrong or broken one does not', async () => {
  expect(await run('    return 2 * x\n')).toEqual({ ok: true });
  expect(await run('    return x + 2\n')).toEqual({ ok: false, error: 'AssertionError' });
  expect((await run('\n')).ok).toBe(false);
});

test('a function that never ends is stopped', async () => {
  expect(await run('    while True: pass\n', 500)).toEqual({ ok: false, error: 'timed out' });
});

const file = fileURLToPath(
  new URL('../../../shared/data/eval/HumanEval.jsonl.gz', import.meta.url),
);
const isThere = existsSync(file);
if (!isThere) {
  process.stderr.write(`skipped: part of src/eval/humaneval.test.ts: ${file} is not there\n`);
}

test.skipIf(!isThere)(
  'the solutions that come with HumanEval pass (8 of them)',
  { timeout: 120_000 },
  async () => {
    const text = gunzipSync(readFileSync(file)).toString();
    const rows = jsonLines({ name: 'HumanEval.jsonl', text });
    expect(rows.length).toBe(164);
    // In one program, as each start of an interpreter takes its time.
    const programs = rows
      .filter((_, i) => i % 21 === 0)
      .map((row) => {
        const [prompt, test, entryPoint] = ['prompt', 'test', 'entry_point'].map((column) =>
          textIn(row, column),
        );
        return programOf({ prompt, test, entryPoint }, textIn(row, 'canonical_solution'));
      });
    const outcome = await runPython(programs.join('\n'), { timeoutMs: 60_000 });
    expect(outcome).toEqual({ ok: true });
  },
);
