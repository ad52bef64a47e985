import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { temporaryFolder, tinyShape } from '../../test/forged.ts';
import { hfJson, hfTensors, safetensorsBytes } from '../../test/hf-twin.ts';
import { forgeBytes } from '../bench/forge-node.ts';
import { getString, requireTensor } from './gguf-access.ts';
import { readTensorInto } from './gguf.ts';
import { openHfFolder } from './hf-folder-node.ts';
import type { HfModel } from './hf-model.ts';
import { memorySource } from './source.ts';

const folder = join(temporaryFolder(), 'made-up-model');
const bytes = await forgeBytes(tinyShape);
const json = await hfJson(bytes);
const parts = await hfTensors(memorySource(bytes, 'forged'));

const write = (name: string, value: object) =>
  writeFile(join(folder, name), value instanceof Uint8Array ? value : JSON.stringify(value));

beforeEach(async () => {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await write('config.json', json.config);
  await write('tokenizer.json', json.tokenizerJson);
  await write('model.safetensors', safetensorsBytes(parts));
});

async function normOf({ gguf, source }: HfModel): Promise<Uint8Array> {
  const tensor = requireTensor(gguf, 'output_norm.weight', [32]);
  const target = new Uint8Array(tensor.sizeBytes);
  await readTensorInto(source, tensor, target);
  return target;
}

const stored = parts.find(({ name }) => name === 'model.norm.weight')?.bytes;

test('a folder with one file, named after the folder', async () => {
  const model = await openHfFolder(folder);
  expect(getString(model.gguf, 'general.name')).toBe('made-up-model');
  expect(model.gguf.metadata.has('tokenizer.ggml.eos_token_id')).toBe(false);
  expect(model.gguf.metadata.has('tokenizer.chat_template')).toBe(false);
  expect(await normOf(model)).toEqual(stored);
  await model.source.close();
});

test('shards by their index, with the optional files', async () => {
  await rm(join(folder, 'model.safetensors'));
  const shards = { 'a.safetensors': parts.slice(0, 5), 'b.safetensors': parts.slice(5) };
  const weightMap: Record<string, string> = {};
  for (const [file, some] of Object.entries(shards)) {
    await write(file, safetensorsBytes(some));
    for (const { name } of some) weightMap[name] = file;
  }
  await write('model.safetensors.index.json', { weight_map: weightMap });
  await write('tokenizer_config.json', { ...json.tokenizerConfig, chat_template: 'old' });
  await write('generation_config.json', { eos_token_id: [3] });
  await writeFile(join(folder, 'chat_template.jinja'), 'new');
  const model = await openHfFolder(folder);
  expect(await normOf(model)).toEqual(stored);
  expect(getString(model.gguf, 'tokenizer.chat_template')).toBe('new');
  expect(model.gguf.metadata.get('tokenizer.ggml.eos_token_id')).toBe(256);
  expect(model.gguf.metadata.get('tokenizer.ggml.eot_token_id')).toBe(3);
  await model.source.close();

  await rm(join(folder, 'b.safetensors'));
  await expect(openHfFolder(folder)).rejects.toMatchObject({
    code: 'io',
    message: expect.stringContaining('b.safetensors: cannot be opened'),
  });
});

test.each(['config.json', 'tokenizer.json'])('without %s it says so', async (name) => {
  await rm(join(folder, name));
  const opening = openHfFolder(folder);
  await expect(opening).rejects.toMatchObject({ name: 'KvError', code: 'io' });
  await expect(opening).rejects.toThrow(`${name} is missing`);
});

test('without weights it says which files were looked for', async () => {
  await rm(join(folder, 'model.safetensors'));
  const opening = openHfFolder(folder);
  await expect(opening).rejects.toMatchObject({ code: 'io' });
  await expect(opening).rejects.toThrow(
    'has neither model.safetensors nor model.safetensors.index.json',
  );
});

test('an index cannot name files outside the folder', async () => {
  await rm(join(folder, 'model.safetensors'));
  await write('model.safetensors.index.json', { weight_map: { x: '../a.safetensors' } });
  await expect(openHfFolder(folder)).rejects.toMatchObject({
    code: 'format',
    message: expect.stringContaining('names shards that are no files of the folder'),
  });
});

test('a file that is no JSON is named', async () => {
  await writeFile(join(folder, 'config.json'), '{');
  await expect(openHfFolder(folder)).rejects.toMatchObject({
    code: 'format',
    message: expect.stringContaining('config.json is no JSON'),
  });
});
