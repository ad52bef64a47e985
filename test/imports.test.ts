import { readdirSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const src = fileURLToPath(new URL('../src', import.meta.url));

/** Rooms and the earlier rooms that each may import, besides itself. */
const base = ['errors', 'math'];
const leaves = ['format', 'tokenizer'];
const upToModel = [...base, 'kernels', 'cache', ...leaves, 'model'];
const tops = ['plan', 'bench', 'train', 'eval', 'server'];
const allowed: Record<string, readonly string[]> = {
  errors: [],
  math: ['errors'],
  kernels: base,
  cache: [...base, 'kernels'],
  format: base,
  tokenizer: base,
  model: [...base, 'kernels', 'cache', ...leaves],
  generate: upToModel,
  ...Object.fromEntries(tops.map((room) => [room, [...upToModel, 'generate']])),
  cli: [...upToModel, 'generate', ...tops],
  // the package's entry points stand outside the rooms
  '.': [...upToModel, 'generate', ...tops],
};

interface Import {
  readonly from: string;
  readonly specifier: string;
  readonly target: string | undefined;
}

const platformImports = JSON.parse(
  readFileSync(fileURLToPath(new URL('../package.json', import.meta.url)), 'utf8'),
).imports as Record<string, Record<string, string>>;

function sources(): string[] {
  return readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => file.split(sep).join('/'));
}

function importsOf(file: string): Import[] {
  const text = readFileSync(join(src, file), 'utf8');
  const found = text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g);
  return [...found].flatMap(([, specifier]): Import[] => {
    if (specifier.startsWith('#')) {
      return Object.values(platformImports[specifier]).map((path) => ({
        from: file,
        specifier,
        target: path.replace('./src/', ''),
      }));
    }
    if (!specifier.startsWith('.')) return [{ from: file, specifier, target: undefined }];
    const target = relative(src, join(src, file, '..', specifier))
      .split(sep)
      .join('/');
    return [{ from: file, specifier, target }];
  });
}

const room = (file: string) => (file.includes('/') ? file.slice(0, file.indexOf('/')) : '.');
const isTest = (file: string) => file.endsWith('.test.ts') || file.endsWith('-contract.ts');
const imports = sources().flatMap(importsOf);

test('every room imports itself and earlier rooms only', () => {
  expect(imports.length).toBeGreaterThan(100);
  const wrong = imports.filter(({ from, target }) => {
    if (target === undefined || target.startsWith('..') || isTest(from)) return false;
    return room(from) !== room(target) && !allowed[room(from)]?.includes(room(target));
  });
  expect(wrong.map(({ from, specifier }) => `${from} imports ${specifier}`)).toEqual([]);
});

test('node: imports stay in the files that only Node reaches', () => {
  const wrong = imports.filter(
    ({ from, specifier }) =>
      specifier.startsWith('node:') &&
      !(from.startsWith('cli/') || from === 'kernels/native.ts') &&
      !(from.endsWith('-node.ts') || isTest(from)),
  );
  expect(wrong.map(({ from, specifier }) => `${from} imports ${specifier}`)).toEqual([]);
});

test('nothing that a browser reaches imports a Node file', () => {
  const nodeFiles = (file: string | undefined) => file?.endsWith('-node.ts') ?? false;
  const wrong = imports.filter(
    ({ from, specifier, target }) =>
      nodeFiles(target) &&
      !specifier.startsWith('#') &&
      !(from.startsWith('cli/') || nodeFiles(from) || isTest(from)),
  );
  expect(wrong.map(({ from, specifier }) => `${from} imports ${specifier}`)).toEqual([]);
});
