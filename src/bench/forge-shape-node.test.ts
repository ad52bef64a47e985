import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { openFileSource } from '../format/file-node.ts';
import { readGguf } from '../format/gguf.ts';
import { forgeGguf, type ForgeOptions } from './forge-node.ts';
import { forgedPath, forgedShape } from './forge-shape-node.ts';

const folder = mkdtempSync(join(tmpdir(), 'h1bkv-forge-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function typesOf(path: string) {
  const source = await openFileSource(path);
  const { tensors } = await readGguf(source);
  await source.close();
  return (name: string) => tensors.get(`${name}.weight`)?.type;
}

const mixed: Omit<ForgeOptions, 'headDim'> = {
  ...{ nLayers: 16, nHeads: 2, nKvHeads: 1, vocab: 300, dFeedForward: 256, contextLength: 64 },
  ...{ type: 'Q4_K', outputType: 'Q6_K', mixed: true, tied: true, seed: 1, tokenizer: 'bpe' },
};

test('a mix has more bits where llama.cpp has them', async () => {
  const path = join(folder, 'mix.gguf');
  await forgeGguf(path, { ...mixed, headDim: 128 });
  const type = await typesOf(path);
  expect(type('token_embd')).toBe('Q6_K');
  const finer = Array.from({ length: 16 }, (_, i) => i).filter((i) => {
    const isFiner = type(`blk.${i}.attn_v`) === 'Q6_K';
    expect(type(`blk.${i}.attn_v`)).toBe(isFiner ? 'Q6_K' : 'Q4_K');
    expect(type(`blk.${i}.ffn_down`)).toBe(isFiner ? 'Q6_K' : 'Q4_K');
    expect(type(`blk.${i}.attn_q`)).toBe('Q4_K');
    return isFiner;
  });
  // An eighth at each end, and every third between them.
  expect(finer).toEqual([0, 1, 4, 7, 10, 13, 14, 15]);
});

test('rows that are no whole blocks of 256 are in blocks of 32', async () => {
  const path = join(folder, 'odd.gguf');
  await forgeGguf(path, { ...mixed, headDim: 96 });
  const type = await typesOf(path);
  expect(type('blk.0.attn_q')).toBe('Q5_0');
  expect(type('blk.0.attn_v')).toBe('Q8_0');
  expect(type('blk.0.ffn_down')).toBe('Q6_K');
});

test('a shape is forged once', { timeout: 120_000 }, async () => {
  const forged: string[] = [];
  const forge = () => forgedShape(folder, 'smollm2-135m', 'q4_0', (path) => forged.push(path));
  const path = await forge();
  const { mtimeMs } = statSync(path);
  expect(await forge()).toBe(path);
  expect(statSync(path).mtimeMs).toBe(mtimeMs);
  expect(forged).toEqual([forgedPath(folder, 'smollm2-135m', 'q4_0')]);
  expect(existsSync(path)).toBe(true);
});
