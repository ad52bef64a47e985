import { ensure } from '../errors/errors.ts';
import type { KvCache, LayerShape } from '../cache/cache.ts';
import type { KernelBuffer, Kernels, RopeStyle, Tensor } from '../kernels/kernels.ts';
import { allocTensor, reshape, rows, tensor } from '../kernels/tensor.ts';
import { layerShapes, readConfig, type DecoderConfig } from './config.ts';
import type { BatchItem, LogitRows, Network } from './model.ts';
import { fillRopeTable, ropeFrequencies } from './rope.ts';
import type { WeightLoader } from './weights.ts';

/** What differs between the families that share this decoder. */
export interface DecoderTraits {
  readonly ropeStyle: RopeStyle;
  /** biases are added to queries, keys and values */
  readonly qkvBias: boolean;
  /** RMSNorm of every head's query and key, before RoPE */
  readonly qkNorm: boolean;
}

/** Weights of one layer; names as in GGUF. */
export interface DecoderLayer {
  readonly attnNorm: Tensor; // [dModel]
  readonly wq: Tensor; // [nHeads * headDimK, dModel]
  readonly wk: Tensor; // [nKvHeads * headDimK, dModel]
  readonly wv: Tensor; // [nKvHeads * headDimV, dModel]
  readonly bias?: { readonly q: Tensor; readonly k: Tensor; readonly v: Tensor }; // [heads, headDim]
  readonly norm?: { readonly q: Tensor; readonly k: Tensor }; // [headDimK]
  readonly wo: Tensor; // [dModel, nHeads * headDimV]
  readonly ffnNorm: Tensor; // [dModel]
  readonly wGate: Tensor; // [dFeedForward, dModel]
  readonly wUp: Tensor; // [dFeedForward, dModel]
  readonly wDown: Tensor; // [dModel, dFeedForward]
}

/** All that a decoder computes with. */
export interface DecoderParts {
  readonly config: DecoderConfig;
  readonly traits: DecoderTraits;
  /** radians per position of every rotating pair, [ropeDims / 2] */
  readonly frequencies: Float64Array;
  readonly tokenEmbedding: Tensor; // [vocabSize, dModel]
  readonly outputNorm: Tensor; // [dModel]
  readonly output: Tensor; // [vocabSize, dModel]; the embedding itself where they are tied
  readonly layers: readonly DecoderLayer[];
}

/** Space for one step of n positions; every tensor has n rows. */
interface Scratch {
  readonly n: number;
  readonly x: Tensor; // f32 [n, dModel], the residual stream
  readonly normed: Tensor; // f32 [n, dModel]
  readonly q: Tensor; // f32 [n, nHeads * headDimK]
  readonly k: Tensor; // f32 [n, nKvHeads * headDimK]
  readonly v: Tensor; // f32 [n, nKvHeads * headDimV]
  readonly attended: Tensor; // f32 [n, nHeads * headDimV]
  readonly gate: Tensor; // f32 [n, dFeedForward]
  readonly up: Tensor; // f32 [n, dFeedForward]
  readonly ropeTable: Tensor; // f32 [n, ropeDims / 2, 2]
}

/**
 * Loads a decoder of the Llama kind: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
 * @throws KvError "format" or "unsupported" if the file's tensors are not exactly those
 */
export async function loadDecoder(weights: WeightLoader, traits: DecoderTraits): Promise<Network> {
  const embedding = weights.gguf.tensors.get('token_embd.weight');
  const config = readConfig(weights.gguf, embedding?.shape[0] ?? 0);
  const { nHeads, nKvHeads, headDimK, headDimV, dModel, dFeedForward, vocabSize } = config;

  const tokenEmbedding = await weights.load('token_embd.weight', [vocabSize, dModel]);
  const outputNorm = await weights.loadVector('output_norm.weight', dModel);
  const output = weights.has('output.weight')
    ? await weights.load('output.weight', [vocabSize, dModel])
    : tokenEmbedding;
  const factors = weights.has('rope_freqs.weight')
    ? await weights.loadVector('rope_freqs.weight', config.ropeDims / 2)
    : undefined;
  const layers: DecoderLayer[] = [];
  for (let i = 0; i < config.nLayers; i++) {
    const matrix = (name: string, rowCount: number, columns: number) =>
      weights.load(`blk.${i}.${name}.weight`, [rowCount, columns]);
    const vector = (name: string, length: number) => weights.loadVector(`blk.${i}.${name}`, length);
    const bias = async (name: string, heads: number, headDim: number) =>
      reshape(await vector(`${name}.bias`, heads * headDim), [heads, headDim]);
    layers.push({
      attnNorm: await vector('attn_norm.weight', dModel),
      wq: await matrix('attn_q', nHeads * headDimK, dModel),
      wk: await matrix('attn_k', nKvHeads * headDimK, dModel),
      wv: await matrix('attn_v', nKvHeads * headDimV, dModel),
      wo: await matrix('attn_output', dModel, nHeads * headDimV),
      ...(traits.qkvBias && {
        bias: {
          q: await bias('attn_q', nHeads, headDimK),
          k: await bias('attn_k', nKvHeads, headDimK),
          v: await bias('attn_v', nKvHeads, headDimV),
        },
      }),
      ...(traits.qkNorm && {
        norm: {
          q: await vector('attn_q_norm.weight', headDimK),
          k: await vector('attn_k_norm.weight', headDimK),
        },
      }),
      ffnNorm: await vector('ffn_norm.weight', dModel),
      wGate: await matrix('ffn_gate', dFeedForward, dModel),
      wUp: await matrix('ffn_up', dFeedForward, dModel),
      wDown: await matrix('ffn_down', dModel, dFeedForward),
    });
  }
  weights.expectAllLoaded();
  const ropeFactors = factors && ((await weights.kernels.read(factors)) as Float32Array);
  const frequencies = ropeFrequencies(config, ropeFactors);
  const parts = { config, traits, frequencies, tokenEmbedding, outputNorm, output, layers };
  return new Decoder(weights, parts);
}

class Decoder implements Network {
  readonly layers: readonly LayerShape[];
  readonly vocabSize: number;
  readonly contextLength: number;
  private readonly kernels: Kernels;
  private scratch: Scratch | undefined;
  /** what `scratch` lies in; known here even where only some of it could be had */
  private readonly scratchBuffers: KernelBuffer[] = [];
  private logits: Tensor | undefined;

  private readonly config: DecoderConfig;

  constructor(
    private readonly loader: WeightLoader,
    readonly parts: DecoderParts,
  ) {
    const { config } = parts;
    this.config = config;
    this.kernels = loader.kernels;
    this.vocabSize = config.vocabSize;
    this.contextLength = config.contextLength;
    this.layers = layerShapes(config);
  }

  get weightBytes(): number {
    return this.loader.weightBytes;
  }

  async forward(batch: readonly BatchItem[], logitRows: LogitRows = 'last'): Promise<Tensor> {
    const ids = Int32Array.from(batch.flatMap((item) => Array.from(item.ids)));
    ensure(ids.length > 0, 'usage', () => 'forward: the batch has no tokens.');
    const begun: BatchItem[] = [];
    try {
      for (const item of batch) {
        item.cache.begin(item.ids.length);
        begun.push(item);
      }
      const x = this.run(batch, ids);
      const logits = this.project(logitRows === 'all' ? x : this.lastRows(x, batch));
      for (const { cache } of batch) cache.commit();
      return logits;
    } catch (error) {
      for (const { cache } of begun) cache.rollback();
      throw error;
    }
  }

  /** All layers. @returns the residual stream, f32 [n, dModel] */
  private run(batch: readonly BatchItem[], ids: Int32Array): Tensor {
    const scratch = this.reserve(ids.length);
    this.writeRopeTable(batch, scratch.ropeTable);
    this.kernels.embed(this.parts.tokenEmbedding, ids, scratch.x);
    this.parts.layers.forEach((layer, i) => this.runLayer(layer, i, batch, scratch));
    return scratch.x;
  }

  forwardLayer(index: number, x: Tensor, cache: KvCache): void {
    const [n] = x.shape;
    // Only how many there are is asked of ids that are past their embedding.
    const batch = [{ ids: new Int32Array(n), cache }];
    cache.begin(n);
    try {
      const scratch = { ...this.reserve(n), x };
      this.writeRopeTable(batch, scratch.ropeTable);
      this.runLayer(this.parts.layers[index], 0, batch, scratch);
      cache.commit();
    } catch (error) {
      cache.rollback();
      throw error;
    }
  }

  /** @param at which layer of the caches it is */
  private runLayer(
    layer: DecoderLayer,
    at: number,
    batch: readonly BatchItem[],
    scratch: Scratch,
  ): void {
    const { kernels, config } = this;
    const { ropeStyle } = this.parts.traits;
    const { nHeads, nKvHeads, headDimK, headDimV } = config;
    const { n, x, normed, q, k, v, attended, gate, up, ropeTable } = scratch;
    const queries = reshape(q, [n, nHeads, headDimK]);
    const keys = reshape(k, [n, nKvHeads, headDimK]);
    const values = reshape(v, [n, nKvHeads, headDimV]);
    const outputs = reshape(attended, [n, nHeads, headDimV]);

    kernels.rmsNorm(x, layer.attnNorm, config.rmsEpsilon, normed);
    kernels.linear(normed, [
      { weight: layer.wq, out: q },
      { weight: layer.wk, out: k },
      { weight: layer.wv, out: v },
    ]);
    if (layer.bias) {
      kernels.addBias(queries, layer.bias.q);
      kernels.addBias(keys, layer.bias.k);
      kernels.addBias(values, layer.bias.v);
    }
    if (layer.norm) {
      const [qRows, kRows] = [queries, keys].map((t) => reshape(t, [-1, headDimK]));
      kernels.rmsNorm(qRows, layer.norm.q, config.rmsEpsilon, qRows);
      kernels.rmsNorm(kRows, layer.norm.k, config.rmsEpsilon, kRows);
    }
    kernels.rope(queries, ropeTable, ropeStyle);
    kernels.rope(keys, ropeTable, ropeStyle);
    this.updateValues(batch, at, scratch);
    let start = 0;
    for (const { ids, cache } of batch) {
      const own = (t: Tensor) => rows(t, start, ids.length);
      cache.append(at, own(keys), own(values));
      cache.attend(at, own(queries), own(outputs));
      start += ids.length;
    }
    kernels.linear(attended, [{ weight: layer.wo, out: normed }]);
    kernels.add(x, normed);

    kernels.rmsNorm(x, layer.ffnNorm, config.rmsEpsilon, normed);
    kernels.linear(normed, [
      { weight: layer.wGate, out: gate },
      { weight: layer.wUp, out: up },
    ]);
    kernels.swiglu(gate, up);
    kernels.linear(gate, [{ weight: layer.wDown, out: normed }]);
    kernels.add(x, normed);
  }

  /** Adds to the values of each item what was finetuned for its cache, see `KvCache.valueUpdates`. */
  private updateValues(batch: readonly BatchItem[], layer: number, scratch: Scratch): void {
    const { kernels } = this;
    let start = 0;
    for (const { ids, cache } of batch) {
      const n = ids.length;
      const updates = cache.valueUpdates?.[layer] ?? [];
      let update = rows(scratch.normed, start, n);
      updates.forEach((weight, i) => {
        // Neither is in use before attention; the sum is no wider than what attention gives.
        const { buffer } = i === updates.length - 1 ? scratch.attended : scratch.gate;
        const out = tensor(buffer, 'f32', [n, weight.shape[0]]);
        kernels.linear(update, [{ weight, out }]);
        update = out;
      });
      if (updates.length > 0) kernels.add(rows(scratch.v, start, n), update);
      start += n;
    }
  }

  /** The last row of each item, moved to the front of the scratch. */
  private lastRows(x: Tensor, batch: readonly BatchItem[]): Tensor {
    let end = 0;
    batch.forEach(({ ids }, i) => {
      end += ids.length;
      if (end - 1 !== i) this.kernels.copy(rows(x, end - 1, 1), rows(x, i, 1));
    });
    return rows(x, 0, batch.length);
  }

  /** Final norm and vocabulary projection. @returns logits f32 [rows, vocabSize] */
  private project(x: Tensor): Tensor {
    const { kernels, config, parts: weights } = this;
    const n = x.shape[0];
    kernels.rmsNorm(x, weights.outputNorm, config.rmsEpsilon, x);
    if (!this.logits || this.logits.shape[0] < n) {
      if (this.logits) kernels.free(this.logits.buffer);
      this.logits = undefined;
      this.logits = allocTensor(kernels, 'f32', [n, config.vocabSize]);
    }
    const logits = rows(this.logits, 0, n);
    kernels.linear(x, [{ weight: weights.output, out: logits }]);
    return logits;
  }

  private writeRopeTable(batch: readonly BatchItem[], ropeTable: Tensor): void {
    const table = new Float32Array(ropeTable.shape[0] * this.config.ropeDims);
    let row = 0;
    for (const { ids, cache } of batch) {
      const offset = row * this.config.ropeDims;
      fillRopeTable(this.parts.frequencies, cache.length, ids.length, table, offset);
      row += ids.length;
    }
    this.kernels.write(ropeTable, table);
  }

  /** Scratch with exactly n rows, out of an allocation that only grows. */
  private reserve(n: number): Scratch {
    if (!this.scratch || this.scratch.n < n) {
      this.releaseScratch();
      const { kernels, config } = this;
      const f32 = (...columns: number[]) => {
        const t = allocTensor(kernels, 'f32', [n, ...columns]);
        this.scratchBuffers.push(t.buffer);
        return t;
      };
      this.scratch = {
        n,
        x: f32(config.dModel),
        normed: f32(config.dModel),
        q: f32(config.nHeads * config.headDimK),
        k: f32(config.nKvHeads * config.headDimK),
        v: f32(config.nKvHeads * config.headDimV),
        attended: f32(config.nHeads * config.headDimV),
        gate: f32(config.dFeedForward),
        up: f32(config.dFeedForward),
        ropeTable: f32(config.ropeDims / 2, 2),
      };
    }
    const { n: held, ...tensors } = this.scratch;
    if (held === n) return this.scratch;
    const cut = Object.entries(tensors).map(([name, t]) => [name, rows(t, 0, n)]);
    return { n, ...(Object.fromEntries(cut) as Omit<Scratch, 'n'>) };
  }

  private releaseScratch(): void {
    for (const buffer of this.scratchBuffers.splice(0)) this.kernels.free(buffer);
    this.scratch = undefined;
  }

  dispose(): void {
    this.releaseScratch();
    if (this.logits) this.kernels.free(this.logits.buffer);
    this.logits = undefined;
    this.loader.dispose();
  }
}
