import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { KvError } from '../errors/errors.ts';
import { csvRows } from './csv.ts';
import { openData, readData } from './data-node.ts';
import { dataFiles, jsonLines, textIn } from './data.ts';
import { tarFiles } from './tar.ts';

const folder = mkdtempSync(join(tmpdir(), 'h1b-data-'));
afterAll(() => rmSync(folder, { recursive: true }));

const at = (name: string, content: string | Uint8Array): string => {
  const path = join(folder, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, content);
  return path;
};

const failure = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

/** A file in a tar archive: its header and its content, in blocks of 512. */
function tarEntry(name: string, content: string, kind = '0'): Buffer {
  const body = Buffer.from(content);
  const header = Buffer.alloc(512);
  header.write(name, 0);
  header.write(body.length.toString(8).padStart(11, '0'), 124);
  header.write(kind, 156);
  header.write('ustar', 257);
  return Buffer.concat([header, body, Buffer.alloc((512 - (body.length % 512)) % 512)]);
}

describe('comma-separated values', () => {
  test.each([
    ['a,b\nc,d\n', [['a', 'b'], ['c', 'd']]], // prettier-ignore
    ['"a, b","say ""no""",c', [['a, b', 'say "no"', 'c']]],
    ['"two\nlines",x\r\ny,\r\n', [['two\nlines', 'x'], ['y', '']]], // prettier-ignore
    ['\n\na,"",b\n\n', [['a', '', 'b']]],
    ['3" pipe,"open', [['3" pipe', '"open']]],
    ['', []],
  ])('%j', (text, rows) => expect(csvRows(text)).toEqual(rows));

  test('whatever is quoted comes back', () => {
    const cell = fc.string({ unit: fc.constantFrom('a', ',', '"', '\n', '\r', ' ') });
    fc.assert(
      fc.property(fc.array(fc.array(cell, { minLength: 2, maxLength: 4 })), (rows) => {
        const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`;
        const text = rows.map((row) => row.map(quoted).join(',')).join('\n');
        expect(csvRows(text)).toEqual(rows);
      }),
    );
  });
});

describe('tar', () => {
  test('gives plain files, and passes over the rest', () => {
    const archive = Buffer.concat([
      tarEntry('dev/', '', '5'),
      tarEntry('dev/a.csv', 'x'.repeat(600)),
      tarEntry('link', '', '2'),
      tarEntry('b.csv', 'y'),
      Buffer.alloc(1024),
    ]);
    const files = tarFiles('t', archive).map(({ name, bytes }) => [name, bytes.length]);
    expect(files).toEqual([['dev/a.csv', 600], ['b.csv', 1]]); // prettier-ignore
  });

  test('what is cut off or something else is refused, never read past its end', () => {
    const archive = tarEntry('a.csv', 'x'.repeat(600));
    expect(() => tarFiles('t', archive.subarray(0, 1000))).toThrow(failure('format', /cut off/));
    expect(() => tarFiles('t', Buffer.alloc(2000, 'a'))).toThrow(failure('format', /no tar/));
    fc.assert(
      fc.property(fc.nat(511), fc.nat(255), (place, value) => {
        const damaged = Buffer.from(archive);
        damaged[place] = value;
        try {
          for (const { bytes } of tarFiles('t', damaged)) {
            expect(bytes.length).toBeLessThanOrEqual(archive.length);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(KvError);
        }
      }),
    );
  });
});

describe('the files of a data set', () => {
  test('are the same as files, packed, in folders or in an archive', () => {
    const archive = Buffer.concat([tarEntry('d/a.csv', 'A'), tarEntry('d/._a.csv', '?')]);
    const packed = Buffer.concat([archive, tarEntry('README', '?'), Buffer.alloc(1024)]);
    const a = [{ name: 'a.csv', text: 'A' }];
    expect(readData(at('plain/a.csv', 'A'))).toEqual(a);
    expect(readData(at('packed/a.csv.gz', gzipSync('A')))).toEqual(a);
    expect(readData(at('all.tar.gz', gzipSync(packed)))).toEqual(a);
    expect(readData(at('all.tar', packed))).toEqual(a);
    at('tree/z/a.csv', 'A');
    at('tree/notes.txt', '?');
    at('tree/b.jsonl', 'B');
    expect(readData(join(folder, 'tree'))).toEqual([...a, { name: 'b.jsonl', text: 'B' }]);
  });

  test.each([
    ['nowhere.jsonl', 'io', /nowhere.jsonl cannot be read/],
    ['empty', 'io', /holds no .jsonl or .csv files/],
    ['torn.jsonl.gz', 'format', /cannot be unpacked/],
    ['other.tar.gz', 'format', /no tar archive/],
    ['test.parquet', 'unsupported', /test.parquet is Parquet; JSON lines, .*read_parquet/],
  ])('%s is refused', (name, code, message) => {
    at('empty/notes.txt', '?');
    at('test.parquet', 'PAR1 and more');
    at('torn.jsonl.gz', gzipSync('A'.repeat(1000)).subarray(0, 20));
    at('other.tar.gz', gzipSync('A'.repeat(1000)));
    expect(() => readData(join(folder, name))).toThrow(failure(code, message));
  });

  describe('on the hub', () => {
    /** Serves these files, and keeps what it was asked. */
    const hub = (files: Record<string, string | Uint8Array>) => {
      const asked: string[] = [];
      const fetch: typeof globalThis.fetch = async (url) => {
        asked.push(String(url));
        const found = Object.entries(files).find(([path]) => String(url).endsWith(path));
        const body = typeof found?.[1] === 'string' ? found[1] : Uint8Array.from(found?.[1] ?? []);
        return new Response(body, { status: found ? 200 : 404 });
      };
      return {
        asked,
        options: { fetch, endpoint: 'https://hub.test', token: '', retryDelayMs: 1 },
      };
    };

    test('are files of a data set repository, at a revision if one is named', async () => {
      const { asked, options } = hub({ 'a%20b.jsonl': 'A', 'b.csv.gz': gzipSync('B') });
      const spaced = await openData('hf:o/r.x/d/a b.jsonl', options);
      expect(spaced).toEqual([{ name: 'a b.jsonl', text: 'A' }]);
      const packed = await openData('hf:o/r/b.csv.gz@v1', options);
      expect(packed).toEqual([{ name: 'b.csv', text: 'B' }]);
      expect(asked).toEqual([
        'https://hub.test/datasets/o/r.x/resolve/main/d/a%20b.jsonl',
        'https://hub.test/datasets/o/r/resolve/v1/b.csv.gz',
      ]);
      expect(await openData(at('local.csv', 'C'))).toEqual([{ name: 'local.csv', text: 'C' }]);
    });

    test.each<[string, KvError['code'], RegExp]>([
      ['hf:o/r', 'usage', /names no file on the hub\. Write hf:owner\/repo\/file/],
      ['hf:o/r/../../x.jsonl', 'usage', /names no file on the hub/],
      ['hf:o/r/none.jsonl', 'usage', /there is no datasets\/o\/r\/none.jsonl at revision "main"/],
      ['hf:o/r/x.parquet', 'unsupported', /hf:o\/r\/x.parquet is Parquet/],
    ])('%s is refused', async (spec, code, message) => {
      const { options } = hub({ 'x.parquet': 'PAR1...' });
      const opening = openData(spec, options);
      await expect(opening).rejects.toMatchObject({ name: 'KvError', code });
      await expect(opening).rejects.toThrow(message);
    });
  });

  test('are found by a word of their names', () => {
    const data = { x: [{ name: 'x-test.jsonl', text: '' }] };
    expect(dataFiles({ data }, 'x', 'JSON', 'test')).toEqual(data.x);
    expect(() => dataFiles({ data }, 'x', 'a train file', 'train')).toThrow(
      failure('usage', /x is given x-test.jsonl; it needs a train file. Give --data x=PATH/),
    );
    expect(() => dataFiles({}, 'x', 'JSON')).toThrow(failure('usage', /x has no data/));
  });
});

describe('JSON lines', () => {
  const read = (text: string) => jsonLines({ name: 'f', text });

  test('say where they stand', () => {
    const rows = read('{"a":"x"}\n\n{"a":"y"}\r\n');
    expect(rows.map((row) => [row.where, textIn(row, 'a')])).toEqual([
      ['line 1 of f', 'x'],
      ['line 3 of f', 'y'],
    ]);
  });

  test.each([
    ['', /f is empty/],
    ['{"a":1}\n{', /line 2 of f is not JSON/],
    ['[1]', /line 1 of f is not a JSON object/],
    ['null', /not a JSON object/],
  ])('%j is refused', (text, message) => {
    expect(() => read(text)).toThrow(failure('format', message));
  });

  test.each(['{"b":"x","c":1}', '{"a":1,"b":"x"}', '{"a":"","b":"x"}'])(
    'no text in a column: %s',
    (line) => {
      expect(() => textIn(read(line)[0], 'a')).toThrow(
        failure('format', /line 1 of f has no text in the column "a"; it has .*b/),
      );
    },
  );
});
