/** What `attend` and `scores` are asked in their suites: caches of every form, random. */
import { f32ToF16 } from '../math/f16.ts';
import { elementCount } from '../math/dtype.ts';
import { Random } from '../math/random.ts';
import { type Workspace, normals, bytes, words, weights } from './contract-tools.ts';
import { fieldBytes } from './fields.ts';
import type { AttendShape, FieldCounts, KeyForm, Segment, ValueForm } from './kernels.ts';

export interface AttendCase {
  readonly shape: AttendShape;
  readonly pageLength: number;
  /** Words of a sketch. */
  readonly sketchWords: number;
  /** Groups of codes. */
  readonly codeGroups?: number;
  /** Pages of codes without scales. */
  readonly unscaled?: boolean;
  /** Sketched queries with factors of their own. */
  readonly queryFactors?: boolean;
  readonly segments: readonly {
    readonly keyForm: KeyForm;
    readonly valueForm: ValueForm;
    readonly fields?: FieldCounts;
    readonly first: number;
    readonly length: number;
    readonly minDistance: number;
    readonly maxDistance: number;
  }[];
}

/** Segments over pages of random keys and values; the same for the same seed on every backend. */
export function segmentsOf(w: Workspace, c: AttendCase, seed: number): Segment[] {
  const random = new Random(seed);
  const { nHeads, nKvHeads, headDimK, headDimV } = c.shape;
  const P = c.pageLength;
  const groups = c.codeGroups ?? 1;
  return c.segments.map((s) => {
    const queries = { sketch: sketchQuery, codes: tableQuery, f32: floatQuery, f16: floatQuery };
    const { query, spread } = queries[s.keyForm](w, random, c);
    const scale = Float32Array.from({ length: nHeads }, () => spread * (0.5 + random.uniform()));
    const rowsOf = (form: 'f32' | 'f16', d: number) =>
      w.put(form, [nKvHeads, P, d], weights(random, form, [nKvHeads, P, d]));
    const keys = () => {
      if (s.keyForm === 'sketch') {
        const shape = [nKvHeads, P, c.sketchWords];
        return { keys: w.put('u32', shape, words(random, elementCount(shape))) };
      }
      if (s.keyForm !== 'codes') return { keys: rowsOf(s.keyForm, headDimK) };
      const shape = [nKvHeads, P / 32, groups, 16];
      const codes = { keys: w.put('u8', shape, bytes(random, elementCount(shape))) };
      const scales = Uint16Array.from({ length: nKvHeads * P }, () =>
        f32ToF16(0.5 + random.uniform()),
      );
      return c.unscaled ? codes : { ...codes, keyScales: w.put('f16', [nKvHeads, P], scales) };
    };
    const values = () => {
      if (s.fields) {
        const shape = [nKvHeads, P, fieldBytes(s.fields)];
        const scales = Uint16Array.from({ length: nKvHeads * P }, () =>
          f32ToF16(0.05 + 0.3 * random.uniform()),
        );
        return {
          values: w.put('u8', shape, bytes(random, elementCount(shape))),
          valueParams: w.put('f16', [nKvHeads, P], scales),
        };
      }
      if (s.valueForm === 'f32' || s.valueForm === 'f16')
        return { values: rowsOf(s.valueForm, headDimV) };
      const shape = [nKvHeads, P, headDimV / 2];
      return {
        values: w.put('u8', shape, bytes(random, elementCount(shape))),
        valueParams: w.put('f16', [nKvHeads, P, 2], affineParams(random, nKvHeads * P)),
      };
    };
    const pages = Array.from({ length: Math.ceil(s.length / P) }, () => ({
      ...keys(),
      ...values(),
    }));
    return { ...s, ...query, pages, pageLength: P, scale: w.f32([nHeads], scale) };
  });
}

interface RandomQuery {
  readonly query: Pick<Segment, 'query' | 'queryScales'>;
  /** a scale for logits of about 3 */
  readonly spread: number;
}

function floatQuery(w: Workspace, random: Random, { shape }: AttendCase): RandomQuery {
  const { n, nHeads, headDimK } = shape;
  const query = w.f32([n, nHeads, headDimK], normals(random, n * nHeads * headDimK));
  return { query: { query }, spread: 3 / Math.sqrt(headDimK) };
}

function sketchQuery(w: Workspace, random: Random, c: AttendCase): RandomQuery {
  const shape = [c.shape.nHeads, c.shape.n, c.sketchWords];
  const query = w.put('u32', shape, words(random, elementCount(shape)));
  const spread = 3 / Math.sqrt(c.sketchWords * 32);
  if (!c.queryFactors) return { query: { query }, spread };
  const rows = shape.slice(0, 2);
  const factors = Float32Array.from({ length: elementCount(rows) }, () => 2 * random.uniform());
  return { query: { query, queryScales: w.f32(rows, factors) }, spread };
}

/** Entries up to the largest that `queryTables` makes. */
function tableQuery(w: Workspace, random: Random, c: AttendCase): RandomQuery {
  const { n, nHeads } = c.shape;
  const groups = c.codeGroups ?? 1;
  const limit = Math.min(127, Math.floor(32767 / groups));
  const tables = Int8Array.from({ length: nHeads * n * groups * 16 }, () =>
    Math.round((2 * random.uniform() - 1) * limit),
  );
  const unit = Math.sqrt(3 / groups) / limit;
  const scales = Float32Array.from({ length: nHeads * n }, () => unit * (0.5 + random.uniform()));
  const query = w.put('i8', [nHeads, n, groups, 16], tables);
  return { query: { query, queryScales: w.f32([nHeads, n], scales) }, spread: 3 };
}

function affineParams(random: Random, count: number): Uint16Array {
  return Uint16Array.from({ length: count * 2 }, (_, i) => {
    return f32ToF16(i % 2 ? 0.05 + 0.3 * random.uniform() : -2 - random.uniform());
  });
}

const fieldsOf = (fours: number, twos: number) => ({
  valueForm: 'fields' as const,
  fields: { fours, twos },
});

const everywhere = { minDistance: 0, maxDistance: Infinity };

/** Segments as caches make them: one form, a window beside a sketch, holes, blind queries. */
export const attendCases: Readonly<Record<string, AttendCase>> = {
  'f32, one query': {
    shape: { n: 1, start: 299, nHeads: 7, nKvHeads: 1, headDimK: 80, headDimV: 80 },
    pageLength: 32,
    sketchWords: 2,
    segments: [{ keyForm: 'f32', valueForm: 'f32', first: 0, length: 300, ...everywhere }],
  },
  'f16, more than one split': {
    shape: { n: 1, start: 2499, nHeads: 6, nKvHeads: 2, headDimK: 64, headDimV: 64 },
    pageLength: 128,
    sketchWords: 2,
    segments: [{ keyForm: 'f16', valueForm: 'f16', first: 0, length: 2500, ...everywhere }],
  },
  'sketch and affine4, more than one split': {
    shape: { n: 1, start: 2499, nHeads: 9, nKvHeads: 3, headDimK: 64, headDimV: 64 },
    pageLength: 128,
    sketchWords: 8,
    segments: [{ keyForm: 'sketch', valueForm: 'affine4', first: 0, length: 2500, ...everywhere }],
  },
  'sketches with factors of queries, more than one split': {
    shape: { n: 2, start: 2498, nHeads: 9, nKvHeads: 3, headDimK: 64, headDimV: 64 },
    pageLength: 128,
    sketchWords: 8,
    queryFactors: true,
    segments: [{ keyForm: 'sketch', valueForm: 'affine4', first: 0, length: 2500, ...everywhere }],
  },
  'sketches with factors of queries, prefill of several blocks': {
    shape: { n: 33, start: 100, nHeads: 4, nKvHeads: 2, headDimK: 80, headDimV: 80 },
    pageLength: 48,
    sketchWords: 3,
    queryFactors: true,
    segments: [{ keyForm: 'sketch', valueForm: 'f16', first: 0, length: 133, ...everywhere }],
  },
  'causal prefill of several blocks': {
    shape: { n: 33, start: 100, nHeads: 9, nKvHeads: 3, headDimK: 64, headDimV: 96 },
    pageLength: 128,
    sketchWords: 2,
    segments: [{ keyForm: 'f16', valueForm: 'affine4', first: 0, length: 133, ...everywhere }],
  },
  'an exact window beside a sketch': {
    shape: { n: 7, start: 400, nHeads: 4, nKvHeads: 2, headDimK: 8, headDimV: 8 },
    pageLength: 48,
    sketchWords: 3,
    segments: [
      {
        keyForm: 'f32',
        valueForm: 'f32',
        first: 300,
        length: 107,
        minDistance: 0,
        maxDistance: 63,
      },
      {
        keyForm: 'sketch',
        valueForm: 'affine4',
        first: 0,
        length: 407,
        minDistance: 64,
        maxDistance: 9999,
      },
    ],
  },
  'dimensions that fill no vector': {
    shape: { n: 2, start: 60, nHeads: 7, nKvHeads: 1, headDimK: 10, headDimV: 6 },
    pageLength: 7,
    sketchWords: 1,
    segments: [
      { keyForm: 'f16', valueForm: 'f16', first: 50, length: 12, minDistance: 0, maxDistance: 5 },
      {
        keyForm: 'f32',
        valueForm: 'affine4',
        first: 3,
        length: 57,
        minDistance: 6,
        maxDistance: 30,
      },
    ],
  },
  'codes and fields of 2 bits, more than one split': {
    shape: { n: 1, start: 2499, nHeads: 9, nKvHeads: 3, headDimK: 64, headDimV: 64 },
    pageLength: 128,
    sketchWords: 1,
    codeGroups: 16,
    segments: [{ keyForm: 'codes', ...fieldsOf(0, 64), first: 0, length: 2500, ...everywhere }],
  },
  'codes and fields, prefill of several blocks': {
    shape: { n: 33, start: 70, nHeads: 4, nKvHeads: 2, headDimK: 80, headDimV: 80 },
    pageLength: 32,
    sketchWords: 1,
    codeGroups: 20,
    segments: [{ keyForm: 'codes', ...fieldsOf(40, 32), first: 0, length: 103, ...everywhere }],
  },
  'codes without scales beside an exact window': {
    shape: { n: 5, start: 300, nHeads: 7, nKvHeads: 1, headDimK: 128, headDimV: 128 },
    pageLength: 96,
    sketchWords: 1,
    codeGroups: 33,
    unscaled: true,
    segments: [
      { keyForm: 'f16', valueForm: 'f16', first: 270, length: 35, minDistance: 0, maxDistance: 20 },
      {
        keyForm: 'codes',
        ...fieldsOf(56, 40),
        first: 1,
        length: 283,
        minDistance: 21,
        maxDistance: 250,
      },
    ],
  },
  'one group of codes, fields that fill no vector': {
    shape: { n: 3, start: 45, nHeads: 3, nKvHeads: 1, headDimK: 6, headDimV: 24 },
    pageLength: 32,
    sketchWords: 1,
    codeGroups: 1,
    segments: [
      { keyForm: 'codes', valueForm: 'f16', first: 40, length: 8, minDistance: 0, maxDistance: 4 },
      {
        keyForm: 'codes',
        ...fieldsOf(8, 16),
        first: 0,
        length: 41,
        minDistance: 5,
        maxDistance: 40,
      },
    ],
  },
  'codes and fields of both widths, more than one split': {
    shape: { n: 1, start: 2499, nHeads: 9, nKvHeads: 3, headDimK: 64, headDimV: 64 },
    pageLength: 128,
    sketchWords: 1,
    codeGroups: 16,
    segments: [{ keyForm: 'codes', ...fieldsOf(24, 32), first: 0, length: 2500, ...everywhere }],
  },
  'codes and fields of 2 bits alone, beside an exact window': {
    shape: { n: 5, start: 300, nHeads: 8, nKvHeads: 2, headDimK: 64, headDimV: 128 },
    pageLength: 96,
    sketchWords: 1,
    codeGroups: 16,
    segments: [
      { keyForm: 'f16', valueForm: 'f16', first: 270, length: 35, minDistance: 0, maxDistance: 20 },
      {
        ...{ keyForm: 'codes', ...fieldsOf(0, 128) },
        ...{ first: 0, length: 284, minDistance: 21, maxDistance: 1000 },
      },
    ],
  },
  'prefill of several blocks over fields that fill no vector': {
    shape: { n: 33, start: 70, nHeads: 4, nKvHeads: 2, headDimK: 20, headDimV: 28 },
    pageLength: 32,
    sketchWords: 1,
    codeGroups: 5,
    segments: [{ keyForm: 'codes', ...fieldsOf(16, 8), first: 0, length: 103, ...everywhere }],
  },
  'fields of 4 bits alone': {
    shape: { n: 2, start: 60, nHeads: 3, nKvHeads: 1, headDimK: 20, headDimV: 80 },
    pageLength: 32,
    sketchWords: 1,
    codeGroups: 512,
    segments: [{ keyForm: 'codes', ...fieldsOf(80, 0), first: 0, length: 61, ...everywhere }],
  },
  'queries that see nothing': {
    shape: { n: 9, start: 0, nHeads: 2, nKvHeads: 2, headDimK: 96, headDimV: 128 },
    pageLength: 128,
    sketchWords: 4,
    segments: [
      { keyForm: 'sketch', valueForm: 'f16', first: 0, length: 9, minDistance: 4, maxDistance: 6 },
    ],
  },
  'no segment at all': {
    shape: { n: 2, start: 0, nHeads: 2, nKvHeads: 1, headDimK: 8, headDimV: 8 },
    pageLength: 8,
    sketchWords: 1,
    segments: [],
  },
  'more heads per KV head than rows of a block': {
    shape: { n: 1, start: 39, nHeads: 71, nKvHeads: 1, headDimK: 64, headDimV: 64 },
    pageLength: 512,
    sketchWords: 2,
    segments: [{ keyForm: 'sketch', valueForm: 'affine4', first: 0, length: 40, ...everywhere }],
  },
};
