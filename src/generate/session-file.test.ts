import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { temporaryFolder } from '../../test/forged.ts';
import { memorySource, type ByteSource } from '../format/source.ts';
import { readSessionFile, writeSessionFile } from './session-file-node.ts';
import { decodeSession, encodeSession } from './session-file.ts';
import type { SessionState } from './session-state.ts';

const state: SessionState = {
  engine: '1.2.3',
  model: { name: 'tiny', hash: 'ab'.repeat(32) },
  adapter: 'cd'.repeat(32),
  spec: 'h1b:b=64,seed=0,t=head',
  tokens: Int32Array.of(1, 2, 300, 2 ** 31 - 1),
  cache: {
    length: 3,
    numbers: { pivot: 1 / 3 },
    blocks: [Uint8Array.of(1, 2, 3), new Uint8Array(0), new Uint8Array(300).fill(7)],
  },
};

async function encode(saved: SessionState): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of encodeSession(saved)) pieces.push(piece);
  return Uint8Array.from(pieces.flatMap((piece) => [...piece]));
}

const folder = temporaryFolder();

const decode = (bytes: Uint8Array) => decodeSession(memorySource(bytes, 'talk'));

/** The state's file with another header, under the same seal. */
async function withHeader(header: string | Uint8Array): Promise<Uint8Array> {
  const whole = await encode(state);
  const end = 16 + new DataView(whole.buffer).getUint32(12, true);
  const json = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const bytes = Uint8Array.from([...whole.subarray(0, 16), ...json, ...whole.subarray(end)]);
  new DataView(bytes.buffer).setUint32(12, json.length, true);
  return bytes;
}

async function headerOf(saved: SessionState): Promise<Record<string, unknown>> {
  const whole = await encode(saved);
  const end = 16 + new DataView(whole.buffer).getUint32(12, true);
  return JSON.parse(new TextDecoder().decode(whole.subarray(16, end))) as Record<string, unknown>;
}

describe('a session file', () => {
  test('gives back what was written', async () => {
    expect(await decode(await encode(state))).toEqual(state);
    const messages = [
      { role: 'user', content: 'Ωhello' },
      { role: 'assistant', content: '…', interrupted: true as const },
    ];
    const bare: SessionState = {
      ...state,
      adapter: undefined,
      tokens: new Int32Array(0),
      cache: { length: 0, numbers: {}, blocks: [] },
      messages,
    };
    expect(await decode(await encode(bare))).toEqual(bare);
    const blob = new Blob([(await encode(bare)) as Uint8Array<ArrayBuffer>]);
    expect(await decodeSession(blob)).toEqual(bare);
  });

  test('of any contents gives them back', async () => {
    const words = fc.string({ unit: 'binary' });
    const contents = fc.record({
      engine: words,
      model: fc.record({ name: words, hash: words }),
      adapter: fc.option(words, { nil: undefined }),
      spec: words,
      tokens: fc.int32Array({ minLength: 9, maxLength: 30 }),
      cache: fc.record({
        length: fc.nat(9),
        numbers: fc.dictionary(fc.string(), fc.integer(), { noNullPrototype: true }),
        blocks: fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 5 }),
      }),
    });
    await fc.assert(
      fc.asyncProperty(contents, async (saved) => {
        expect(await decode(await encode(saved))).toEqual(saved);
      }),
      { numRuns: 100 },
    );
  });

  test('hands out the blocks themselves, not copies', async () => {
    const pieces: Uint8Array[] = [];
    for await (const piece of encodeSession(state)) pieces.push(piece);
    for (const block of state.cache.blocks) expect(pieces).toContain(block);
  });

  test('with any bit flipped is refused', async () => {
    const whole = await encode(state);
    for (let at = 0; at < whole.length; at++) {
      const bytes = whole.slice();
      bytes[at] ^= 1 << (at % 8);
      await expect(decode(bytes), `byte ${at}`).rejects.toMatchObject({ code: 'format' });
    }
  });

  test('cut off anywhere is refused', async () => {
    const whole = await encode(state);
    for (let length = 0; length < whole.length; length++) {
      const refusal = length < 8 ? /not a saved session/ : /it should have \d+ bytes and has \d+/;
      await expect(decode(whole.subarray(0, length)), `${length} bytes`).rejects.toMatchObject({
        code: 'format',
        message: expect.stringMatching(refusal),
      });
    }
  });

  test('is refused with the reason', async () => {
    const whole = await encode(state);
    const header = await headerOf(state);
    const changed = (change: object) => withHeader(JSON.stringify({ ...header, ...change }));
    const set = (at: number, value: number) => {
      const bytes = whole.slice();
      new DataView(bytes.buffer).setUint32(at, value, true);
      return bytes;
    };
    const cases: [Uint8Array | Promise<Uint8Array>, RegExp][] = [
      [new TextEncoder().encode('{"format":"h1b-kv chat"}'), /does not begin with H1BKVSES\. Name/],
      [set(8, 2), /of version 2; this program reads up to 1\. Update h1b-kv/],
      [set(8, 0), /its version is 0/],
      [set(12, 2 ** 32 - 1), /truncated/],
      [Uint8Array.from([...whole, 0]), /1 bytes follow its end at \d+\. Use another copy/],
      [withHeader('{"model":'), /header is not JSON/],
      [withHeader(Uint8Array.of(0x22, 0xff, 0x22)), /header is not JSON/],
      [withHeader('null'), /no usable engine, model/],
      [withHeader('[]'), /no usable engine, model/],
      [changed({ model: { name: 1 } }), /no usable model/],
      [changed({ tokens: -1 }), /no usable tokens/],
      [changed({ tokens: 2 ** 60 }), /no usable tokens/],
      [changed({ tokens: 2 ** 50 }), /truncated/],
      [changed({ length: 5 }), /no usable length/],
      [changed({ numbers: { pivot: null } }), /no usable numbers/],
      [changed({ numbers: [1] }), /no usable numbers/],
      [changed({ blocks: [1e15, 1] }), /truncated/],
      [changed({ blocks: [1.5] }), /no usable blocks/],
      [changed({ blocks: Array(3000).fill(2 ** 52) }), /truncated/],
      [changed({ messages: [{ role: 'user' }] }), /no usable messages/],
      [changed({ cache: 'f16' }), /do not match the SHA-256/],
    ];
    for (const [bytes, message] of cases) {
      await expect(decode(await bytes), String(message)).rejects.toMatchObject({
        code: 'format',
        message: expect.stringMatching(message),
      });
    }
  });

  test('that promises more than it has is refused before memory is taken', async () => {
    const bytes = await withHeader(
      JSON.stringify({ ...(await headerOf(state)), blocks: [2 ** 40] }),
    );
    const asked: number[] = [];
    const memory = memorySource(bytes, 'talk');
    const source: ByteSource = {
      ...memory,
      read(offset, target) {
        asked.push(target.length);
        return memory.read(offset, target);
      },
    };
    await expect(decodeSession(source)).rejects.toMatchObject({ code: 'format' });
    expect(Math.max(...asked)).toBeLessThanOrEqual(bytes.length);
  });

  test('on disk: written, read, and replaced', async () => {
    const path = join(folder, 'talk.session');
    await writeSessionFile(path, encodeSession(state));
    expect(Uint8Array.from(readFileSync(path))).toEqual(await encode(state));
    const later = { ...state, engine: '1.2.4' };
    await writeSessionFile(path, encodeSession(later));
    expect(await readSessionFile(path)).toEqual(later);
    expect(readdirSync(folder)).toEqual(['talk.session']);
  });

  test('on disk: a failure in mid-save leaves the old one and nothing else', async () => {
    const path = join(folder, 'talk.session');
    writeFileSync(path, 'precious');
    async function* failing() {
      yield new Uint8Array(1000);
      throw new Error('test: the power is gone.');
    }
    await expect(writeSessionFile(path, failing())).rejects.toThrow(/power/);
    expect(readFileSync(path, 'utf8')).toBe('precious');
    expect(readdirSync(folder)).toEqual(['talk.session']);
    const nowhere = join(folder, 'nowhere', 'talk.session');
    await expect(writeSessionFile(nowhere, encodeSession(state))).rejects.toMatchObject({
      code: 'io',
    });
    await expect(readSessionFile(nowhere)).rejects.toMatchObject({ code: 'io' });
  });
});
