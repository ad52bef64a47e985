/** Sessions that stop and go on: with every cache method, through files, crashes and the command line. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'tsdown';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { cacheMethods } from '../src/cache/registry.ts';
import { feed } from '../src/generate/generate.ts';
import { readSessionFile, writeSessionFile } from '../src/generate/session-file-node.ts';
import type { SessionState } from '../src/generate/session-state.ts';
import {
  Chat,
  decodeSession,
  encodeSession,
  loadModel,
  Session,
  type Model,
} from '../src/index.ts';
import { memorySource } from '../src/format/source.ts';
import { Random } from '../src/math/random.ts';
import { embeddedModel, forgeModel, packageRoot, say, temporaryFolder } from './forged.ts';

const folder = temporaryFolder();
const inFolder = (name: string) => join(folder, name);

let model: Model;
beforeAll(async () => {
  model = await forgeModel();
});
afterAll(() => model.dispose());

/** The state as it comes back from a file. */
async function throughFile(state: SessionState): Promise<SessionState> {
  const pieces: Uint8Array[] = [];
  for await (const piece of encodeSession(state)) pieces.push(piece);
  return decodeSession(memorySource(Buffer.concat(pieces), 'saved'));
}

/** A session that was given these many random tokens and ran them. */
async function told(count: number, cache: string, on = model): Promise<Session> {
  const random = new Random(count);
  const session = await Session.create(on, { cache });
  for (let i = 0; i < count; i++) session.tokens.push(random.uint32() % on.vocabSize);
  await feed(on, session.cache, session.tokens);
  return session;
}

describe.each(Object.keys(cacheMethods))('a session with %s', (cache) => {
  test.each([1, 2, 3])('saved and restored goes on bit for bit, history %i', async (seed) => {
    const random = new Random(seed);
    const draw = (least: number, most: number) =>
      least + (random.uint32() % Math.max(1, most - least + 1));
    let steady = await Session.create(model, { cache });
    let stopped = await Session.create(model, { cache });
    const compared: number[] = [];
    for (let step = 0; step < 24; step++) {
      const { length } = steady.tokens;
      const kind =
        step % 2 ? 'say' : (['restore', 'restore', 'fork', 'truncate'] as const)[draw(0, 3)];
      if (kind === 'restore') {
        const saved = await throughFile(await stopped.save());
        stopped.dispose();
        stopped = await Session.restore(model, saved);
        expect(stopped.cache.spec).toBe(steady.cache.spec);
        expect({ ...stopped.bytes(), scratch: 0 }).toEqual({ ...steady.bytes(), scratch: 0 });
      } else if (kind === 'fork') {
        const forks = [steady.fork(), stopped.fork()];
        for (const origin of [steady, stopped]) origin.dispose();
        [steady, stopped] = forks;
      } else if (kind === 'truncate' || length > 400) {
        const target = draw(0, length);
        for (const session of [steady, stopped]) session.truncate(target);
      } else {
        const ids = Array.from({ length: draw(1, 90) }, () => draw(0, model.vocabSize - 1));
        const chunkSize = draw(1, 60);
        const logits = [];
        for (const session of [steady, stopped]) {
          session.tokens.push(...ids);
          logits.push(await feed(model, session.cache, session.tokens, { chunkSize }));
        }
        expect(logits[1]).toEqual(logits[0]);
        compared.push(logits[0].length);
      }
      expect(stopped.tokens).toEqual(steady.tokens);
      expect(stopped.cache.length).toBe(steady.cache.length);
    }
    expect(compared.length).toBeGreaterThan(5);
    for (const session of [steady, stopped]) session.dispose();
  });
});

describe('a saved session', () => {
  test('says what the one that went on says, its last token included', async () => {
    const write = async (session: Session) => {
      const ids: number[] = [];
      const sampling = { maxTokens: 9, temperature: 1, seed: 3 };
      for await (const { id } of session.generate(sampling)) ids.push(id);
      return ids;
    };
    const session = await Session.create(model);
    session.append('the man on the hill');
    await write(session);
    const restored = await Session.restore(model, await throughFile(await session.save()));
    expect(restored.tokens.length).toBe(session.cache.length + 1);
    expect(await write(restored)).toEqual(await write(session));
    for (const held of [session, restored]) held.dispose();
  });

  test('is a moment: what the session does meanwhile is not in it', async () => {
    const session = await told(100, 'f16');
    const before = await session.save();
    const saving = session.save();
    session.tokens.push(1, 2, 3);
    await feed(model, session.cache, session.tokens);
    session.truncate(5);
    session.tokens.push(7);
    await feed(model, session.cache, session.tokens);
    expect(await saving).toEqual(before);
    session.dispose();
  });

  test('of a chat is gone on with by running the new message only', async () => {
    const messages = [{ role: 'system', content: 'Be brief, or the cat will leave. '.repeat(5) }];
    const ask = async (chat: Chat, text: string) => {
      const pieces = chat.send(text, { maxTokens: 6 });
      for (;;) {
        const { done, value } = await pieces.next();
        if (done) return value.promptTokens;
      }
    };
    const chat = await Chat.create(model, { cache: 'f16', messages });
    const first = await ask(chat, 'Hello.');
    const saved = await throughFile({ ...(await chat.session.save()), messages: chat.messages });
    const restored = await Chat.create(model, {
      cache: saved.spec,
      messages: saved.messages ?? [],
    });
    await restored.session.restore(saved);
    const [there, here] = [await ask(chat, 'And then?'), await ask(restored, 'And then?')];
    expect(here).toBe(there);
    expect(here).toBeLessThan(first / 2);
    expect(restored.messages).toEqual(chat.messages);
    expect(restored.session.tokens).toEqual(chat.session.tokens);
    for (const held of [chat, restored]) held.dispose();
  });

  test('goes on with another backend', async () => {
    const reference = await forgeModel({}, { backend: 'reference' });
    const session = await told(150, 'h1b:b=64');
    const restored = await Session.restore(reference, await session.save());
    for (const held of [session, restored]) held.tokens.push(5);
    const expected = await feed(model, session.cache, session.tokens);
    const found = await feed(reference, restored.cache, restored.tokens);
    const worst = expected.reduce((w, x, i) => Math.max(w, Math.abs(x - found[i])), 0);
    expect(worst).toBeLessThan(1e-2);
    for (const held of [session, restored]) held.dispose();
    reference.dispose();
  });

  test('of another model is refused, and both are named', async () => {
    const other = await forgeModel({ seed: 2 });
    const session = await told(3, 'f16');
    const before = other.kernels.allocatedBytes;
    await expect(Session.restore(other, await session.save())).rejects.toMatchObject({
      code: 'format',
      message: expect.stringMatching(
        /model "forged F32 seed 1" \([0-9a-f]{12}\); this model is "forged F32 seed 2" \([0-9a-f]{12}\)\. Load/,
      ),
    });
    expect(other.kernels.allocatedBytes).toBe(before);
    session.dispose();
    other.dispose();
  });

  test('of another adapter is refused', async () => {
    const withAdapter = await loadModel(embeddedModel);
    const without = await loadModel(embeddedModel, { adapter: false });
    const session = await told(3, 'h1b', withAdapter);
    const state = await session.save();
    expect(state.spec).toMatch(/t=head/);
    await expect(Session.restore(without, state)).rejects.toMatchObject({
      code: 'format',
      message: expect.stringMatching(/with adapter [0-9a-f]{12}; this model has none\. Put/),
    });
    session.dispose();
    for (const loaded of [withAdapter, without]) loaded.dispose();
  });

  test('that does not fit is refused and the session stays new', async () => {
    const saved = await told(40, 'f16');
    const state = await saved.save();
    const session = await Session.create(model, { cache: 'f32' });
    await expect(session.restore(state)).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(/saved with cache f16; the one asked for is f32\. Choose f16/),
    });
    const stray = { ...state, tokens: Int32Array.of(...state.tokens.subarray(1), model.vocabSize) };
    const short = { ...state, cache: { ...state.cache, blocks: state.cache.blocks.slice(1) } };
    const before = model.kernels.allocatedBytes;
    for (const misfit of [stray, short]) {
      await expect(Session.restore(model, misfit)).rejects.toMatchObject({ code: 'format' });
    }
    expect(model.kernels.allocatedBytes).toBe(before);
    expect(session.tokens).toEqual([]);
    session.append('the man');
    await expect(session.restore({ ...state, spec: 'f32' })).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(/it holds \d+ tokens\. Restore into a new one/),
    });
    for (const held of [saved, session]) held.dispose();
  });
});

test('kill -9 in mid-save leaves the old file', async () => {
  const bundle = inFolder('bundle');
  const generate = join(packageRoot, 'src', 'generate');
  await build({
    cwd: packageRoot,
    config: false,
    dts: false,
    fixedExtension: false,
    logLevel: 'error',
    outDir: bundle,
    platform: 'node',
    target: 'node20.20',
    entry: {
      file: join(generate, 'session-file.ts'),
      node: join(generate, 'session-file-node.ts'),
    },
  });
  const target = inFolder('killed');
  mkdirSync(target);
  const path = join(target, 'talk.session');
  const session = await told(200, 'f16');
  const old = await session.save();
  await writeSessionFile(path, encodeSession(old));
  // Reads what is there, and dies by its own hand when part of it is written again.
  const script = `
    import { encodeSession } from ${JSON.stringify(pathToFileURL(join(bundle, 'file.js')))};
    import { readSessionFile, writeSessionFile } from ${JSON.stringify(pathToFileURL(join(bundle, 'node.js')))};
    const path = ${JSON.stringify(path)};
    async function* dying(pieces) {
      let left = Number(process.argv[1]);
      for await (const piece of pieces) {
        if (left-- === 0) process.kill(process.pid, 'SIGKILL');
        yield piece;
      }
    }
    const state = await readSessionFile(path);
    await writeSessionFile(path, dying(encodeSession({ ...state, engine: 'new' })));
  `;
  const save = (pieces: number) =>
    spawnSync(process.execPath, ['--input-type=module', '-e', script, String(pieces)], {
      encoding: 'utf8',
      timeout: 20_000,
    });
  for (const pieces of [0, 1, 2, 4]) {
    const before = readdirSync(target);
    const { signal, stderr } = save(pieces);
    expect({ signal, stderr }).toEqual({ signal: 'SIGKILL', stderr: '' });
    const [left] = readdirSync(target).filter((name) => !before.includes(name));
    // What it had begun is under another name, and not whole.
    expect(statSync(join(target, left)).size).toBeLessThan(statSync(path).size);
    if (pieces > 0) expect(statSync(join(target, left)).size).toBeGreaterThan(0);
    expect(await readSessionFile(path)).toEqual(old);
  }
  expect(save(1000)).toMatchObject({ status: 0, stderr: '' });
  expect(await readSessionFile(path)).toEqual({ ...old, engine: 'new' });
  session.dispose();
});

const cli = join(packageRoot, 'dist', 'cli.js');
const isBuilt = existsSync(cli);
if (!isBuilt)
  say('skipped: test/session.test.ts: dist/cli.js is not there; npm run build makes it');

describe.skipIf(!isBuilt)('the command line', () => {
  function run(args: readonly string[], input = '') {
    const options = { input, encoding: 'utf8', timeout: 30_000 } as const;
    const result = spawnSync(process.execPath, [cli, ...args], options);
    expect(result.error).toBeUndefined();
    return { code: result.status, out: result.stdout, err: result.stderr };
  }
  const generate = (prompt: string, file: string, ...more: string[]) =>
    run(['generate', prompt, '--session', file, '--max-tokens', '24', '--json', ...more]);
  interface Report {
    text: string;
    promptTokens: number;
    cache: { method: string; spec: string };
    session: { file: string; tokens: number; restoredTokens: number };
  }

  test.each(['f16', 'h1b'])('generate --session goes on where it was, with %s', async (cache) => {
    const file = inFolder(`story-${cache}.session`);
    const prompts = ['It was a dark and stormy night', ' The captain said', ' At last'];
    const embedded = await loadModel(embeddedModel);
    const whole = await Session.create(embedded, { cache });
    for (const [i, prompt] of prompts.entries()) {
      const before = { tokens: whole.tokens.length, cached: whole.cache.length };
      whole.append(prompt);
      const fed = whole.tokens.length - whole.cache.length;
      let text = '';
      for await (const piece of whole.generate({ maxTokens: 24 })) text += piece.text;
      // Only the first names the cache: afterwards the file does.
      const { code, out, err } = generate(prompt, file, ...(i === 0 ? ['--cache', cache] : []));
      expect(code).toBe(0);
      const report = JSON.parse(out) as Report;
      expect(report.text).toBe(text);
      expect(report.promptTokens).toBe(fed);
      expect(report.cache.spec).toBe(whole.cache.spec);
      expect(report.session).toEqual({
        file,
        tokens: whole.tokens.length,
        restoredTokens: before.cached,
      });
      const note = `${before.tokens} tokens restored; ${before.cached} of them are in the cache and are not computed again`;
      expect(err).toBe(i === 0 ? '' : `${file}: ${note}\n`);
    }
    const { out, err } = run(['generate', '.', '--session', file, '--max-tokens', '3']);
    expect(out).toMatch(/^\./);
    expect(err).toMatch(/session of \d+ tokens saved to .*story-/);
    whole.dispose();
    embedded.dispose();
  });

  test('generate --session refuses what it cannot go on with, and leaves the file', () => {
    const file = inFolder('refused.session');
    expect(generate('Once', file, '--cache', 'f16').code).toBe(0);
    const bytes = readFileSync(file);
    const other = generate('Once', file, '--cache', 'h1b:b=64,t=0.1');
    expect(other).toMatchObject({ code: 2, out: '' });
    expect(other.err).toMatch(/saved with cache f16; the one asked for is h1b:b=64,seed=0,t=0\.1/);
    expect(readFileSync(file)).toEqual(bytes);
    expect(generate('Once', file, '--cache', 'f16').code).toBe(0);

    const damaged = inFolder('damaged.session');
    const flipped = Uint8Array.from(bytes);
    flipped[flipped.length >> 1] ^= 1;
    for (const [contents, message] of [
      [flipped, /damaged\.session: is a damaged session: .*SHA-256/],
      [bytes.subarray(0, -1), /truncated/],
      [new TextEncoder().encode('precious words'), /is not a saved session/],
    ] as const) {
      writeFileSync(damaged, contents);
      const { code, out, err } = generate('Once', damaged);
      expect({ code, out }).toEqual({ code: 1, out: '' });
      expect(err).toMatch(message);
      expect(Uint8Array.from(readFileSync(damaged))).toEqual(Uint8Array.from(contents));
    }
  });

  test('an interrupt saves what was said', async () => {
    const file = inFolder('interrupted.session');
    const args = ['generate', 'The captain', '--max-tokens', '100000', '--temperature', '1'];
    const child = spawn(process.execPath, [cli, ...args, '--session', file]);
    const ended = new Promise((resolve) => child.once('exit', resolve));
    await new Promise((resolve) => child.stdout.once('data', resolve));
    child.kill('SIGINT');
    await ended;
    const state = await readSessionFile(file);
    expect(state.tokens.length).toBeGreaterThan(2);
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  describe('chat', () => {
    const chat = (lines: readonly string[], ...args: string[]) =>
      run(['chat', '--max-tokens', '12', ...args], lines.join('\n') + '\n');

    test('saves the cache, and loads it without computing it again', () => {
      const file = inFolder('talk.session');
      const before = chat(['Hello.', '/cache', `/save ${file}`, 'Tell me more.', '/cache']);
      const after = chat([`/load ${file}`, '/cache', 'Tell me more.', '/cache']);
      expect(before.err + after.err).toBe('');
      const positions = /: (\d+) positions in/.exec(before.out)?.[1];
      const saved = `(2 messages and ${positions} positions of the cache written to ${file})\n`;
      const loaded = `(2 messages; ${positions} positions of the cache restored: they are not computed again)\n`;
      const cacheLine = `: ${positions} positions in`;
      const goneOn = before.out.split(saved)[1];
      const [atOnce, ...restored] = after.out.split(loaded)[1].split('\n');
      expect(atOnce).toContain(cacheLine);
      expect(goneOn).toMatch(/: \d+ positions in/);
      expect(restored.join('\n')).toBe(goneOn);
    });

    test('keeps to the cache asked for, takes older files, and leaves sessions to generate', () => {
      const file = inFolder('talk-f16.session');
      chat(['Hello.', `/save ${file}`], '--cache', 'f16');
      expect(chat([`/load ${file}`, '/cache'], '--cache', 'f32').out).toMatch(
        /error: session: it was saved with cache f16; .* f32\. [^\n]*\nf32: 0 positions/,
      );
      expect(chat([`/load ${file}`, '/cache']).out).toMatch(/\nf16: \d+ positions/);
      const taken = generate('Once', file);
      expect(taken).toMatchObject({ code: 2, out: '' });
      expect(taken.err).toMatch(/holds a conversation of 2 messages\. Go on with it by h1bkv chat/);

      const older = inFolder('older.json');
      const messages = [{ role: 'user', content: 'Hello.' }];
      writeFileSync(older, JSON.stringify({ format: 'h1b-kv chat', version: 1, messages }));
      const story = inFolder('story.session');
      generate('Once', story);
      const nothing = inFolder('nothing');
      writeFileSync(nothing, '');
      const lines = [older, story, nothing, inFolder('none')].map((path) => `/load ${path}`);
      const { code, out } = chat([...lines, '/context']);
      expect(code).toBe(0);
      for (const said of [
        /\(1 messages\)$/m,
        /story\.session is a session without a conversation\. Go on with it by h1bkv generate/,
        /nothing is not a saved chat/,
        /none: cannot be opened/,
        /tokens, 1 messages$/m,
      ]) {
        expect(out).toMatch(said);
      }
    });
  });
});
