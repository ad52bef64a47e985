import { ensure } from '../errors/errors.ts';
import { requireTensor, type UsableTensor } from '../format/gguf-access.ts';
import { readTensorInto, type Gguf } from '../format/gguf.ts';
import type { ByteSource } from '../format/source.ts';
import type { KernelBuffer, Kernels, Tensor } from '../kernels/kernels.ts';
import { allocTensor, bytesOf, tensor } from '../kernels/tensor.ts';

/** Called after each tensor with the bytes loaded so far and the bytes in all. */
export type LoadProgress = (loadedBytes: number, totalBytes: number) => void;

/**
 * Brings tensors into kernel memory in their stored type: mapped from the file where the backend can, else
 * read straight into their place. There is no second copy.
 */
export class WeightLoader {
  readonly gguf: Gguf;
  readonly kernels: Kernels;
  private readonly source: ByteSource;
  private readonly onProgress: LoadProgress | undefined;
  private readonly buffers: KernelBuffer[] = [];
  private readonly loadedNames = new Set<string>();
  private loadedBytes = 0;

  constructor(gguf: Gguf, source: ByteSource, kernels: Kernels, onProgress?: LoadProgress) {
    this.gguf = gguf;
    this.source = source;
    this.kernels = kernels;
    this.onProgress = onProgress;
  }

  get weightBytes(): number {
    return this.loadedBytes;
  }

  has(name: string): boolean {
    return this.gguf.tensors.has(name);
  }

  /**
   * Loads a tensor. @param shape row-major, as the model needs it
   * @throws KvError "format" if it is missing or of another shape, "unsupported" for its type
   */
  async load(name: string, shape: readonly number[]): Promise<Tensor> {
    const entry = requireTensor(this.gguf, name, shape);
    const loaded = this.mapped(entry) ?? (await this.read(entry));
    this.loadedNames.add(name);
    this.loadedBytes += entry.sizeBytes;
    this.onProgress?.(this.loadedBytes, this.source.sizeBytes - this.gguf.dataOffset);
    return loaded;
  }

  private mapped({ dtype, shape, offset, sizeBytes }: UsableTensor): Tensor | undefined {
    const { descriptor } = this.source;
    if (descriptor === undefined || offset % 4 !== 0 || sizeBytes === 0) return undefined;
    const buffer = this.kernels.mapFile?.(descriptor, offset, sizeBytes);
    if (!buffer) return undefined;
    this.buffers.push(buffer);
    return tensor(buffer, dtype, shape);
  }

  private async read(entry: UsableTensor): Promise<Tensor> {
    const loaded = allocTensor(this.kernels, entry.dtype, entry.shape);
    this.buffers.push(loaded.buffer);
    await readTensorInto(this.source, entry, this.kernels.view(bytesOf(loaded)) as Uint8Array);
    return loaded;
  }

  /** Loads a vector of norm weights or factors, which GGUF keeps in f32. */
  async loadVector(name: string, length: number): Promise<Tensor> {
    const { type } = requireTensor(this.gguf, name, [length]);
    ensure(
      type === 'F32',
      'unsupported',
      () => `model: tensor "${name}" is ${type}; supported for vectors: F32.`,
    );
    return this.load(name, [length]);
  }

  /**
   * A tensor that nobody asked for would be left out of the computation in silence.
   * @throws KvError "unsupported" naming the tensors that were not loaded
   */
  expectAllLoaded(): void {
    const left = [...this.gguf.tensors.keys()].filter((name) => !this.loadedNames.has(name));
    ensure(
      left.length === 0,
      'unsupported',
      () =>
        `model: ${left.length} tensors have no place in this architecture: ${left.slice(0, 4).join(', ')}. The file is of a variant that this version cannot run.`,
    );
  }

  /** Frees everything that was loaded. */
  dispose(): void {
    for (const buffer of this.buffers.splice(0)) this.kernels.free(buffer);
  }
}
