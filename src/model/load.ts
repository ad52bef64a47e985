import { openModel } from '#model-platform';
import { createCache } from '../cache/registry.ts';
import { ensure } from '../errors/errors.ts';
import type { Gguf } from '../format/gguf.ts';
import { getString } from '../format/gguf-access.ts';
import { modelHash } from '../format/model-hash.ts';
import { blobSource, type ByteSource } from '../format/source.ts';
import type { BackendChoice, Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { chatTemplateOf } from '../tokenizer/chat-template.ts';
import { tokenizerFromGguf } from '../tokenizer/gguf-tokenizer.ts';
import { adapterSuffix, readAdapter, type AdapterFile } from './adapter-file.ts';
import type { Model } from './model.ts';
import { openGguf, type OpenedModel, type OpenOptions } from './open.ts';
import { modelFamily } from './registry.ts';
import { WeightLoader, type LoadProgress } from './weights.ts';

export interface LoadOptions extends OpenOptions {
  /** `auto` (the default) takes the fastest backend that works here. */
  readonly backend?: BackendChoice;
  /** Threads for the kernels; default: as many as the machine has cores. */
  readonly threads?: number;
  /** Kernels to share between models; they are not disposed with the model. */
  readonly kernels?: Kernels;
  /**
   * An adapter file: its bytes, with its name for messages if it has one; or false for none. Default:
   * `<model>.adapter.safetensors` beside the model, where there is one.
   */
  readonly adapter?: Uint8Array | AdapterFile | false;
  readonly onProgress?: LoadProgress;
}

/**
 * Loads a model. The file is closed when this returns.
 * @param input a path, a folder with safetensors or `hf:owner/repo[/file]` (Node), a URL, a Blob such
 *   as a File from an input element, or a byte source
 * @throws KvError "format", "unsupported", "memory" or "io", with nothing left allocated
 */
export async function loadModel(
  input: string | URL | Blob | ByteSource,
  options: LoadOptions = {},
): Promise<Model> {
  const { gguf, source, family, tokenizer, chatTemplate, hash, adapterFile } = await readHead(
    input,
    options,
  );
  let kernels = options.kernels;
  let weights: WeightLoader | undefined;
  try {
    const adapter = adapterFile ? await readAdapter(adapterFile, hash) : undefined;
    const threads = options.threads === undefined ? {} : { threads: options.threads };
    const chosen = (kernels ??= await createKernels(options.backend ?? 'auto', threads));
    checkRoom(gguf, chosen);
    weights = new WeightLoader(gguf, source, chosen, options.onProgress);
    const network = await (await family.load()).load(weights);
    return {
      name: getString(gguf, 'general.name', source.name),
      architecture: getString(gguf, 'general.architecture'),
      contextLength: network.contextLength,
      hash,
      kernels: chosen,
      tokenizer,
      chatTemplate,
      adapter,
      layers: network.layers,
      vocabSize: network.vocabSize,
      parts: network.parts,
      weightBytes: network.weightBytes,
      forward: (batch, logitRows) => network.forward(batch, logitRows),
      forwardLayer: (index, x, cache) => network.forwardLayer(index, x, cache),
      createCache: (spec) => createCache(spec, network.layers, chosen, adapter),
      dispose: () => {
        network.dispose();
        if (!options.kernels) chosen.dispose();
      },
    };
  } catch (error) {
    weights?.dispose();
    if (!options.kernels) kernels?.dispose();
    throw error;
  } finally {
    await source.close();
  }
}

/**
 * Everything that a header is good for beside its tensors. The vocabulary's strings, of which there
 * can be half a million, live on only as far as the tokenizer needs them.
 */
async function readHead(input: string | URL | Blob | ByteSource, options: LoadOptions) {
  const { gguf, source, readSibling } = await openInput(input, options);
  try {
    const family = modelFamily(getString(gguf, 'general.architecture'));
    // Before the tokenizer, whose making sees to it that the bytes hashed are collected.
    const hash = await modelHash(gguf, source);
    return {
      family,
      hash,
      tokenizer: tokenizerFromGguf(gguf.metadata),
      chatTemplate: chatTemplateOf(gguf.metadata),
      adapterFile: adapterFileOf(
        options.adapter ?? (await readSibling(adapterSuffix)),
        source.name,
      ),
      gguf: withoutTokenizer(gguf),
      source,
    };
  } catch (error) {
    await source.close();
    throw error;
  }
}

function adapterFileOf(given: LoadOptions['adapter'], model: string): AdapterFile | undefined {
  if (!given) return undefined;
  // Not by its class: the array may be of another realm.
  return 'bytes' in given ? given : { name: `of ${model}`, bytes: given };
}

function withoutTokenizer(gguf: Gguf): Gguf {
  const rest = [...gguf.metadata].filter(([key]) => !key.startsWith('tokenizer.'));
  return { ...gguf, metadata: new Map(rest) };
}

async function openInput(
  input: string | URL | Blob | ByteSource,
  options: OpenOptions,
): Promise<OpenedModel> {
  if (typeof input === 'string' || input instanceof URL) return openModel(input, options);
  return openGguf(input instanceof Blob ? blobSource(input, 'blob') : input);
}

/** What else than weights a backend's memory has to hold before it is of any use. */
const headroomBytes = 64 * 2 ** 20;

/** @throws KvError "memory" if the weights cannot fit, before any is read */
function checkRoom(gguf: Gguf, kernels: Kernels): void {
  const weightBytes = [...gguf.tensors.values()].reduce((sum, t) => sum + t.sizeBytes, 0);
  ensure(
    weightBytes + headroomBytes <= kernels.maxBytes,
    'memory',
    () =>
      `model: its weights take ${(weightBytes / 1e9).toFixed(2)} GB; the ${kernels.backend} backend holds ${(kernels.maxBytes / 1e9).toFixed(2)} GB, cache included. Convert it to a smaller type (h1bkv convert --type q8_0 or q4_0), or take a smaller model.`,
  );
}
