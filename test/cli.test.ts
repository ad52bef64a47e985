/** The command line as people and programs use it: `node dist/cli.js` as a process of its own. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { forgeBytes } from '../src/bench/forge-node.ts';
import type { Finetuned } from '../src/cache/finetuned.ts';
import { adapterBytes, readAdapter } from '../src/model/adapter-file.ts';
import { packageRoot, say, temporaryFolder, tinyShape } from './forged.ts';

const cli = join(packageRoot, 'dist', 'cli.js');
const isBuilt = existsSync(cli);
if (!isBuilt) say('skipped: test/cli.test.ts: dist/cli.js is not there; npm run build makes it');

const folder = temporaryFolder();
const model = join(folder, 'tiny.gguf');
const truncated = join(folder, 'truncated.gguf');
beforeAll(async () => {
  const bytes = await forgeBytes(tinyShape);
  writeFileSync(model, bytes);
  writeFileSync(truncated, bytes.subarray(0, bytes.length / 2));
});

/** Runs a command to its end; one that has not ended after 20 s is a failure. */
function run(args: readonly string[], input = '') {
  const result = spawnSync(process.execPath, [cli, ...args], {
    input,
    encoding: 'utf8',
    timeout: 20_000,
    maxBuffer: 1 << 26,
  });
  expect(result.error).toBeUndefined();
  expect(result.signal).toBeNull();
  return { code: result.status, out: result.stdout, err: result.stderr };
}

/** A file with a letter of its header changed for another, and of the same length. */
function replaced(file: Buffer, before: string, after: string): Buffer {
  const bytes = Buffer.from(file);
  const at = bytes.indexOf(before);
  expect(at).toBeGreaterThan(0);
  bytes.write(after, at);
  return bytes;
}

const generateArgs = (...more: string[]) => ['generate', 'the cat', '--model', model, ...more];

describe.skipIf(!isBuilt)('h1bkv', () => {
  test('ends quietly when nobody reads its output any more', async () => {
    const child = spawn(process.execPath, [cli, 'eval', '--help']);
    child.stdout.destroy();
    let err = '';
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    const code = await new Promise((done) => child.on('close', done));
    expect({ code, err }).toEqual({ code: 0, err: '' });
  });

  describe('info', () => {
    test('--system says what computes here, why, and what else there is', () => {
      const { code, out } = run(['info', '--system', '--json']);
      expect(code).toBe(0);
      const report = JSON.parse(out) as { backends: { name: string; works: boolean }[] };
      expect(report).toMatchObject({
        machine: expect.stringMatching(/Node \d/),
        chosen: { works: true, about: expect.stringMatching(/^(native|wasm): /) },
      });
      const works = Object.fromEntries(report.backends.map(({ name, works }) => [name, works]));
      expect(works).toMatchObject({ wasm: true, reference: true });
      expect(Object.keys(works)).toContain('native-avx2');
      expect(run(['info', '--system']).out).toMatch(/^backend +(native|wasm): /m);
    });
  });

  describe('generate', () => {
    test('--json prints one document on stdout and nothing else', () => {
      const args = generateArgs('--cache', 'h1b:b=64', '--max-tokens', '5', '--threads', '1');
      const { code, out } = run([...args, '--json']);
      expect(code).toBe(0);
      const report = JSON.parse(out) as Record<string, unknown>;
      expect(report).toMatchObject({
        text: expect.any(String),
        tokens: expect.any(Number),
        promptTokens: expect.any(Number),
        prefillTokensPerSecond: expect.any(Number),
        decodeTokensPerSecond: expect.any(Number),
        cache: {
          method: 'h1b:b=64',
          spec: 'h1b:b=64,seed=0,t=0.07',
          bytes: expect.any(Number),
          bytesF16: expect.any(Number),
          ratio: expect.any(Number),
        },
        backend: expect.stringMatching(/^(native|wasm)$/),
        threads: 1,
        model: 'forged F32 seed 1',
      });
      const { bytes, bytesF16, ratio } = report.cache as Record<string, number>;
      // one page of 128 positions, 2 layers, 2 KV heads of 16 dimensions, keys and values
      expect(bytesF16).toBe(128 * 2 * 2 * (16 + 16) * 2);
      expect(bytes).toBe(128 * 2 * 2 * (8 + 8 + 4) + 2 * 2 * 64 * 16);
      expect(ratio).toBeCloseTo(bytes / bytesF16, 9);
    });

    test('the text comes on stdout, the numbers on stderr', () => {
      const json = run(generateArgs('--max-tokens', '8', '--json'));
      const { text } = JSON.parse(json.out) as { text: string };
      const { code, out, err } = run(generateArgs('--max-tokens', '8'));
      expect(code).toBe(0);
      expect(out.trimEnd()).toBe(`the cat${text}`.trimEnd());
      expect(err).toMatch(/tokens\/s/);
      expect(err).toMatch(/f16 would have taken/);
    });

    test('the prompt from a file and from standard input gives the same', () => {
      const file = join(folder, 'prompt.txt');
      writeFileSync(file, 'the cat');
      const rest = ['--model', model, '--max-tokens', '6', '--json'];
      const text = (result: { out: string }) => (JSON.parse(result.out) as { text: string }).text;
      const expected = text(run(['generate', 'the cat', ...rest]));
      expect(text(run(['generate', '--text', file, ...rest]))).toBe(expected);
      expect(text(run(['generate', '-', ...rest], 'the cat'))).toBe(expected);
    });

    test('a seed repeats, and the reference backend says the same', () => {
      const sampled = generateArgs('--max-tokens', '6', '--temperature', '1', '--json');
      const text = (args: string[]) => (JSON.parse(run(args).out) as { text: string }).text;
      expect(text([...sampled, '--seed', '5'])).toBe(text([...sampled, '--seed', '5']));
      const greedy = generateArgs('--max-tokens', '6', '--json');
      expect(text([...greedy, '--backend', 'reference'])).toBe(text(greedy));
    });

    test('a full context ends it, and says so; with --shift it goes on', () => {
      const rest = ['--context', '32', '--max-tokens', '60'];
      const ended = run(generateArgs(...rest));
      expect(ended.err).toMatch(/the context is full; --shift goes on/);
      const shifted = run(generateArgs(...rest, '--keep', '2'));
      expect([ended.code, shifted.code]).toEqual([0, 0]);
      expect(shifted.err).toMatch(/^\d+ tokens were forgotten to make room$/m);
      expect(shifted.out.startsWith(ended.out.trimEnd())).toBe(true);
      const { forgotten, tokens, promptTokens } = JSON.parse(
        run(generateArgs(...rest, '--shift', '--json')).out,
      ) as Record<string, number>;
      expect(tokens).toBe(60);
      expect(forgotten).toBeGreaterThanOrEqual(promptTokens + tokens - 32);
    });

    test('an interrupt ends it at once, with no process left', async () => {
      const child = spawn(process.execPath, [
        cli,
        ...['generate', 'The captain', '--max-tokens', '100000', '--temperature', '1'],
      ]);
      const ended = new Promise((resolve) => child.once('exit', (...how) => resolve(how)));
      await new Promise((resolve) => child.stdout.once('data', resolve));
      child.kill('SIGINT');
      const timeout = new Promise((resolve) => setTimeout(resolve, 10_000, 'still running'));
      const how = await Promise.race([ended, timeout]);
      child.kill('SIGKILL');
      expect(how).not.toBe('still running');
    });
  });

  test('info says what is in the file, in words and as JSON', () => {
    const { code, out } = run(['info', model, '--json']);
    expect(code).toBe(0);
    const info = JSON.parse(out) as { tensors: object[]; metadata: object };
    expect(info).toMatchObject({ version: 3, sizeBytes: readFileSync(model).length });
    expect(info.metadata).toMatchObject({ 'general.architecture': 'llama' });
    expect(info.tensors).toContainEqual({
      name: 'blk.1.ffn_down.weight',
      type: 'F32',
      shape: [32, 64],
      sizeBytes: 32 * 64 * 4,
    });
    const words = run(['info', model, '--tensors']);
    expect(words.code).toBe(0);
    expect(words.out).toMatch(/blk\.1\.ffn_down\.weight +F32 +\[32, 64\]/);
  });

  describe('convert', () => {
    test('writes a model that runs', () => {
      const out = join(folder, 'tiny-q8_0.gguf');
      const converted = run(['convert', model, '--type', 'q8_0', '--out', out, '--json']);
      expect(converted.code).toBe(0);
      expect(JSON.parse(converted.out)).toMatchObject({
        input: { file: model, sizeBytes: readFileSync(model).length },
        output: { file: out, type: 'q8_0', sizeBytes: readFileSync(out).length },
      });
      expect(readFileSync(out).length).toBeLessThan(readFileSync(model).length / 2);
      const { code } = run(['generate', 'the cat', '--model', out, '--max-tokens', '3', '--json']);
      expect(code).toBe(0);
    });

    test('a failure leaves neither a file under the final name nor a temporary one', () => {
      const target = join(folder, 'target');
      mkdirSync(target);
      const out = join(target, 'out.gguf');
      expect(run(['convert', truncated, '--out', out]).code).toBe(1);
      expect(readdirSync(target)).toEqual([]);
      writeFileSync(out, 'precious');
      expect(run(['convert', truncated, '--out', out]).code).toBe(1);
      expect(readFileSync(out, 'utf8')).toBe('precious');
      expect(readdirSync(target)).toEqual(['out.gguf']);
    });

    test('a disk that fails: exit code 1, and nothing is left', () => {
      const beneathFile = run(['convert', model, '--out', join(model, 'out.gguf')]);
      expect(beneathFile.code).toBe(1);
      expect(beneathFile.err).toMatch(/^error: .*cannot be written/);
      const beneathNothing = join(folder, 'nowhere', 'out.gguf');
      expect(run(['convert', model, '--out', beneathNothing]).code).toBe(1);
      expect(existsSync(join(folder, 'nowhere'))).toBe(false);
      if (process.platform !== 'linux') return;
      // A limit on the size of files is as near to a full disk as a test can come.
      const target = join(folder, 'full');
      mkdirSync(target);
      const script = `trap '' XFSZ; ulimit -f 64; exec "$0" "$@"`;
      const args = ['-c', script, process.execPath, cli, 'convert', model];
      const out = join(target, 'out.gguf');
      const full = spawnSync('bash', [...args, '--type', 'f32', '--out', out], {
        encoding: 'utf8',
        timeout: 20_000,
      });
      expect(full.stderr).toMatch(/^error: .*out\.gguf: cannot be written/);
      expect(full.status).toBe(1);
      expect(readdirSync(target)).toEqual([]);
    });
  });

  test('convert --merge makes a model of its own of what finetuning left', () => {
    const { hash } = JSON.parse(run(['info', model, '--json']).out) as { hash: string };
    const file = join(folder, 'merge.safetensors');
    // The forged model has values of 2 heads of 16, out of 32.
    const values = [{ shape: [32, 32], numbers: new Float32Array(1024).fill(0.1) }];
    const layer = { temperatures: Float32Array.of(1, 2, 3, 4), values };
    const finetuned = [
      { method: 'h1b' as const, name: 'x', bits: 32, seed: 3, layers: [layer, layer] },
    ];
    writeFileSync(file, adapterBytes({ model: hash, text: '', temperatures: [], finetuned }));
    const target = join(folder, 'merged');
    mkdirSync(target);
    const out = join(target, 'out.gguf');
    const convert = (...more: string[]) => run(['convert', model, '--out', out, ...more]);

    const refused = convert('--merge', 'y', '--adapter', file);
    expect(refused.err).toMatch(
      /^error: convert: --merge y needs .* this model's has tuned=x\. Run/,
    );
    expect(refused.code).toBe(2);
    expect(convert('--merge', 'x', '--adapter', 'none').err).toMatch(/this model has no adapter/);
    expect(convert('--adapter', file).err).toMatch(/--adapter without --merge/);
    expect(readdirSync(target)).toEqual([]);

    const merged = convert('--merge', 'x', '--adapter', file, '--type', 'f32', '--json');
    expect(JSON.parse(merged.out)).toMatchObject({ output: { file: out }, merged: 'x' });
    expect(readdirSync(target)).toEqual(['out.gguf']);
    const said = (...flags: string[]) =>
      (
        JSON.parse(run(generateArgs('--max-tokens', '12', '--json', ...flags)).out) as {
          text: string;
        }
      ).text;
    const tuned = said('--cache', 'f32:tuned=x', '--adapter', file);
    expect(said('--cache', 'f32', '--model', out)).toBe(tuned);
    expect(said('--cache', 'f32')).not.toBe(tuned);
  });

  test('calibrate writes an adapter that generate finds', async () => {
    const text = join(folder, 'fit.txt');
    writeFileSync(text, 'the cat sat on the mat and the rat sat on the hat; '.repeat(5));
    const args = ['calibrate', '--model', model, '--text', text, '--bits', '32', '--json'];
    const { code, out } = run([...args, '--ridge', '32']);
    expect(code).toBe(0);
    const written = readFileSync(join(folder, 'tiny.adapter.safetensors'));
    const { hash } = JSON.parse(run(['info', model, '--json']).out) as { hash: string };
    const {
      text: about,
      temperatures,
      statistics,
    } = await readAdapter({ name: 'written', bytes: written }, hash);
    expect(JSON.parse(out)).toEqual({
      file: join(folder, 'tiny.adapter.safetensors'),
      sizeBytes: written.length,
      model: hash,
      text: about,
      temperatures,
      layers: statistics?.length,
      kept: [],
    });
    expect(temperatures[0].bits).toBe(32);
    const report = run(generateArgs('--cache', 'h1b:b=32', '--max-tokens', '2', '--json')).out;
    expect(JSON.parse(report)).toMatchObject({ cache: { spec: 'h1b:b=32,seed=0,t=head' } });
    const corrected = generateArgs('--cache', 'h1b:tuned=ridge', '--max-tokens', '2', '--json');
    const spec = 'h1b:b=32,seed=0,tuned=ridge';
    expect(JSON.parse(run(corrected).out)).toMatchObject({ cache: { spec } });
  });

  test('calibrate keeps what finetuning left in the file it writes over, of this model', async () => {
    const text = join(folder, 'keep.txt');
    writeFileSync(text, 'the cat sat on the mat and the rat sat on the hat; '.repeat(5));
    const { hash } = JSON.parse(run(['info', model, '--json']).out) as { hash: string };
    const out = join(folder, 'keep.safetensors');
    const calibrate = (...more: string[]) =>
      run(['calibrate', '--model', model, '--text', text, '--bits', '32', ...more]);
    const left = (name: string): Finetuned => {
      const layer = { temperatures: Float32Array.of(1, 2, 3, 4), values: [] };
      return { method: 'h1b', name, bits: 32, seed: 3, layers: [layer, layer] };
    };
    const write = (file: string, of: string, names: string[]) => {
      const finetuned = names.map(left);
      writeFileSync(file, adapterBytes({ model: of, text: '', temperatures: [], finetuned }));
    };
    const written = () => readAdapter({ name: out, bytes: readFileSync(out) }, hash);

    write(out, hash, ['a', 'b']);
    const report = JSON.parse(calibrate('--out', out, '--json').out) as object;
    expect(report).toMatchObject({ kept: ['h1b:tuned=a', 'h1b:tuned=b'] });
    const { finetuned, temperatures } = await written();
    expect(finetuned).toEqual([left('a'), left('b')]);
    expect(temperatures.map(({ bits }) => bits)).toEqual([32]);

    const other = join(folder, 'other.safetensors');
    write(other, hash, ['c']);
    const both = calibrate('--out', out, '--adapter', other);
    expect(both.out).toMatch(/^kept what finetuning left: h1b:tuned=a h1b:tuned=b h1b:tuned=c$/m);
    expect((await written()).finetuned).toEqual([left('a'), left('b'), left('c')]);

    expect(calibrate('--out', out, '--adapter', 'none').out).not.toContain('kept');
    expect((await written()).finetuned).toBeUndefined();

    write(out, 'f00'.repeat(20), ['a']);
    const foreign = calibrate('--out', out);
    expect(foreign.err).toMatch(/fitted for another model, f00f.*\nNothing of it is kept\.\n$/);
    expect((await written()).finetuned).toBeUndefined();

    const future = replaced(readFileSync(out), '"version":"3"', '"version":"4"');
    writeFileSync(out, future);
    const refused = calibrate('--out', out);
    expect(refused.err).toMatch(/^error: .*version is 4.*Update this package\.\n$/);
    expect(refused.code).toBe(1);
    expect(readFileSync(out)).toEqual(future);
  });

  test('finetune adds to the adapter, goes on from its checkpoint, and refuses that of another call', async () => {
    const text = join(folder, 'books.txt');
    writeFileSync(text, 'the cat sat on the mat and the rat sat on the hat; '.repeat(60));
    const args = ['finetune', '--model', model, '--text', text, '--bits', '32', '--window', '16'];
    args.push(
      '--batch',
      '1',
      '--held-out',
      '1',
      '--evaluate-every',
      '1',
      '--threads',
      '1',
      '--json',
    );
    const { code, out } = run([...args, '--steps', '2']);
    expect(code).toBe(0);
    const report = JSON.parse(out) as { file: string; log: string; checkpoint: string };
    expect(report).toMatchObject({ cache: 'h1b:tuned=rank2', first: { step: 0 } });
    const log = readFileSync(report.log, 'utf8').trim().split('\n');
    expect(log.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual([0, 1, 2]);
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);

    const again = run([...args, '--steps', '2']);
    expect(again.err).toContain('goes on after step 2');
    expect(JSON.parse(again.out)).toEqual(report);
    const other = run([...args, '--steps', '3']);
    expect(other.code).toBe(2);
    expect(other.err).toContain('belongs to another run');

    const foreign = join(folder, 'foreign.safetensors');
    writeFileSync(foreign, adapterBytes({ model: 'f00', text: '', temperatures: [] }));
    const refused = run([...args, '--steps', '2', '--out', foreign]);
    expect(refused.err).toMatch(/foreign\.safetensors: it was fitted for another model/);
    expect(readdirSync(folder).filter((name) => name.startsWith('foreign.'))).toHaveLength(1);

    const used = run(generateArgs('--cache', 'h1b:tuned=rank2', '--max-tokens', '2', '--json')).out;
    expect(JSON.parse(used)).toMatchObject({ cache: { spec: 'h1b:b=32,seed=0,tuned=rank2' } });
  });

  describe('--adapter', () => {
    const elsewhere = join(folder, 'elsewhere.safetensors');
    const specWith = (...flags: string[]) => {
      const { code, out, err } = run(generateArgs('--cache', 'h1b:b=64', '--json', ...flags));
      expect(err).toBe('');
      expect(code).toBe(0);
      return (JSON.parse(out) as { cache: { spec: string } }).cache.spec;
    };
    beforeAll(async () => {
      const { hash } = JSON.parse(run(['info', model, '--json']).out) as { hash: string };
      const t = [0.5, 0.25, 0.5, 0.25];
      const fit = { bits: 64, global: 0.5, layer: [0.5, 0.25], head: [t, t] };
      writeFileSync(elsewhere, adapterBytes({ model: hash, text: '', temperatures: [fit] }));
    });

    test('takes a file in place of the one beside the model, or none', () => {
      const beside = join(folder, 'tiny.adapter.safetensors');
      const before = existsSync(beside) ? readFileSync(beside) : undefined;
      writeFileSync(beside, readFileSync(elsewhere));
      try {
        expect(specWith('--max-tokens', '1')).toBe('h1b:b=64,seed=0,t=head');
        expect(specWith('--max-tokens', '1', '--adapter', 'none')).toBe('h1b:b=64,seed=0,t=0.07');
      } finally {
        if (before) writeFileSync(beside, before);
        else rmSync(beside);
      }
      expect(specWith('--max-tokens', '1', '--adapter', elsewhere)).toBe('h1b:b=64,seed=0,t=head');
    });

    test('every command that has --model and runs it has it', () => {
      const names = ['demo', 'generate', 'chat', 'calibrate', 'finetune', 'eval', 'compare'];
      for (const name of [...names, 'report', 'bench']) {
        expect(run([name, '--help']).out, name).toContain('--adapter <file>');
      }
    });

    test.each<[string, (whole: Buffer) => Uint8Array | undefined, RegExp]>([
      ['is absent', () => undefined, /wrong\.bin: it cannot be read \(.*\)\. Check the path/],
      ['is damaged', (whole) => whole.subarray(0, 300), /wrong\.bin: it is damaged\./],
      ['is no adapter', () => Buffer.from('the cat'), /wrong\.bin: it is damaged\./],
      [
        'is of a future version',
        (whole) => replaced(whole, '"version":"3"', '"version":"4"'),
        /wrong\.bin: its version is 4; .* Update this package/,
      ],
      [
        'is of another model',
        (whole) => replaced(whole, '"model":"', '"model":"#'),
        /wrong\.bin: it was fitted for another model, #/,
      ],
    ])('a file that %s is refused: exit code 1', (_, change, message) => {
      const wrong = join(folder, 'wrong.bin');
      const bytes = change(readFileSync(elsewhere));
      rmSync(wrong, { force: true });
      if (bytes) writeFileSync(wrong, bytes);
      const { code, out, err } = run(generateArgs('--adapter', wrong));
      expect(err).toMatch(/^error: adapter .+\.\)?\n$/);
      expect(err).toMatch(message);
      expect([code, out]).toEqual([1, '']);
    });
  });

  describe('exit code 2: the call was wrong', () => {
    test.each([
      [['genrate', 'x'], /unknown command 'genrate'\n\(Did you mean generate\?\)/],
      [
        ['generate', 'x', '--max-token', '3'],
        /unknown option '--max-token'\n\(Did you mean --max-tokens/,
      ],
      [['generate'], /no prompt; give either a text or --text file/],
      [['generate', 'x', '--text', 'y'], /two prompts/],
      [['generate', 'x', '--max-tokens', 'many'], /'many' is invalid\. It must be a whole number/],
      [['generate', 'x', '--max-tokens', '-1'], /'-1' is invalid/],
      [generateArgs('--context', '513'), /context is 513; .* from 2 to 512/],
      [generateArgs('--context', '64', '--keep', '63'), /keep 63 tokens; .* from 0 to 62/],
      [
        ['generate', 'x', '--threads', '0'],
        /'0' is invalid\. It must be a whole number from 1 to 64/,
      ],
      [['generate', 'x', '--temperature', 'hot'], /'hot' is invalid\. It must be a number/],
      [
        generateArgs('--json', '--temperature', '-1'),
        /temperature is -1; it must be a number from 0/,
      ],
      [
        generateArgs('--json', '--cache', 'h1b:b=33'),
        /b is 33; it must be a whole number from 32 to 1024/,
      ],
      [generateArgs('--json', '--cache', 'h1b:b=2048'), /b is 2048/],
      [generateArgs('--json', '--cache', 'h1b:c=1'), /unknown setting "c"; allowed: b, seed, r, t/],
      [generateArgs('--json', '--cache', 'h2b'), /"h2b" is unknown; there are f16/],
      [['convert', model], /--out/],
      [['convert', model, '--out', 'x', '--type', 'q2_k'], /'q2_k' is invalid/],
      [['calibrate', '--model', model, '--bits', '7'], /'7' is invalid/],
      [
        generateArgs('--adapter', 'none', '--cache', 'h1b:tuned=x'),
        /this model has no adapter\. Run h1bkv finetune --name x/,
      ],
      [
        ['calibrate', '--model', model, '--bits', '32,64', '--ridge', '128'],
        /--ridge 128; it must be one of --bits, 32,64/,
      ],
    ])('%j', (args, message) => {
      const { code, out, err } = run(args);
      expect(err).toMatch(message);
      expect(code).toBe(2);
      expect(out).toBe('');
    });
  });

  describe('exit code 1: the work failed', () => {
    const long = 'cat '.repeat(600);
    test.each([
      [
        ['generate', 'x', '--model', join(folder, 'none.gguf')],
        /none\.gguf: cannot be opened.*Check/,
      ],
      [['info', join(folder, 'none.gguf')], /none\.gguf: cannot be opened/],
      [
        ['info', folder],
        /config\.json is missing\. Fetch the whole model folder, or name a GGUF file/,
      ],
      [['generate', 'x', '--model', truncated], /truncated\.gguf/],
      [['info', truncated], /truncated\.gguf/],
      [['convert', truncated, '--out', join(folder, 'never.gguf')], /truncated\.gguf/],
      [['generate', '--text', join(folder, 'none.txt')], /none\.txt cannot be read\. Check/],
      [
        ['generate', long, '--model', model, '--json'],
        /generate: \d+ tokens; the context of "forged F32 seed 1" is 512.*Shorten the prompt/,
      ],
    ])('%j', (args, message) => {
      const { code, out, err } = run(args);
      expect(err).toMatch(/^error: .+\.\n$/);
      expect(err).toMatch(message);
      expect(code).toBe(1);
      expect(out).toBe('');
    });
  });

  test('help lists every command and is no failure', () => {
    const { code, out } = run(['--help']);
    expect(code).toBe(0);
    for (const command of [
      'demo',
      'generate',
      'info',
      'convert',
      'calibrate',
      'finetune',
      'bench',
    ]) {
      expect(out).toContain(`  ${command} `);
      expect(run([command, '--help']).code).toBe(0);
    }
  });
});
