/** The library as browsers get it, dist/browser, in Node: what it imports, and what it runs on. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { loadModel, Session } from '../src/index.ts';
import { firstTokens, type Answer } from './fixtures/first-tokens.mjs';
import { embeddedModel, packageRoot, say } from './forged.ts';

const bundle = join(packageRoot, 'dist', 'browser');
const isBuilt = existsSync(join(bundle, 'index.js'));
if (!isBuilt) say('skipped: test/browser-bundle.test.ts: no dist/browser; npm run build makes it');

describe.skipIf(!isBuilt)('the bundle for browsers', () => {
  test('imports nothing but itself', () => {
    const files = readdirSync(bundle).filter((file) => file.endsWith('.js'));
    const imports = files.flatMap((file) =>
      importsOf(readFileSync(join(bundle, file), 'utf8')).map((specifier) => ({ file, specifier })),
    );
    expect(imports.length).toBeGreaterThan(10);
    const own = files.map((file) => `./${file}`);
    const foreign = imports.filter(({ specifier }) => !own.includes(specifier));
    expect(foreign).toEqual([]);
  });

  test('computes without anything of Node', { timeout: 120_000 }, async () => {
    const script = join(packageRoot, 'test', 'fixtures', 'bare-context.mjs');
    const output = execFileSync(
      process.execPath,
      ['--experimental-vm-modules', '--no-warnings', script, bundle, embeddedModel, '8'],
      { encoding: 'utf8', timeout: 60_000 },
    );
    const { known, answer } = JSON.parse(output) as { known: string[]; answer: Answer };
    expect(known).toEqual([]);
    expect(answer.description).toMatch(/^wasm: .*, 1 thread \(the page is not cross-origin/);
    const here = await firstTokens({ loadModel, Session }, embeddedModel, 8);
    expect(answer.ids.f16).toHaveLength(8);
    expect(answer.ids).toEqual(here.ids);
  });
});

/** Specifiers of `import ... from "x"`, `export ... from "x"`, `import "x"` and `import("x")`. */
function importsOf(script: string): string[] {
  const isStatic = /^(?:import|export)\b[^;]*?["']([^"'\n]+)["'];?$/gm;
  const isDynamic = /\bimport\(\s*["']([^"']+)["']\s*\)/g;
  return [isStatic, isDynamic].flatMap((form) => [...script.matchAll(form)].map(([, x]) => x));
}
