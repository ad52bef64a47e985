/**
 * llama.cpp through node-llama-cpp, as something to compare with. `npm run peer:install` puts it
 * into .peer/ beside package.json; it is never a dependency, so its few types are declared here.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { KvError } from '../errors/errors.ts';

interface PeerModule {
  getLlama(options: object): Promise<{
    loadModel(options: object): Promise<PeerModel>;
    dispose(): Promise<void>;
  }>;
}

interface PeerModel {
  createContext(options: object): Promise<{ getSequence(): PeerSequence; stateSize: number }>;
  dispose(): Promise<void>;
}

interface PeerSequence {
  readonly nextTokenIndex: number;
  evaluateWithoutGeneratingNewTokens(tokens: readonly number[]): Promise<void>;
  evaluate(tokens: readonly number[], options: object): AsyncIterable<number>;
  controlledEvaluate(
    input: readonly (number | [number, object])[],
  ): Promise<readonly ({ next: { logits?: Map<number, number> } } | undefined)[]>;
  eraseContextTokenRanges(ranges: readonly { start: number; end: number }[]): Promise<void>;
}

/** Where `npm run peer:install` puts it, below the folder that holds package.json. */
export function peerModulePath(packageRoot: string): string {
  return join(packageRoot, '.peer', 'node_modules', 'node-llama-cpp', 'dist', 'index.js');
}

/** Why the peer cannot be used here, for skips; undefined if it can. */
export function peerMissing(packageRoot: string): string | undefined {
  return existsSync(peerModulePath(packageRoot))
    ? undefined
    : 'node-llama-cpp is not installed; npm run peer:install brings it';
}

export interface PeerOptions {
  /** type of its KV cache, as llama.cpp names it */
  readonly kv: 'F32' | 'F16' | 'Q8_0' | 'Q4_0';
  readonly contextLength: number;
  readonly threads: number;
}

/** One model with one sequence in llama.cpp, on the CPU. */
export class Peer {
  private constructor(
    private readonly sequence: PeerSequence,
    private readonly close: () => Promise<void>,
    private readonly context: { readonly stateSize: number },
  ) {}

  static async open(packageRoot: string, modelPath: string, options: PeerOptions): Promise<Peer> {
    const missing = peerMissing(packageRoot);
    if (missing) throw new KvError('unsupported', `peer: ${missing}.`);
    const url = pathToFileURL(peerModulePath(packageRoot)).href;
    const { getLlama } = (await import(url)) as PeerModule;
    const { kv, contextLength, threads } = options;
    const llama = await getLlama({
      gpu: false,
      build: 'never',
      skipDownload: true,
      logLevel: 'error',
      maxThreads: threads,
    });
    const model = await llama.loadModel({ modelPath, gpuLayers: 0, useMmap: true });
    const context = await model.createContext({
      contextSize: contextLength,
      batchSize: Math.min(512, contextLength),
      threads: { ideal: threads, min: threads },
      // llama.cpp's flash attention rounds F32 keys and values to f16 before it uses them.
      flashAttention: kv === 'F32' ? false : 'auto',
      experimentalKvCacheKeyType: kv,
      experimentalKvCacheValueType: kv,
      ignoreMemorySafetyChecks: true,
    });
    const close = async () => {
      await model.dispose();
      await llama.dispose();
    };
    return new Peer(context.getSequence(), close, context);
  }

  get length(): number {
    return this.sequence.nextTokenIndex;
  }

  /** Bytes of the sequence's state as llama.cpp saves it: nearly all of it keys and values. */
  get stateBytes(): number {
    return this.context.stateSize;
  }

  /** Runs tokens without sampling. */
  async prefill(ids: readonly number[]): Promise<void> {
    await this.sequence.evaluateWithoutGeneratingNewTokens(ids);
  }

  /** Feeds one token and goes on greedily. @returns the ids of `count` tokens and the time of each, ms */
  async decode(first: number, count: number): Promise<{ ids: number[]; times: number[] }> {
    const ids: number[] = [];
    const times: number[] = [];
    let last = performance.now();
    const options = { temperature: 0, yieldEogToken: true };
    for await (const id of this.sequence.evaluate([first], options)) {
      ids.push(id);
      times.push(performance.now() - last);
      last = performance.now();
      if (ids.length === count) break;
    }
    return { ids, times };
  }

  /** Logits after each of the given tokens, f32 [ids.length][vocabSize]. */
  async logits(ids: readonly number[], vocabSize: number): Promise<Float32Array[]> {
    const wanted = { generateNext: { logits: true } };
    const results = await this.sequence.controlledEvaluate(ids.map((id) => [id, wanted]));
    return results.map((result) => {
      const row = new Float32Array(vocabSize).fill(-Infinity);
      for (const [id, logit] of result?.next.logits ?? []) row[id] = logit;
      return row;
    });
  }

  /** Forgets everything from position `length` on. */
  async truncate(length: number): Promise<void> {
    if (this.length <= length) return;
    await this.sequence.eraseContextTokenRanges([{ start: length, end: this.length }]);
  }

  async dispose(): Promise<void> {
    await this.close();
  }
}
