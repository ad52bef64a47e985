import { KvError } from '../errors/errors.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import { reshape, tensor } from '../kernels/tensor.ts';
import type { LayerShape } from './cache.ts';
import { allocTensors } from './constants.ts';

/** Room that one step needs, reused by every layer: tables of its queries, and a codec in f32. */
export class CodeScratch {
  private held: Record<'tables' | 'scales' | 'project' | 'levels', Tensor> | undefined;
  private queries = 0;
  private readonly most: { heads: number; kvHeads: number; width: number };

  constructor(
    private readonly kernels: Kernels,
    shapes: readonly LayerShape[],
    private readonly nibbles: number,
  ) {
    const most = (of: (shape: LayerShape) => number) => Math.max(...shapes.map(of));
    this.most = {
      heads: most((s) => s.nHeads),
      kvHeads: most((s) => s.nKvHeads),
      width: most((s) => s.headDimK),
    };
  }

  get sizeBytes(): number {
    return Object.values(this.held ?? {}).reduce((sum, t) => sum + t.buffer.sizeBytes, 0);
  }

  reserve(n: number): void {
    if (n <= this.queries) return;
    const { heads, kvHeads, width } = this.most;
    const { nibbles } = this;
    this.dispose();
    const zeros = (dtype: 'i8' | 'f32', ...sizes: number[]) => ({ dtype, shape: sizes });
    const [tables, scales, project, levels] = allocTensors(this.kernels, [
      zeros('i8', heads, n, nibbles, 16),
      zeros('f32', heads, n),
      zeros('f32', kvHeads, 4 * nibbles, width),
      zeros('f32', kvHeads, nibbles, 16, 4),
    ]);
    this.held = { tables, scales, project, levels };
    this.queries = n;
  }

  tables(n: number, nHeads: number, nibbles: number): { tables: Tensor; scales: Tensor } {
    const { tables, scales } = this.expectHeld();
    return {
      tables: tensor(tables.buffer, 'i8', [nHeads, n, nibbles, 16]),
      scales: tensor(scales.buffer, 'f32', [nHeads, n]),
    };
  }

  /**
   * Rows of a table in any type of weights, as f32; valid until the next ones of the same part.
   * @param table [rows, columns]
   * @param shape of what comes out, rows.length times columns elements
   */
  expand(
    part: 'project' | 'levels',
    table: Tensor,
    rows: Int32Array,
    shape: readonly number[],
  ): Tensor {
    const target = tensor(this.expectHeld()[part].buffer, 'f32', shape);
    this.kernels.embed(table, rows, reshape(target, [rows.length, table.shape[1]]));
    return target;
  }

  private expectHeld() {
    if (!this.held) throw new KvError('usage', 'cache: it was asked outside a step.');
    return this.held;
  }

  dispose(): void {
    for (const { buffer } of Object.values(this.held ?? {})) this.kernels.free(buffer);
    this.held = undefined;
    this.queries = 0;
  }
}
