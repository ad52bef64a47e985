import type { KernelBuffer, Kernels, Page } from '../kernels/kernels.ts';
import { tensor } from '../kernels/tensor.ts';
import type { LayerShape } from './cache.ts';
import {
  blockLength,
  type Coded,
  type DecodedMethod,
  type StateLayout,
  type StateView,
} from './decoded-method.ts';

export type Kind = 'keys' | 'values';
export type Pair<T> = Readonly<Record<Kind, T>>;

const noState: StateLayout = { scales: 0, keys: 0, values: 0, codebooks: 0 };

/**
 * Where things lie in the buffers of a `DecodedCache`. Every buffer holds all layers, one after the
 * other; of each layer
 * - a compressed block: key codes, value codes, key scales, value scales
 * - an exact block: keys, then values, f16 [nKvHeads, blockLength, headDim]
 * - a state: scales, keys, values, codebooks
 * - scratch, for one layer at a time: pages of keys and values, f32 [nKvHeads, blockLength, headDim]
 */
export class DecodedLayout {
  private readonly kernels: Kernels;
  private readonly shapes: readonly LayerShape[];
  private readonly method: DecodedMethod;

  constructor(kernels: Kernels, shapes: readonly LayerShape[], method: DecodedMethod) {
    this.kernels = kernels;
    this.shapes = shapes;
    this.method = method;
  }

  // sizes

  /** Bytes of a compressed block by kind, all layers. */
  compressedBytes() {
    const layers = this.shapes.map((_, layer) => this.codedBytes(layer));
    return {
      keys: sum(layers.map(({ keys }) => keys)),
      values: sum(layers.map(({ values }) => values)),
      scales: sum(layers.map(({ keyScales, valueScales }) => keyScales + valueScales)),
    };
  }

  exactBytes(): number {
    return sum(this.shapes.map(exactLayerBytes));
  }

  /** Bytes of a state by kind, all layers. */
  stateBytes(version: number | undefined): StateLayout {
    const layers = this.shapes.map((_, layer) => this.stateLayout(layer, version));
    const total = (kind: keyof StateLayout) => sum(layers.map((layer) => layer[kind]));
    return {
      scales: total('scales'),
      keys: total('keys'),
      values: total('values'),
      codebooks: total('codebooks'),
    };
  }

  /** Bytes of one page of scratch: enough for any layer. */
  pageBytes(): number {
    return Math.max(0, ...this.shapes.map(pageBytes));
  }

  // views

  /** A layer's part of a compressed block, with the layer below. */
  coded(block: KernelBuffer, layer: number, codebooks: Uint16Array): Pair<Coded> {
    const own = this.codedParts(block, layer, codebooks);
    if (layer === 0) return own;
    const below = this.codedParts(block, layer - 1, codebooks);
    return {
      keys: { ...own.keys, below: below.keys },
      values: { ...own.values, below: below.values },
    };
  }

  /** f16 bits [nKvHeads, blockLength, headDim]. */
  exact(block: KernelBuffer, layer: number): Pair<Uint16Array> {
    const { nKvHeads, headDimK, headDimV } = this.shapes[layer];
    const start = sum(this.shapes.slice(0, layer).map(exactLayerBytes));
    const keys = nKvHeads * blockLength * headDimK;
    const values = nKvHeads * blockLength * headDimV;
    return {
      keys: this.halves(block, start, keys * 2),
      values: this.halves(block, start + keys * 2, values * 2),
    };
  }

  state(buffer: KernelBuffer, layer: number, version: number): StateView {
    const { scales, keys, values, codebooks } = this.stateLayout(layer, version);
    const before = this.shapes.slice(0, layer);
    const start = sum(before.flatMap((_, l) => Object.values(this.stateLayout(l, version))));
    const scaleTensor = tensor(buffer, 'f32', [scales / 4], start);
    return {
      scales: this.kernels.view(scaleTensor) as Float32Array,
      keys: this.halves(buffer, start + scales, keys),
      values: this.halves(buffer, start + scales + keys, values),
      codebooks: this.halves(buffer, start + scales + keys + values, codebooks),
    };
  }

  /** The first `count` pages of scratch. */
  pages(scratch: KernelBuffer, layer: number, count: number): Page[] {
    const { nKvHeads, headDimK, headDimV } = this.shapes[layer];
    const size = pageBytes(this.shapes[layer]);
    const keyBytes = nKvHeads * blockLength * headDimK * 4;
    return Array.from({ length: count }, (_, i) => ({
      keys: tensor(scratch, 'f32', [nKvHeads, blockLength, headDimK], i * size),
      values: tensor(scratch, 'f32', [nKvHeads, blockLength, headDimV], i * size + keyBytes),
    }));
  }

  private codedBytes(layer: number) {
    const codecs = this.method.codecs?.[layer];
    return {
      keys: codecs?.keys.codeBytes ?? 0,
      values: codecs?.values.codeBytes ?? 0,
      keyScales: codecs?.keys.scaleBytes ?? 0,
      valueScales: codecs?.values.scaleBytes ?? 0,
    };
  }

  private codedParts(block: KernelBuffer, layer: number, codebooks: Uint16Array): Pair<Coded> {
    const { keys, values, keyScales, valueScales } = this.codedBytes(layer);
    const before = this.shapes.slice(0, layer);
    const start = sum(before.flatMap((_, l) => Object.values(this.codedBytes(l))));
    const codes = (at: number, size: number) =>
      this.kernels.view(tensor(block, 'u8', [size], start + at)) as Uint8Array;
    const scales = (at: number, size: number) =>
      this.halves(block, start + keys + values + at, size);
    return {
      keys: { codes: codes(0, keys), scales: scales(0, keyScales), codebooks },
      values: { codes: codes(keys, values), scales: scales(keyScales, valueScales), codebooks },
    };
  }

  private stateLayout(layer: number, version: number | undefined): StateLayout {
    if (version === undefined) return noState;
    return this.method.state?.layout(layer, version) ?? noState;
  }

  private halves(buffer: KernelBuffer, at: number, sizeBytes: number): Uint16Array {
    return this.kernels.view(tensor(buffer, 'f16', [sizeBytes / 2], at)) as Uint16Array;
  }
}

export const sum = (numbers: readonly number[]) => numbers.reduce((total, x) => total + x, 0);

const exactLayerBytes = ({ nKvHeads, headDimK, headDimV }: LayerShape) =>
  nKvHeads * blockLength * (headDimK + headDimV) * 2;

const pageBytes = (shape: LayerShape) => exactLayerBytes(shape) * 2;
