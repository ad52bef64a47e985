import { access, readFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { KvError, ensure } from '../errors/errors.ts';
import { openFileSource } from './file-node.ts';
import { asObject } from './hf-json.ts';
import { readHfModel, type HfModel } from './hf-model.ts';
import type { ByteSource } from './source.ts';

/** Larger than the largest tokenizer.json, which have some 35 MB. */
const maxJsonBytes = 2 ** 27;

/** The largest models have some 200 shards. */
const maxShards = 1024;

/**
 * Opens a folder as Hugging Face's hub has it: config.json, tokenizer.json, and model.safetensors
 * or model.safetensors.index.json with its shards; tokenizer_config.json, generation_config.json
 * and chat_template.jinja where they exist. Close the source.
 * @throws KvError "io" naming what is missing, "format" or "unsupported" from `readHfModel`
 */
export async function openHfFolder(folder: string): Promise<HfModel> {
  const [config, tokenizerJson] = [
    await requiredJson(folder, 'config.json'),
    await requiredJson(folder, 'tokenizer.json'),
  ];
  const tokenizerConfig = await readTokenizerConfig(folder);
  const generationConfig = await optionalJson(folder, 'generation_config.json');
  const { names, index } = await shardNames(folder);
  const sources: ByteSource[] = [];
  try {
    for (const name of names) sources.push(await openFileSource(join(folder, name)));
    return await readHfModel({
      name: basename(resolve(folder)),
      config,
      tokenizerJson,
      tokenizerConfig,
      generationConfig,
      shards: sources.map((source) => ({ source })),
      index,
    });
  } catch (error) {
    for (const source of sources) await source.close();
    throw error;
  }
}

/** Newer folders keep the chat template in a file of its own. */
async function readTokenizerConfig(folder: string): Promise<unknown> {
  const settings = await optionalJson(folder, 'tokenizer_config.json');
  const template = await optionalText(folder, 'chat_template.jinja');
  if (template === undefined) return settings;
  return { ...asObject(settings ?? {}, 'tokenizer_config.json'), chat_template: template };
}

async function shardNames(folder: string): Promise<{ names: readonly string[]; index: unknown }> {
  const single = 'model.safetensors';
  const indexName = `${single}.index.json`;
  if (await exists(join(folder, single))) return { names: [single], index: undefined };
  const index = await optionalJson(folder, indexName);
  ensure(
    index !== undefined,
    'io',
    () =>
      `${folder}: has neither ${single} nor ${indexName}; need one. Fetch the model as ` +
      `safetensors, or name a GGUF file.`,
  );
  const where = `${folder}: ${indexName}`;
  const map = asObject(asObject(index, where).weight_map, `${where}: "weight_map"`);
  const names = [...new Set(Object.values(map))];
  ensure(
    names.length <= maxShards && names.every(isPlainName),
    'format',
    () => `${where} names shards that are no files of the folder. Fetch it again.`,
  );
  return { names: names.filter(isPlainName).sort(), index };
}

/** An index must not make us open files elsewhere. */
function isPlainName(name: unknown): name is string {
  return typeof name === 'string' && /^[\w.-]+\.safetensors$/.test(name);
}

async function requiredJson(folder: string, name: string): Promise<unknown> {
  const json = await optionalJson(folder, name);
  ensure(
    json !== undefined,
    'io',
    () => `${folder}: ${name} is missing. Fetch the whole model folder, or name a GGUF file.`,
  );
  return json;
}

async function optionalJson(folder: string, name: string): Promise<unknown> {
  const text = await optionalText(folder, name);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new KvError('format', `${folder}: ${name} is no JSON. Fetch it again.`, { cause });
  }
}

async function optionalText(folder: string, name: string): Promise<string | undefined> {
  const path = join(folder, name);
  if (!(await exists(path))) return undefined;
  const source = await openFileSource(path);
  await source.close();
  ensure(
    source.sizeBytes <= maxJsonBytes,
    'format',
    () => `${path} has ${source.sizeBytes} bytes; at most ${maxJsonBytes} are allowed.`,
  );
  return readFile(path, 'utf8').catch((cause: unknown) => {
    throw new KvError('io', `${path}: cannot be read. Check its permissions.`, { cause });
  });
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
