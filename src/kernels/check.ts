/** The shape checks of every kernel, shared by all backends, so that all refuse the same calls. */
import { ensure, KvError } from '../errors/errors.ts';
import type { AttendShape, HostArray, LinearPart, Segment, Tensor } from './kernels.ts';
import { expectTensor } from './tensor.ts';
import { tensorSizeBytes, weightDTypes } from '../math/dtype.ts';

export const maxSketchHeadDim = 512;

export const check = {
  write(t: Tensor, data: HostArray, view: HostArray): void {
    ensure(
      data.length === view.length && data.BYTES_PER_ELEMENT === view.BYTES_PER_ELEMENT,
      'shape',
      () =>
        `write: data has ${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes; ${t.dtype} [${t.shape.join(', ')}] takes ${view.length} of ${view.BYTES_PER_ELEMENT}.`,
    );
  },

  copy(source: Tensor, target: Tensor): void {
    const [from, to] = [source, target].map((t) => tensorSizeBytes(t.dtype, t.shape));
    ensure(from === to, 'shape', () => `copy: the source has ${from} bytes, the target ${to}.`);
  },

  embed(table: Tensor, ids: Int32Array, out: Tensor): void {
    expectTensor('embed', 'table', table, weightDTypes, [-1, -1]);
    expectTensor('embed', 'out', out, 'f32', [ids.length, table.shape[1]]);
    const bad = ids.find((id) => id < 0 || id >= table.shape[0]);
    ensure(
      bad === undefined,
      'range',
      () => `embed: token id ${bad} is outside the vocabulary of ${table.shape[0]}.`,
    );
  },

  rmsNorm(x: Tensor, weight: Tensor, out: Tensor): void {
    expectTensor('rmsNorm', 'x', x, 'f32', [-1, -1]);
    expectTensor('rmsNorm', 'weight', weight, 'f32', [x.shape[1]]);
    expectTensor('rmsNorm', 'out', out, 'f32', x.shape);
  },

  linear(x: Tensor, parts: readonly LinearPart[]): void {
    expectTensor('linear', 'x', x, 'f32', [-1, -1]);
    for (const { weight, out } of parts) {
      expectTensor('linear', 'weight', weight, weightDTypes, [-1, x.shape[1]]);
      expectTensor('linear', 'out', out, 'f32', [x.shape[0], weight.shape[0]]);
    }
  },

  rope(x: Tensor, table: Tensor): void {
    expectTensor('rope', 'x', x, 'f32', [-1, -1, -1]);
    expectTensor('rope', 'table', table, 'f32', [x.shape[0], -1, 2]);
    ensure(
      2 * table.shape[1] <= x.shape[2],
      'shape',
      () => `rope: ${table.shape[1]} pairs do not fit a head of ${x.shape[2]} dimensions.`,
    );
  },

  sameShape(kernel: string, x: Tensor, y: Tensor): void {
    expectTensor(kernel, 'first operand', x, 'f32', x.shape);
    expectTensor(kernel, 'second operand', y, 'f32', x.shape);
  },

  addBias(x: Tensor, bias: Tensor): void {
    expectTensor('addBias', 'x', x, 'f32', [-1, -1]);
    expectTensor('addBias', 'bias', bias, 'f32', [x.shape[1]]);
  },

  storeRows(x: Tensor, page: Tensor, slot: number): void {
    expectTensor('storeRows', 'x', x, 'f32', [-1, -1, -1]);
    expectTensor('storeRows', 'page', page, ['f32', 'f16'], [x.shape[1], -1, x.shape[2]]);
    slots('storeRows', x, page, slot);
  },

  storeSketch(x: Tensor, projection: Tensor, page: Tensor, slot: number): void {
    const [, heads, d] = x.shape;
    expectTensor('storeSketch', 'x', x, 'f32', [-1, -1, -1]);
    expectTensor('storeSketch', 'projection', projection, 'i8', [-1, -1, d]);
    const [nKvHeads, bits] = projection.shape;
    ensure(
      bits % 32 === 0 && heads % nKvHeads === 0 && d <= maxSketchHeadDim,
      'shape',
      () =>
        `storeSketch: ${bits} bits, ${heads} heads over ${nKvHeads} projections, head dimension ${d}; bits must be a multiple of 32, heads of projections, and the dimension at most ${maxSketchHeadDim} (sums stay below 2^31).`,
    );
    expectTensor('storeSketch', 'page', page, 'u32', [heads, -1, bits / 32]);
    slots('storeSketch', x, page, slot);
  },

  storeAffine4(x: Tensor, codes: Tensor, params: Tensor, slot: number): void {
    const [, heads, d] = x.shape;
    expectTensor('storeAffine4', 'x', x, 'f32', [-1, -1, -1]);
    expectTensor('storeAffine4', 'codes', codes, 'u8', [heads, -1, d / 2]);
    expectTensor('storeAffine4', 'params', params, 'f16', [heads, codes.shape[1], 2]);
    slots('storeAffine4', x, codes, slot);
  },

  attend(shape: AttendShape, out: Tensor): void {
    expectTensor('attend', 'out', out, 'f32', [shape.n, shape.nHeads, shape.headDimV]);
  },

  scores(segment: Segment, shape: AttendShape, out: Tensor): void {
    expectTensor('scores', 'out', out, 'f32', [shape.nHeads, shape.n, segment.length]);
  },
};

/** Segments against the shape of the queries: forms, page tensors, and that the pages reach `length`. */
export function checkAttend(segments: readonly Segment[], shape: AttendShape): void {
  const { n, nHeads, nKvHeads, headDimK, headDimV } = shape;
  ensure(
    nHeads % nKvHeads === 0,
    'shape',
    () => `attend: ${nHeads} query heads; they must be a multiple of the ${nKvHeads} KV heads.`,
  );
  for (const segment of segments) {
    const { keyForm, valueForm, query, pages, pageLength, scale } = segment;
    expectTensor('attend', 'scale', scale, 'f32', [nHeads]);
    ensure(
      segment.length >= 0 &&
        segment.length <= pages.length * pageLength &&
        segment.minDistance >= 0,
      'shape',
      () =>
        `attend: a segment of ${segment.length} positions has ${pages.length} pages of ${pageLength} and minDistance ${segment.minDistance}.`,
    );
    if (keyForm === 'sketch') expectTensor('attend', 'query', query, 'u32', [nHeads, n, -1]);
    else expectTensor('attend', 'query', query, 'f32', [n, nHeads, headDimK]);
    // A cache lays out all its pages alike and adds them at the end: each has been last once.
    for (const page of pages.slice(-1)) {
      if (keyForm === 'sketch') {
        const shapeOfKeys = [nKvHeads, pageLength, query.shape[2]];
        expectTensor('attend', 'sketch page keys', page.keys, 'u32', shapeOfKeys);
      } else {
        expectTensor('attend', 'page keys', page.keys, keyForm, [nKvHeads, pageLength, headDimK]);
      }
      if (valueForm === 'affine4') {
        const codes = [nKvHeads, pageLength, headDimV / 2];
        expectTensor('attend', 'page values', page.values, 'u8', codes);
        if (!page.valueParams)
          throw new KvError('shape', 'attend: an affine4 page has no valueParams.');
        const params = [nKvHeads, pageLength, 2];
        expectTensor('attend', 'page valueParams', page.valueParams, 'f16', params);
      } else {
        const values = [nKvHeads, pageLength, headDimV];
        expectTensor('attend', 'page values', page.values, valueForm, values);
      }
    }
  }
}

function slots(kernel: string, x: Tensor, page: Tensor, slot: number): void {
  ensure(
    slot >= 0 && slot + x.shape[0] <= page.shape[1],
    'shape',
    () => `${kernel}: ${x.shape[0]} rows from slot ${slot} do not fit a page of ${page.shape[1]}.`,
  );
}
