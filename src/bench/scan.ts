import type { Kernels, Page, Segment, Tensor } from '../kernels/kernels.ts';
import { allocTensor, bytesOf, tensor } from '../kernels/tensor.ts';
import type { DType } from '../math/dtype.ts';
import { Random } from '../math/random.ts';
import { median } from './timing.ts';

/** How fast one form of keys is scored. */
export interface ScanRow {
  readonly form: string;
  /** bytes of one key of one head, its scale included */
  readonly bytesPerKey: number;
  /** query rows that share a KV head, and so the loads of its keys */
  readonly rows: number;
  /** keys scored per second by one thread, each row counted */
  readonly keysPerSecond: number;
  /** keys read per second times their bytes */
  readonly gigabytesPerSecond: number;
}

/** A form of keys to scan: sketches of so many bits, codes of so many groups, or f16 of a dimension. */
export type ScanForm =
  | { readonly sketchBits: number }
  | { readonly codeGroups: number }
  | { readonly f16Dimensions: number };

/**
 * Times `scores`, which one thread computes, on random keys of one KV head, the forms in turn.
 * @param nRows query heads over the one KV head
 */
export async function scanSpeed(
  kernels: Kernels,
  forms: readonly ScanForm[],
  nRows: number,
  depth: number,
  rounds = 15,
): Promise<ScanRow[]> {
  // Long pages: what a call costs beside its scan would weigh on the shortest keys.
  const pageLength = 2048;
  const pageCount = Math.ceil(depth / pageLength);
  const length = pageCount * pageLength;
  const random = new Random(2);
  const made: Tensor[] = [];
  const fill = (t: Tensor) => {
    made.push(t);
    // A byte of 63 at most: as the upper byte of an f16 or f32 it makes no NaN.
    kernels.write(
      bytesOf(t),
      new Uint8Array(t.buffer.sizeBytes).map(() => random.uint32() & 63),
    );
    return t;
  };
  const make = (dtype: DType, shape: readonly number[]) => fill(allocTensor(kernels, dtype, shape));
  const out = make('f32', [nRows, 1, length]);
  const waitFor = tensor(out.buffer, 'f32', [1]);
  const scale = make('f32', [nRows]);
  const values = make('f32', [1, pageLength, 1]);
  const scans = forms.map((form) => {
    const { name, keyForm, dimension, query, page } = layOut(form, nRows, pageLength, make);
    const pages = Array.from({ length: pageCount }, () => ({ ...page(), values }));
    const { keys, keyScales } = pages[0];
    const bytesPerPage = keys.buffer.sizeBytes + (keyScales?.buffer.sizeBytes ?? 0);
    const segment: Segment = {
      ...{ keyForm, valueForm: 'f32', pages, pageLength, first: 0, length, scale, ...query },
      ...{ minDistance: 0, maxDistance: Infinity },
    };
    const heads = { nHeads: nRows, nKvHeads: 1, headDimK: dimension, headDimV: 1 };
    const shape = { n: 1, start: length - 1, ...heads };
    const run = () => kernels.scores(segment, shape, out);
    return { name, bytesPerKey: bytesPerPage / pageLength, run, times: [] as number[] };
  });
  for (let round = 0; round < rounds; round++) {
    for (const { run, times } of scans) {
      const began = performance.now();
      run();
      await kernels.read(waitFor);
      times.push(performance.now() - began);
    }
  }
  for (const { buffer } of made) kernels.free(buffer);
  return scans.map(({ name, bytesPerKey, times }) => {
    const keysPerSecond = (nRows * length * 1000) / median(times);
    const gigabytesPerSecond = ((keysPerSecond / nRows) * bytesPerKey) / 1e9;
    return { form: name, bytesPerKey, rows: nRows, keysPerSecond, gigabytesPerSecond };
  });
}

interface LaidOut {
  readonly name: string;
  readonly keyForm: Segment['keyForm'];
  readonly dimension: number;
  readonly query: Pick<Segment, 'query' | 'queryScales'>;
  readonly page: () => Pick<Page, 'keys' | 'keyScales'>;
}

function layOut(
  form: ScanForm,
  rows: number,
  pageLength: number,
  make: (dtype: DType, shape: readonly number[]) => Tensor,
): LaidOut {
  if ('sketchBits' in form) {
    const words = form.sketchBits / 32;
    return {
      ...{ name: `sketch of ${form.sketchBits} bits`, keyForm: 'sketch', dimension: 1 },
      query: { query: make('u32', [rows, 1, words]) },
      page: () => ({ keys: make('u32', [1, pageLength, words]) }),
    };
  }
  if ('codeGroups' in form) {
    const groups = form.codeGroups;
    const [query, queryScales] = [make('i8', [rows, 1, groups, 16]), make('f32', [rows, 1])];
    return {
      ...{ name: `codes of ${groups} groups`, keyForm: 'codes', dimension: 1 },
      query: { query, queryScales },
      page: () => ({
        keys: make('u8', [1, pageLength / 32, groups, 16]),
        keyScales: make('f16', [1, pageLength]),
      }),
    };
  }
  const d = form.f16Dimensions;
  return {
    ...{ name: `f16 of ${d} dimensions`, keyForm: 'f16', dimension: d },
    query: { query: make('f32', [1, rows, d]) },
    page: () => ({ keys: make('f16', [1, pageLength, d]) }),
  };
}
