/** A model with tuned attention over one window: logits, and gradients of what is tuned. */
import type { Tensor } from '../kernels/kernels.ts';
import type { DecoderLayer, DecoderParts } from '../model/decoder.ts';
import type { Model } from '../model/model.ts';
import { fillRopeTable } from '../model/rope.ts';
import { addTo, ArrayKernels, transpose } from './array-kernels.ts';
import type { AttentionBack, TunedAttention, TunedCache } from './tuned-attention.ts';
import type { TunedLayer, Tuning } from './tuning.ts';

/** What the reverse pass needs to know of one layer's forward pass; every array has n rows. */
interface LayerTape {
  /** the residual stream before attention, and before the feed-forward layer, [n, dModel] */
  readonly x: Float32Array;
  readonly middle: Float32Array;
  /** [n, dModel] */
  readonly normed: Float32Array;
  /** before a norm of heads, if there is one: [n, heads, headDimK] */
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly attentionBack: AttentionBack;
  /** [n, dFeedForward] */
  readonly gate: Float32Array;
  readonly up: Float32Array;
}

export interface Tape {
  readonly ids: Int32Array;
  /** [n, vocabSize] */
  readonly logits: Float32Array;
  readonly layers: readonly LayerTape[];
  /** the residual stream at the end, [n, dModel] */
  readonly x: Float32Array;
}

/**
 * The same computation as the model's own forward pass on a cache, a window at a time, kept on
 * a tape. Weights take part in their stored types; gradients go through them as f32.
 */
export class TunedDecoder {
  private readonly parts: DecoderParts;
  private readonly arrays: ArrayKernels;
  private readonly attention: readonly TunedAttention[];

  /** @param cache is disposed of with the decoder */
  constructor(
    model: Model,
    private readonly cache: TunedCache,
  ) {
    this.parts = model.parts;
    this.arrays = new ArrayKernels(model.kernels);
    this.attention = model.layers.map((_, layer) => cache.attention(this.arrays, layer));
  }

  forward(ids: Int32Array, tuning: Tuning): Tape {
    const { arrays, parts } = this;
    const table = this.ropeTable(ids.length, 1);
    let x = arrays.embed(parts.tokenEmbedding, ids);
    const layers = parts.layers.map((layer, i) => {
      const { next, tape } = this.layerForward(i, layer, x, tuning[i], table);
      x = next;
      return tape;
    });
    const normed = arrays.rmsNorm(x, parts.outputNorm, parts.config.rmsEpsilon);
    return { ids, logits: arrays.linear(normed, parts.output), layers, x };
  }

  /** @param dLogits gradient of the logits @param gradient of the tuning, added to */
  backward(tape: Tape, dLogits: Float32Array, tuning: Tuning, gradient: Tuning): void {
    const { arrays, parts } = this;
    const table = this.ropeTable(tape.ids.length, -1);
    let dx = this.normBack(tape.x, parts.outputNorm, arrays.linearBack(dLogits, parts.output));
    for (let i = parts.layers.length - 1; i >= 0; i--) {
      dx = this.layerBackward(i, tape.layers[i], dx, tuning[i], gradient[i], table);
    }
  }

  dispose(): void {
    this.arrays.dispose();
    this.cache.dispose();
  }

  private layerForward(
    index: number,
    layer: DecoderLayer,
    x: Float32Array,
    tuned: TunedLayer,
    table: Float32Array,
  ): { next: Float32Array; tape: LayerTape } {
    const { arrays } = this;
    const { nHeads, nKvHeads, rmsEpsilon } = this.parts.config;
    const normed = arrays.rmsNorm(x, layer.attnNorm, rmsEpsilon);
    const project = (weight: Tensor, bias: Tensor | undefined) => {
      const y = arrays.linear(normed, weight);
      return bias ? arrays.addBias(y, bias) : y;
    };
    const q = project(layer.wq, layer.bias?.q);
    const k = project(layer.wk, layer.bias?.k);
    const v = project(layer.wv, layer.bias?.v);
    if (tuned.values.length > 0) addTo(v, this.chain(normed, tuned.values).at(-1) ?? v);
    const rows = {
      q: this.turn(this.headNorm(q, layer.norm?.q), nHeads, table),
      k: this.turn(this.headNorm(k, layer.norm?.k), nKvHeads, table),
      v,
    };
    const { out, back: attentionBack } = this.attention[index].forward(tuned, rows);
    const middle = arrays.linear(out, layer.wo);
    addTo(middle, x);

    const input = arrays.rmsNorm(middle, layer.ffnNorm, rmsEpsilon);
    const gate = arrays.linear(input, layer.wGate);
    const up = arrays.linear(input, layer.wUp);
    const next = arrays.linear(arrays.swiglu(gate, up), layer.wDown);
    addTo(next, middle);
    return { next, tape: { x, middle, normed, q, k, attentionBack, gate, up } };
  }

  /** @param dNext gradient of the layer's output @returns gradient of its input */
  private layerBackward(
    index: number,
    tape: LayerTape,
    dNext: Float32Array,
    tuned: TunedLayer,
    gradient: TunedLayer,
    table: Float32Array,
  ): Float32Array {
    const { arrays } = this;
    const layer = this.parts.layers[index];
    const { nHeads, nKvHeads } = this.parts.config;
    const hidden = arrays.linearBack(dNext, layer.wDown);
    const { dGate, dUp } = swigluBack(tape.gate, tape.up, hidden);
    const dInput = arrays.linearBack(dGate, layer.wGate);
    addTo(dInput, arrays.linearBack(dUp, layer.wUp));
    const dMiddle = this.normBack(tape.middle, layer.ffnNorm, dInput);
    addTo(dMiddle, dNext);

    const dOut = arrays.linearBack(dMiddle, layer.wo);
    const d = tape.attentionBack(dOut, gradient);
    const dNormed = this.chainBack(tape.normed, tuned.values, d.v, gradient.values);
    // Below the first layer there is nothing to tune.
    if (index === 0) return dMiddle;
    const dq = this.headNormBack(tape.q, layer.norm?.q, this.turn(d.q, nHeads, table));
    const dk = this.headNormBack(tape.k, layer.norm?.k, this.turn(d.k, nKvHeads, table));
    addTo(dNormed, arrays.linearBack(dq, layer.wq));
    addTo(dNormed, arrays.linearBack(dk, layer.wk));
    addTo(dNormed, arrays.linearBack(d.v, layer.wv));
    const dx = this.normBack(tape.x, layer.attnNorm, dNormed);
    addTo(dx, dMiddle);
    return dx;
  }

  /** x through matrices, one after the other: the inputs of each, and the output. */
  private chain(x: Float32Array, matrices: readonly Float32Array[]): Float32Array[] {
    let columns = this.parts.config.dModel;
    const steps = [x];
    for (const matrix of matrices) {
      x = this.arrays.product(x, matrix, columns);
      columns = matrix.length / columns;
      steps.push(x);
    }
    return steps;
  }

  /** @param dy gradient of the output @param gradients of the matrices, added to @returns gradient of x */
  private chainBack(
    x: Float32Array,
    matrices: readonly Float32Array[],
    dy: Float32Array,
    gradients: readonly Float32Array[],
  ): Float32Array {
    if (matrices.length === 0) return new Float32Array(x.length);
    const { arrays } = this;
    const n = x.length / this.parts.config.dModel;
    const steps = this.chain(x, matrices);
    let d = dy;
    for (let i = matrices.length - 1; i >= 0; i--) {
      const [rows, columns] = [d.length / n, steps[i].length / n];
      const dMatrix = arrays.product(transpose(d, rows), transpose(steps[i], columns), n);
      addTo(gradients[i], dMatrix);
      d = arrays.product(d, transpose(matrices[i], columns), rows);
    }
    return d;
  }

  private headNorm(x: Float32Array, weight: Tensor | undefined): Float32Array {
    return weight ? this.arrays.rmsNorm(x, weight, this.parts.config.rmsEpsilon) : x;
  }

  private headNormBack(x: Float32Array, weight: Tensor | undefined, dy: Float32Array) {
    return weight ? this.normBack(x, weight, dy) : dy;
  }

  private normBack(x: Float32Array, weight: Tensor, dy: Float32Array): Float32Array {
    const w = this.arrays.kernels.view(weight) as Float32Array;
    return rmsNormBack(x, w, this.parts.config.rmsEpsilon, dy);
  }

  private turn(x: Float32Array, heads: number, table: Float32Array): Float32Array {
    const { headDimK } = this.parts.config;
    const shape = [x.length / heads / headDimK, heads, headDimK] as const;
    return this.arrays.rope(x, shape, table, this.parts.traits.ropeStyle);
  }

  /** @param direction -1 turns back */
  private ropeTable(n: number, direction: 1 | -1): Float32Array {
    const { frequencies, config } = this.parts;
    const table = new Float32Array(n * config.ropeDims);
    fillRopeTable(frequencies, 0, n, table, 0);
    return direction === 1 ? table : table.map((x, i) => (i % 2 === 1 ? -x : x));
  }
}

/** y = x f w with f = (mean(x^2) + epsilon)^(-1/2). @returns gradient of x */
function rmsNormBack(
  x: Float32Array,
  w: Float32Array,
  epsilon: number,
  dy: Float32Array,
): Float32Array {
  const d = w.length;
  const dx = new Float32Array(x.length);
  for (let row = 0; row < x.length; row += d) {
    let [squares, along] = [0, 0];
    for (let c = 0; c < d; c++) {
      squares += x[row + c] ** 2;
      along += x[row + c] * w[c] * dy[row + c];
    }
    const f = 1 / Math.sqrt(squares / d + epsilon);
    for (let c = 0; c < d; c++) {
      dx[row + c] = f * w[c] * dy[row + c] - (x[row + c] * along * f ** 3) / d;
    }
  }
  return dx;
}

/** y = g sigmoid(g) u. */
function swigluBack(
  gate: Float32Array,
  up: Float32Array,
  dy: Float32Array,
): { dGate: Float32Array; dUp: Float32Array } {
  const [dGate, dUp] = [new Float32Array(gate.length), new Float32Array(gate.length)];
  for (let i = 0; i < gate.length; i++) {
    const sigmoid = 1 / (1 + Math.exp(-gate[i]));
    dUp[i] = dy[i] * gate[i] * sigmoid;
    dGate[i] = dy[i] * up[i] * sigmoid * (1 + gate[i] * (1 - sigmoid));
  }
  return { dGate, dUp };
}
