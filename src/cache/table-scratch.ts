import { KvError } from '../errors/errors.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import { tensor } from '../kernels/tensor.ts';
import type { LayerShape } from './cache.ts';
import { allocTensors } from './constants.ts';

/** Room for the tables of one step's queries, reused by every layer. */
export class TableScratch {
  private held: { readonly tables: Tensor; readonly scales: Tensor } | undefined;
  private queries = 0;
  private readonly heads: number;

  constructor(
    private readonly kernels: Kernels,
    shapes: readonly LayerShape[],
    private readonly nibbles: number,
  ) {
    this.heads = Math.max(...shapes.map(({ nHeads }) => nHeads));
  }

  get sizeBytes(): number {
    return Object.values(this.held ?? {}).reduce((sum, t) => sum + t.buffer.sizeBytes, 0);
  }

  reserve(n: number): void {
    if (n <= this.queries) return;
    this.dispose();
    const [tables, scales] = allocTensors(this.kernels, [
      { dtype: 'i8', shape: [this.heads, n, this.nibbles, 16] },
      { dtype: 'f32', shape: [this.heads, n] },
    ]);
    this.held = { tables, scales };
    this.queries = n;
  }

  /** i8 [nHeads, n, nibbles, 16] and f32 [nHeads, n], of any contents. */
  tables(n: number, nHeads: number, nibbles: number): { tables: Tensor; scales: Tensor } {
    if (!this.held) throw new KvError('usage', 'cache: it was asked outside a step.');
    return {
      tables: tensor(this.held.tables.buffer, 'i8', [nHeads, n, nibbles, 16]),
      scales: tensor(this.held.scales.buffer, 'f32', [nHeads, n]),
    };
  }

  dispose(): void {
    for (const { buffer } of Object.values(this.held ?? {})) this.kernels.free(buffer);
    this.held = undefined;
    this.queries = 0;
  }
}
