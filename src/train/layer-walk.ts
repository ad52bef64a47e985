import type { KvCache } from '../cache/cache.ts';
import { defaultChunkSize } from '../generate/generate.ts';
import type { Tensor } from '../kernels/kernels.ts';
import { allocTensor, rows } from '../kernels/tensor.ts';
import type { Model } from '../model/model.ts';

export interface WalkOptions {
  /** positions after which the text begins anew; default and maximum: the model's context */
  readonly window?: number;
  /** positions that run at a time */
  readonly chunk?: number;
}

/** Told of tokens, each counted once per layer, and of the layer at work, counted from 0. */
export type OnProgress = (done: number, total: number, layer: number) => void;

/**
 * A text on its way through a model one layer at a time: the residual stream of the whole text is held,
 * f32 [tokens, dModel], but a cache only for one window of one layer.
 */
export class LayerWalk {
  /** f32 [tokens, dModel] */
  readonly stream: Float32Array;
  private readonly dModel: number;
  private readonly window: number;
  private readonly chunk: number;
  /** f32 [chunk, dModel] */
  private readonly x: Tensor;

  constructor(
    private readonly model: Model,
    ids: Int32Array,
    { window = model.contextLength, chunk = defaultChunkSize }: WalkOptions,
  ) {
    const { kernels, parts } = model;
    this.dModel = parts.config.dModel;
    this.window = Math.min(window, model.contextLength);
    this.chunk = Math.min(chunk, this.window, ids.length);
    this.stream = new Float32Array(ids.length * this.dModel);
    this.x = allocTensor(kernels, 'f32', [this.chunk, this.dModel]);
    for (let start = 0; start < ids.length; start += this.chunk) {
      const some = ids.subarray(start, start + this.chunk);
      const x = rows(this.x, 0, some.length);
      kernels.embed(parts.tokenEmbedding, some, x);
      this.stream.set(kernels.view(x) as Float32Array, start * this.dModel);
    }
  }

  get tokens(): number {
    return this.stream.length / this.dModel;
  }

  /**
   * Runs a layer over the whole text; the stream is the one behind it then.
   * @param createCache an empty cache of this layer alone, called for every window
   */
  async advance(
    layer: number,
    createCache: () => Promise<KvCache>,
    onProgress?: OnProgress,
  ): Promise<void> {
    await this.run(layer, createCache, onProgress, (x, at) => this.stream.set(x, at));
  }

  /** The same, for those who look on: the stream stays as it was. */
  async peek(
    layer: number,
    createCache: () => Promise<KvCache>,
    onProgress?: OnProgress,
  ): Promise<void> {
    await this.run(layer, createCache, onProgress, () => undefined);
  }

  private async run(
    layer: number,
    createCache: () => Promise<KvCache>,
    onProgress: OnProgress | undefined,
    keep: (x: Float32Array, at: number) => void,
  ): Promise<void> {
    const { chunk, dModel, model, stream, tokens } = this;
    for (let start = 0; start < tokens; start += this.window) {
      const cache = await createCache();
      const end = Math.min(start + this.window, tokens);
      try {
        while (start + cache.length < end) {
          const from = start + cache.length;
          const to = Math.min(from + chunk, end);
          const x = rows(this.x, 0, to - from);
          model.kernels.write(x, stream.subarray(from * dModel, to * dModel));
          model.forwardLayer(layer, x, cache);
          keep(model.kernels.view(x) as Float32Array, from * dModel);
          onProgress?.(layer * tokens + to, model.layers.length * tokens, layer);
        }
      } finally {
        cache.dispose();
      }
    }
  }

  dispose(): void {
    this.model.kernels.free(this.x.buffer);
  }
}
