/** The command line with models of every kind: folders, the hub, plans, and a chat over a pipe. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { forgeBytes } from '../src/bench/forge-node.ts';
import { readSessionFile } from '../src/generate/session-file-node.ts';
import { packageRoot, say, temporaryFolder, tinyShape } from './forged.ts';
import { startHub, type HubServer } from './hub-server.ts';
import { hfTwin } from './hf-twin.ts';

const cli = join(packageRoot, 'dist', 'cli.js');
const isBuilt = existsSync(cli);
if (!isBuilt)
  say('skipped: test/cli-models.test.ts: dist/cli.js is not there; npm run build makes it');

const folder = temporaryFolder();
const gguf = join(folder, 'tiny.gguf');
const hf = join(folder, 'tiny-hf');
let twinFiles: Record<string, Uint8Array>;

beforeAll(async () => {
  const bytes = await forgeBytes({ ...tinyShape, type: 'F16' });
  writeFileSync(gguf, bytes);
  mkdirSync(hf);
  twinFiles = await hfTwin(bytes);
  for (const [name, content] of Object.entries(twinFiles)) writeFileSync(join(hf, name), content);
});

function run(args: readonly string[], input = '') {
  const options = { input, encoding: 'utf8', timeout: 20_000, maxBuffer: 1 << 26 } as const;
  const result = spawnSync(process.execPath, [cli, ...args], options);
  expect(result.error).toBeUndefined();
  return { code: result.status, out: result.stdout, err: result.stderr };
}

/** As `run`, but this process goes on, so that it can serve what the command asks for. */
function runBeside(args: readonly string[], env: Record<string, string>) {
  const child = spawn(process.execPath, [cli, ...args], { env: { ...process.env, ...env } });
  let [out, err] = ['', ''];
  child.stdout.on('data', (data: Buffer) => (out += data.toString()));
  child.stderr.on('data', (data: Buffer) => (err += data.toString()));
  return new Promise<{ code: number | null; out: string; err: string }>((resolve) =>
    child.on('close', (code) => resolve({ code, out, err })),
  );
}

const textOf = (json: string) => (JSON.parse(json) as { text: string }).text;
const generate = (model: string) =>
  [
    'generate',
    'the cat',
    '--model',
    model,
    '--cache',
    'f32',
    '--max-tokens',
    '12',
    '--json',
  ] as const;

describe.skipIf(!isBuilt)('models as folders', () => {
  test('a folder, its GGUF, and the GGUF converted from it write the same', () => {
    const direct = run(generate(hf));
    expect(direct.err).toBe('');
    const converted = join(folder, 'converted.gguf');
    expect(run(['convert', hf, '--type', 'f16', '--out', converted]).code).toBe(0);
    expect(textOf(direct.out)).toBe(textOf(run(generate(gguf)).out));
    expect(textOf(direct.out)).toBe(textOf(run(generate(converted)).out));
  });

  test('info and plan read one too', () => {
    const info = JSON.parse(run(['info', hf, '--json']).out) as { parameters: number };
    const other = JSON.parse(run(['info', gguf, '--json']).out) as { parameters: number };
    expect(info.parameters).toBe(other.parameters);
    const [a, b] = [hf, gguf].map((model) => run(['plan', '--model', model, '--json']).out);
    expect((JSON.parse(a) as { rows: object[] }).rows).toEqual(
      (JSON.parse(b) as { rows: object[] }).rows,
    );
  });

  test('one without config.json is refused by name', () => {
    const empty = join(folder, 'empty');
    mkdirSync(empty);
    const { code, err } = run(generate(empty));
    expect(code).toBe(1);
    expect(err).toMatch(/config\.json/);
  });
});

describe.skipIf(!isBuilt)('plan', () => {
  test('names shapes, methods and the longest context', () => {
    const args = ['--model', 'qwen2.5-7b', '--context', '8192', '--max-memory', '1GB'];
    const report = JSON.parse(run(['plan', ...args, '--cache', 'f16 h1b:b=128', '--json']).out) as {
      rows: { method: string; bytes: number; bitsPerElement: number; maxContext: number }[];
    };
    const [f16, h1b] = report.rows;
    // 28 layers, 4 KV heads of 128, keys and values, 2 bytes
    expect(f16.bytes).toBe(8192 * 28 * 4 * 128 * 2 * 2);
    expect(f16.bitsPerElement).toBe(16);
    // 16 bytes of sketch, 64 of codes, 4 of minimum and step; R once
    expect(h1b.bytes).toBe(8192 * 28 * 4 * (16 + 64 + 4) + 28 * 4 * 128 * 128);
    const perPage = 128 * 28 * 4 * 128 * 2 * 2;
    expect(f16.maxContext).toBe(Math.floor(1e9 / perPage) * 128);
  });

  test('says what a session will hold, with the adapter that it finds, or is told to leave', () => {
    const cache = ['--cache', 'bitplane', '--json'];
    for (const adapter of [[], ['--adapter', 'none']]) {
      const { out } = run(['generate', 'Once', '--max-tokens', '300', ...cache, ...adapter]);
      const session = JSON.parse(out) as { promptTokens: number; tokens: number; cache: object };
      // The last token was drawn, and is in no cache.
      const positions = session.promptTokens + session.tokens - 1;
      const plan = run(['plan', '--context', String(positions), ...cache, ...adapter]).out;
      const [row] = (JSON.parse(plan) as { rows: { spec: string; bytes: number }[] }).rows;
      expect({ spec: row.spec, bytes: row.bytes }).toEqual({
        spec: expect.stringContaining(adapter.length > 0 ? 'source=first' : 'source=adapter'),
        bytes: (session.cache as { bytes: number }).bytes,
      });
    }
  });

  test('reads a config.json', () => {
    const report = JSON.parse(
      run(['plan', '--model', join(hf, 'config.json'), '--cache', 'f16', '--json']).out,
    ) as { context: number; rows: { bytesPerToken: number }[] };
    expect(report.context).toBe(512);
    expect(report.rows[0].bytesPerToken).toBe(2 * 2 * (16 + 16) * 2);
  });

  test.each([
    ['an unknown model', ['--model', 'nosuch'], 2],
    ['a size that is none', ['--max-memory', 'much'], 2],
    ['an unknown method', ['--cache', 'nosuch'], 2],
    ['an unknown flag', ['--contxt', '5'], 2],
    ['an adapter of a shape', ['--model', 'qwen2.5-7b', '--adapter', 'a.safetensors'], 2],
    ['an adapter that is not there', ['--adapter', 'nosuch.safetensors'], 1],
    ['what the adapter lacks', ['--cache', 'h1b:tuned=nosuch'], 2],
  ])('%s is refused', (_, args, expected) => {
    const { code, err, out } = run(['plan', ...args]);
    expect({ code, out }).toEqual({ code: expected, out: '' });
    expect(err).toMatch(/error/);
  });

  test('a flag that is nearly right is named', () => {
    expect(run(['plan', '--contxt', '5']).err).toMatch(/Did you mean --context/);
  });
});

describe.skipIf(!isBuilt)('hf: models', () => {
  let hub: HubServer;
  const env = () => ({ HF_ENDPOINT: hub.url, HF_HUB_CACHE: join(folder, 'cache') });
  beforeAll(async () => {
    const commit = 'c'.repeat(40);
    hub = await startHub({
      'tiny/gguf': { commit, files: { 'tiny.gguf': readFileSync(gguf) } },
      'tiny/hf': { commit, files: twinFiles },
    });
  });
  afterAll(() => hub.close());

  test('a GGUF and a folder are fetched, kept, and run', async () => {
    const expected = textOf(run(generate(gguf)).out);
    for (const name of ['hf:tiny/gguf', 'hf:tiny/hf', 'hf:tiny/gguf/tiny.gguf']) {
      const { code, out, err } = await runBeside(generate(name), env());
      expect({ name, code, err }).toEqual({ name, code: 0, err: '' });
      expect(textOf(out)).toBe(expected);
    }
  });

  test('a repository that is not there is refused', async () => {
    const { code, err } = await runBeside(generate('hf:tiny/nosuch'), env());
    expect(code).toBe(2);
    expect(err).toMatch(/tiny\/nosuch/);
  });
});

describe.skipIf(!isBuilt)('chat over a pipe', () => {
  const chat = (lines: readonly string[], ...args: string[]) =>
    run(['chat', '--model', gguf, '--max-tokens', '8', ...args], lines.join('\n') + '\n');

  test('answers, counts, forgets, saves and loads', async () => {
    const file = join(folder, 'talk.session');
    const { code, out } = chat(
      ['Hello.', '/context', '/cache', `/save ${file}`, '/undo', '/undo', `/load ${file}`, '/exit'],
      '--system',
      'Be brief.',
    );
    expect(code).toBe(0);
    expect(out).toMatch(/no chat template/);
    expect(out).toMatch(/\d+ of 512 tokens, 3 messages/);
    expect(out).toMatch(/h1b:b=256.*positions in .* f16 would take/);
    expect(out).toMatch(
      /\(2 messages forgotten\)[\s\S]*\(0 messages forgotten\)[\s\S]*\(3 messages; \d+ positions/,
    );
    const { messages } = await readSessionFile(file);
    expect(messages?.map(({ role }) => role)).toEqual(['system', 'user', 'assistant']);
  });

  test('what goes wrong is said and the chat goes on', () => {
    const damaged = join(folder, 'damaged.json');
    writeFileSync(damaged, '{"format":"h1b-kv chat","version":1,"messages":[{}]}');
    const { code, out } = chat([
      '/nosuch',
      '/regenerate',
      `/load ${damaged}`,
      '/load',
      'Hi.',
      '/context',
    ]);
    expect(code).toBe(0);
    expect(out).toMatch(/\/nosuch is no command/);
    expect(out).toMatch(/nothing to answer/);
    expect(out).toMatch(/not a saved chat/);
    expect(out).toMatch(/no file name/);
    expect(out).toMatch(/2 messages/);
  });

  test('a conversation that outgrows the context is refused or shifted, as asked', () => {
    const long = 'word '.repeat(120);
    const lines = [long, long, long, '/context'];
    expect(chat(lines).out).toMatch(/oldest exchanges were forgotten/);
    expect(chat(lines, '--overflow', 'stop').out).toMatch(/error: chat: the conversation has \d+/);
  });
});
