/** The shape checks of every kernel, shared by all backends, so that all refuse the same calls. */
import { ensure, KvError } from '../errors/errors.ts';
import { fieldBytes, fieldMultiple } from './fields.ts';
import type {
  AttendShape,
  Codec,
  FieldCounts,
  HostArray,
  LinearPart,
  Page,
  Segment,
  Tensor,
} from './kernels.ts';
import { expectTensor } from './tensor.ts';
import { tensorSizeBytes, weightDTypes, type DType } from '../math/dtype.ts';

export const maxSketchHeadDim = 512;
/** Entries of a query table keep at least 6 bits beside the sign, and sums of them 16; projections fit a thread's stack. */
export const maxCodeGroups = 512;
const maxCodeHeadDim = 512;
/** What `project` of a codec may be held in. */
const codecDTypes = ['f32', 'f16', 'q8_0'] as const;
/** Keys of a block of codes. */
const blockKeys = 32;

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
    // Not `find`: caches ask for hundreds of rows for every token and layer.
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] >= 0 && ids[i] < table.shape[0]) continue;
      throw new KvError(
        'range',
        `embed: token id ${ids[i]} is outside the vocabulary of ${table.shape[0]}.`,
      );
    }
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
    expectTensor('addBias', 'x', x, 'f32', [-1, -1, -1]);
    const [, heads, d] = x.shape;
    expectTensor('addBias', 'bias', bias, 'f32', [-1, d]);
    ensure(
      heads % bias.shape[0] === 0,
      'shape',
      () => `addBias: ${heads} heads; they must be a multiple of the ${bias.shape[0]} of the bias.`,
    );
  },

  storeRows(x: Tensor, page: Tensor, slot: number): void {
    expectTensor('storeRows', 'x', x, 'f32', [-1, -1, -1]);
    expectTensor('storeRows', 'page', page, ['f32', 'f16'], [x.shape[1], -1, x.shape[2]]);
    slots('storeRows', x, page.shape[1], slot);
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
    slots('storeSketch', x, page.shape[1], slot);
  },

  storeCodes(
    x: Tensor,
    codec: Codec,
    keys: Tensor,
    scales: Tensor | undefined,
    slot: number,
  ): void {
    expectTensor('storeCodes', 'x', x, 'f32', [-1, -1, -1]);
    const { nKvHeads, groups } = expectCodec('storeCodes', codec, x.shape[2]);
    expectTensor('storeCodes', 'x', x, 'f32', [-1, nKvHeads, -1]);
    expectTensor('storeCodes', 'keys', keys, 'u8', [nKvHeads, -1, groups, 16]);
    const pageLength = keys.shape[1] * blockKeys;
    ensure(
      (scales === undefined) === (codec.rule === 'none'),
      'shape',
      () =>
        `storeCodes: keyScales ${scales ? 'were' : 'were not'} given for scale rule "${codec.rule}"; rule "none" has none, the others need them.`,
    );
    if (scales) expectTensor('storeCodes', 'keyScales', scales, 'f16', [nKvHeads, pageLength]);
    slots('storeCodes', x, pageLength, slot);
  },

  queryTables(q: Tensor, codec: Codec, tables: Tensor, scales: Tensor): void {
    expectTensor('queryTables', 'q', q, 'f32', [-1, -1, -1]);
    const [n, nHeads, d] = q.shape;
    const { nKvHeads, groups } = expectCodec('queryTables', codec, d);
    ensure(
      nHeads % nKvHeads === 0,
      'shape',
      () =>
        `queryTables: ${nHeads} query heads; they must be a multiple of the ${nKvHeads} KV heads.`,
    );
    expectTensor('queryTables', 'tables', tables, 'i8', [nHeads, n, groups, 16]);
    expectTensor('queryTables', 'scales', scales, 'f32', [nHeads, n]);
  },

  storeAffine(x: Tensor, codes: Tensor, params: Tensor, slot: number): void {
    expectTensor('storeAffine', 'x', x, 'f32', [-1, -1, -1]);
    const [, heads, d] = x.shape;
    ensure(
      d % 2 === 0,
      'shape',
      () => `storeAffine: head dimension ${d}; two codes are a byte, so it must be even.`,
    );
    expectTensor('storeAffine', 'codes', codes, 'u8', [heads, -1, d / 2]);
    expectTensor('storeAffine', 'params', params, 'f16', [heads, codes.shape[1], 2]);
    slots('storeAffine', x, codes.shape[1], slot);
  },

  turn(x: Tensor, matrices: Tensor): void {
    expectTensor('turn', 'x', x, 'f32', [-1, -1, -1]);
    const [, heads, d] = x.shape;
    expectTensor('turn', 'matrices', matrices, codecDTypes, [-1, d, d]);
    const nKvHeads = matrices.shape[0];
    ensure(
      heads % nKvHeads === 0 && d <= maxCodeHeadDim,
      'shape',
      () =>
        `turn: ${heads} heads of ${d}; the heads must be a multiple of the ${nKvHeads} matrices, the dimension at most ${maxCodeHeadDim}.`,
    );
  },

  storeFields(
    x: Tensor,
    weights: Tensor,
    codes: Tensor,
    scales: Tensor,
    fields: FieldCounts,
    slot: number,
  ): void {
    expectTensor('storeFields', 'x', x, 'f32', [-1, -1, -1]);
    const [, heads, d] = x.shape;
    expectFields('storeFields', fields, d);
    expectTensor('storeFields', 'weights', weights, 'f32', [heads, d]);
    expectTensor('storeFields', 'codes', codes, 'u8', [heads, -1, fieldBytes(fields)]);
    expectTensor('storeFields', 'scales', scales, 'f16', [heads, codes.shape[1]]);
    slots('storeFields', x, codes.shape[1], slot);
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
  const { nHeads, nKvHeads } = shape;
  ensure(
    nHeads % nKvHeads === 0,
    'shape',
    () => `attend: ${nHeads} query heads; they must be a multiple of the ${nKvHeads} KV heads.`,
  );
  for (const segment of segments) {
    const { pages, pageLength, scale } = segment;
    expectTensor('attend', 'scale', scale, 'f32', [nHeads]);
    ensure(
      segment.length >= 0 &&
        segment.length <= pages.length * pageLength &&
        segment.minDistance >= 0,
      'shape',
      () =>
        `attend: a segment of ${segment.length} positions has ${pages.length} pages of ${pageLength} and minDistance ${segment.minDistance}.`,
    );
    const { skip = 0 } = segment;
    ensure(
      skip >= 0 && skip < 1,
      'range',
      () => `attend: a segment may skip ${skip} of its weights; it must be from 0 to below 1.`,
    );
    // A cache lays out all its pages alike and adds them at the end: each has been last once.
    const page = pages.at(-1);
    expectKeys(segment, shape, page);
    if (page) expectValues(segment, shape, page);
  }
}

/** The query of a segment, and the keys of a page if there is one. */
function expectKeys(segment: Segment, shape: AttendShape, page: Page | undefined): void {
  const { n, nHeads, nKvHeads, headDimK } = shape;
  const { keyForm, query, queryScales, pageLength } = segment;
  if (keyForm === 'sketch') {
    expectTensor('attend', 'query', query, 'u32', [nHeads, n, -1]);
    if (queryScales) expectTensor('attend', 'queryScales', queryScales, 'f32', [nHeads, n]);
    const shapeOfKeys = [nKvHeads, pageLength, query.shape[2]];
    if (page) expectTensor('attend', 'sketch page keys', page.keys, 'u32', shapeOfKeys);
  } else if (keyForm === 'codes') {
    expectTensor('attend', 'query', query, 'i8', [nHeads, n, -1, 16]);
    if (!queryScales)
      throw new KvError('shape', 'attend: a segment of codes has no queryScales. See queryTables.');
    expectTensor('attend', 'queryScales', queryScales, 'f32', [nHeads, n]);
    ensure(
      pageLength % blockKeys === 0,
      'shape',
      () => `attend: pages of ${pageLength} codes; it must be a multiple of ${blockKeys}.`,
    );
    if (!page) return;
    const shapeOfKeys = [nKvHeads, pageLength / blockKeys, query.shape[2], 16];
    expectTensor('attend', 'page of codes', page.keys, 'u8', shapeOfKeys);
    if (page.keyScales)
      expectTensor('attend', 'page keyScales', page.keyScales, 'f16', [nKvHeads, pageLength]);
  } else {
    expectTensor('attend', 'query', query, 'f32', [n, nHeads, headDimK]);
    const shapeOfKeys = [nKvHeads, pageLength, headDimK];
    if (page) expectTensor('attend', 'page keys', page.keys, keyForm, shapeOfKeys);
  }
}

function expectValues(segment: Segment, shape: AttendShape, page: Page): void {
  const { nKvHeads, headDimV } = shape;
  const { valueForm, pageLength } = segment;
  if (valueForm === 'fields') {
    const { fields } = segment;
    if (!fields) throw new KvError('shape', 'attend: a segment of fields does not say how many.');
    expectFields('attend', fields, headDimV);
    const codes = [nKvHeads, pageLength, fieldBytes(fields)];
    expectTensor('attend', 'page values', page.values, 'u8', codes);
    if (!page.valueParams)
      throw new KvError('shape', 'attend: a page of fields has no valueParams.');
    const scales = [nKvHeads, pageLength];
    return expectTensor('attend', 'page valueParams', page.valueParams, 'f16', scales);
  }
  if (valueForm !== 'affine4') {
    const values = [nKvHeads, pageLength, headDimV];
    return expectTensor('attend', 'page values', page.values, valueForm as DType, values);
  }
  ensure(
    headDimV % 2 === 0,
    'shape',
    () => `attend: values of dimension ${headDimV}; for ${valueForm} it must be even.`,
  );
  const codes = [nKvHeads, pageLength, headDimV / 2];
  expectTensor('attend', 'page values', page.values, 'u8', codes);
  if (!page.valueParams)
    throw new KvError('shape', `attend: a page of ${valueForm} has no valueParams.`);
  expectTensor('attend', 'page valueParams', page.valueParams, 'f16', [nKvHeads, pageLength, 2]);
}

/** @throws KvError "shape" unless there are that many fields, in whole vectors */
function expectFields(kernel: string, { fours, twos }: FieldCounts, d: number): void {
  const fits = [fours, twos].every((count) => count >= 0 && count % fieldMultiple === 0);
  ensure(
    fits && fours + twos > 0 && fours + twos <= d && d <= maxCodeHeadDim,
    'shape',
    () =>
      `${kernel}: ${fours} fields of 4 bits and ${twos} of 2 for dimension ${d}; they must be multiples of ${fieldMultiple}, 1 to ${d} together, and the dimension at most ${maxCodeHeadDim}.`,
  );
}

/** @throws KvError "shape" unless the tensors of a codec fit together and heads of d dimensions */
function expectCodec(kernel: string, codec: Codec, d: number) {
  const { project, queryProject, places, levels, rows } = codec;
  expectTensor(kernel, 'codec levels', levels, ['f32', 'q8_0'], [-1, -1, 64]);
  const [nKvHeads, groups] = levels.shape;
  ensure(
    groups >= 1 && groups <= maxCodeGroups && d <= maxCodeHeadDim,
    'shape',
    () =>
      `${kernel}: a codec of ${groups} groups for head dimension ${d}; it must be 1 to ${maxCodeGroups} groups, and the dimension at most ${maxCodeHeadDim}.`,
  );
  expectTensor(kernel, 'codec project', project, codecDTypes, [-1, d]);
  expectTensor(kernel, 'codec queryProject', queryProject, codecDTypes, project.shape);
  expectTensor(kernel, 'codec places', places, 'i32', [nKvHeads, 4 * groups]);
  expectTensor(kernel, 'codec rows', rows, 'i32', [nKvHeads]);
  return { nKvHeads, groups };
}

function slots(kernel: string, x: Tensor, pageLength: number, slot: number): void {
  ensure(
    slot >= 0 && slot + x.shape[0] <= pageLength,
    'shape',
    () => `${kernel}: ${x.shape[0]} rows from slot ${slot} do not fit a page of ${pageLength}.`,
  );
}
