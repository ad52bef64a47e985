/** A Hugging Face model, made to look like a GGUF file, so that everything downstream is the same. */
import { KvError, ensure } from '../errors/errors.ts';
import { dequantize, encode, type EncodableDType } from '../math/blocks.ts';
import type { Gguf, GgufTensor } from './gguf.ts';
import { ggufModelMetadata, readHfConfig, type HfConfig } from './hf-config.ts';
import { asObject, optionalObject } from './hf-json.ts';
import { isRedundant, wantedTensors, type WantedTensor } from './hf-tensor-names.ts';
import { ggufTokenizerMetadata } from './hf-tokenizer.ts';
import { joinSources } from './joined-source.ts';
import { readSafetensors, type SafetensorsEntry } from './safetensors.ts';
import { memorySource, type ByteSource } from './source.ts';

/** The parsed files of a model folder. */
export interface HfFiles {
  /** The model's name, and what messages call it. */
  readonly name: string;
  readonly config: unknown;
  readonly generationConfig?: unknown;
  readonly tokenizerJson?: unknown;
  readonly tokenizerConfig?: unknown;
  readonly shards: readonly { readonly source: ByteSource }[];
  /** model.safetensors.index.json, where the model is in several shards */
  readonly index?: unknown;
}

export interface HfModel {
  readonly gguf: Gguf;
  /** What the offsets of `gguf` refer to. Closing it closes the shards. */
  readonly source: ByteSource;
  readonly tokenizerJson: unknown;
  readonly tokenizerConfig: unknown;
}

const dtypes: ReadonlyMap<string, EncodableDType> = new Map([
  ['F32', 'f32'],
  ['F16', 'f16'],
  ['BF16', 'bf16'],
]);

/** Vectors are converted in memory; the longest real ones have some 50,000 elements. */
const maxVectorElements = 2 ** 20;

/**
 * Maps config, tokenizer and tensors to GGUF's names. Matrices stay where and as they are; vectors
 * become f32, as GGUF has them. The joined source is: the JSON files, in place of a GGUF header,
 * so that a model's hash covers them; the shards; then what was made here.
 * @throws KvError "format" if something is missing or damaged, "unsupported" for a model that the
 *   engine cannot run. The shards stay open then.
 */
export async function readHfModel(files: HfFiles): Promise<HfModel> {
  const { name, tokenizerJson, tokenizerConfig } = files;
  const config = readHfConfig(files.config, files.generationConfig);
  const { config: json, generationConfig } = files;
  const header = new TextEncoder().encode(
    JSON.stringify({ json, generationConfig, tokenizerJson, tokenizerConfig }),
  );
  const shards = files.shards.map((shard) => shard.source);
  const stored = joinSources([memorySource(header, 'header'), ...shards], name);
  const found = await readShards(shards, stored.starts.slice(1), name);
  checkIndex(files.index, found, name);

  const made = new MadeTensors(stored.source.sizeBytes);
  const tensors = new Map<string, GgufTensor>();
  for (const wanted of wantedTensors(config)) {
    const tensor = placed(wanted, found, name);
    const isVector = tensor.shape.length === 1 && tensor.type !== 'F32';
    tensors.set(tensor.name, isVector ? await made.addFrom(tensor, stored.source) : tensor);
  }
  if (config.ropeFactors) {
    const factors = made.add('rope_freqs.weight', config.ropeFactors);
    tensors.set(factors.name, factors);
  }
  refuseUnknown(found, config, name);

  const metadata = ggufModelMetadata(config, name);
  // Not before the embedding is known to be there: it proves vocab_size, which sizes the vocabulary.
  if (tokenizerJson !== undefined) {
    const tokenizer = ggufTokenizerMetadata(tokenizerJson, tokenizerConfig, config);
    for (const [key, entry] of tokenizer) metadata.set(key, entry);
  }
  const values = [...metadata].map(([key, { value }]) => [key, value] as const);
  const types = [...metadata].map(([key, { type }]) => [key, type] as const);
  return {
    gguf: {
      version: 3,
      metadata: new Map(values),
      metadataTypes: new Map(types),
      tensors,
      alignment: 1,
      dataOffset: header.length,
    },
    source: joinSources([stored.source, made.source(name)], name).source,
    tokenizerJson,
    tokenizerConfig,
  };
}

/** Tensors of all shards by name, with offsets into the joined source. */
async function readShards(
  shards: readonly ByteSource[],
  starts: readonly number[],
  name: string,
): Promise<Map<string, SafetensorsEntry>> {
  const found = new Map<string, SafetensorsEntry>();
  for (const [i, shard] of shards.entries()) {
    for (const [tensor, entry] of (await readSafetensors(shard)).tensors) {
      ensure(
        !found.has(tensor),
        'format',
        () => `${name}: tensor "${tensor}" is in two shards. Fetch the model again.`,
      );
      found.set(tensor, { ...entry, offset: starts[i] + entry.offset });
    }
  }
  return found;
}

function checkIndex(index: unknown, found: ReadonlyMap<string, unknown>, name: string): void {
  if (index === undefined) return;
  const where = `${name}: model.safetensors.index.json`;
  const map = optionalObject(asObject(index, where), 'weight_map', where);
  const missing = Object.keys(map ?? {}).find((tensor) => !found.has(tensor));
  ensure(
    missing === undefined,
    'format',
    () => `${where} lists tensor "${missing}"; no shard has it. Fetch all shards again.`,
  );
}

function placed(
  { hfName, ggufName, shape }: WantedTensor,
  found: ReadonlyMap<string, SafetensorsEntry>,
  name: string,
): GgufTensor {
  const entry = found.get(hfName);
  if (!entry) {
    throw new KvError(
      'format',
      `${name}: tensor "${hfName}" is missing; the shards have ${found.size} tensors. ` +
        `Fetch all shards, and the config.json that belongs to them.`,
    );
  }
  const { dtype: type, offset, sizeBytes } = entry;
  ensure(
    entry.shape.join() === shape.join(),
    'format',
    () =>
      `${name}: tensor "${hfName}" is [${entry.shape.join(', ')}]; config.json needs ` +
      `[${shape.join(', ')}]. Fetch both again.`,
  );
  const dtype = dtypes.get(type);
  ensure(
    dtype !== undefined,
    'unsupported',
    () =>
      `${name}: tensor "${hfName}" is ${type}; supported: ${[...dtypes.keys()].join(' ')}. ` +
      `Use the unquantized model.`,
  );
  return { name: ggufName, type, dtype, shape, offset, sizeBytes };
}

function refuseUnknown(found: ReadonlyMap<string, unknown>, config: HfConfig, name: string): void {
  const known = new Set(wantedTensors(config).map(({ hfName }) => hfName));
  for (const tensor of found.keys()) {
    ensure(
      known.has(tensor) || isRedundant(tensor, config),
      'unsupported',
      () =>
        `${name}: tensor "${tensor}" is none that ${config.architecture} models have; ignoring ` +
        `it would give wrong results. Use another model.`,
    );
  }
}

/** Tensors in f32 that the files do not have as such, to be joined after them. */
class MadeTensors {
  private readonly parts: Uint8Array<ArrayBuffer>[] = [];

  /** @param end where the first of them goes, in bytes */
  constructor(private end: number) {}

  add(name: string, values: Float32Array): GgufTensor {
    const bytes = encode('f32', values);
    const offset = this.end;
    this.parts.push(bytes);
    this.end += bytes.length;
    const shape = [values.length];
    return { name, type: 'F32', dtype: 'f32', shape, offset, sizeBytes: bytes.length };
  }

  /** A stored vector in f32. */
  async addFrom(tensor: GgufTensor, source: ByteSource): Promise<GgufTensor> {
    const { name, dtype, shape, offset, sizeBytes } = tensor;
    const [count] = shape;
    ensure(
      dtype !== undefined && count <= maxVectorElements,
      'format',
      () => `${source.name}: vector "${name}" has ${count} elements; at most ${maxVectorElements}.`,
    );
    const bytes = new Uint8Array(sizeBytes);
    await source.read(offset, bytes);
    return this.add(name, dequantize(dtype, bytes, count));
  }

  source(name: string): ByteSource {
    return joinSources(
      this.parts.map((part) => memorySource(part, name)),
      name,
    ).source;
  }
}
