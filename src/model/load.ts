import { openModelFile } from '#model-platform';
import { parseAdapter } from '../cache/adapter.ts';
import { createCache } from '../cache/registry.ts';
import { getString } from '../format/gguf-access.ts';
import { readGguf } from '../format/gguf.ts';
import { modelHash } from '../format/model-hash.ts';
import { blobSource, type ByteSource } from '../format/source.ts';
import type { BackendName, Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { tokenizerFromGguf } from '../tokenizer/gguf-tokenizer.ts';
import type { Model } from './model.ts';
import { modelFamily } from './registry.ts';
import { WeightLoader, type LoadProgress } from './weights.ts';

export interface LoadOptions {
  /** `auto` (the default) takes the fastest backend that works here. */
  readonly backend?: 'auto' | BackendName;
  /** Threads for the kernels; default: as many as the machine has cores. */
  readonly threads?: number;
  /** Kernels to share between models; they are not disposed with the model. */
  readonly kernels?: Kernels;
  /**
   * Adapter as JSON text, or false for none. Default: `<model>.adapter.json` beside the file, where
   * there is one.
   */
  readonly adapter?: string | false;
  readonly onProgress?: LoadProgress;
}

/**
 * Loads a GGUF model. The file is closed when this returns.
 * @param input a path (Node), a URL, a Blob such as a File from an input element, or a byte source
 * @throws KvError "format", "unsupported", "memory" or "io", with nothing left allocated
 */
export async function loadModel(
  input: string | URL | Blob | ByteSource,
  options: LoadOptions = {},
): Promise<Model> {
  const { source, readSibling } = await openInput(input);
  let kernels = options.kernels;
  let weights: WeightLoader | undefined;
  try {
    const gguf = await readGguf(source);
    const architecture = getString(gguf, 'general.architecture');
    const family = modelFamily(architecture);
    const tokenizer = tokenizerFromGguf(gguf.metadata);
    const hash = await modelHash(gguf, source);
    const adapterText = options.adapter ?? (await readSibling('.adapter.json'));
    const adapter = adapterText ? parseAdapter(adapterText, `of ${source.name}`, hash) : undefined;
    const threads = options.threads === undefined ? {} : { threads: options.threads };
    const chosen = (kernels ??= await createKernels(options.backend ?? 'auto', threads));
    weights = new WeightLoader(gguf, source, chosen, options.onProgress);
    const network = await (await family.load()).load(weights);
    return {
      name: getString(gguf, 'general.name', source.name),
      architecture,
      contextLength: network.contextLength,
      hash,
      kernels: chosen,
      tokenizer,
      adapter,
      layers: network.layers,
      vocabSize: network.vocabSize,
      weightBytes: network.weightBytes,
      forward: (batch, logitRows) => network.forward(batch, logitRows),
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

/** A source, and a way to read small files that lie beside it. */
export interface OpenedModelFile {
  readonly source: ByteSource;
  /** Text of the file whose name is the model's with `.gguf` replaced by `suffix`, if it exists. */
  readSibling(suffix: string): Promise<string | undefined>;
}

async function openInput(input: string | URL | Blob | ByteSource): Promise<OpenedModelFile> {
  if (typeof input === 'string' || input instanceof URL) return openModelFile(input);
  const source = input instanceof Blob ? blobSource(input, 'blob') : input;
  return { source, readSibling: () => Promise.resolve(undefined) };
}
