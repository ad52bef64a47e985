import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { hfJson, hfTensors, safetensorsBytes } from '../../test/hf-twin.ts';
import { forgeBytes, writtenBytes, type ForgeOptions } from '../bench/forge-node.ts';
import { dequantize } from '../math/blocks.ts';
import { convertGguf, type ConvertType } from './convert.ts';
import { openFileSource } from './file-node.ts';
import { readGguf, readTensorInto, type Gguf } from './gguf.ts';
import { getNumber, requireTensor } from './gguf-access.ts';
import { writeGguf, type TensorToWrite } from './gguf-write.ts';
import { readHfModel } from './hf-model.ts';
import { memorySource, type ByteSource } from './source.ts';

const options: ForgeOptions = {
  nLayers: 1,
  nHeads: 2,
  nKvHeads: 1,
  headDim: 16,
  dFeedForward: 64,
  vocab: 300,
  type: 'F32',
  tied: false,
  contextLength: 64,
  seed: 9,
  tokenizer: 'bpe',
  ropeScaling: { factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContextLength: 16 },
};

async function converted(source: ByteSource, type: ConvertType): Promise<ByteSource> {
  const gguf = await readGguf(source);
  const bytes = await writtenBytes((sink) => convertGguf(source, gguf, sink, type));
  return memorySource(bytes, `converted to ${type}`);
}

async function tensorBytes(source: ByteSource, name: string): Promise<Uint8Array> {
  const tensor = requireTensor(await readGguf(source), name);
  const bytes = new Uint8Array(tensor.sizeBytes);
  await readTensorInto(source, tensor, bytes);
  return bytes;
}

function fileWith(...tensors: TensorToWrite[]): Promise<ByteSource> {
  return writtenBytes((sink) => writeGguf(sink, { metadata: new Map(), tensors })).then((bytes) =>
    memorySource(bytes, 'made by hand'),
  );
}

const zeros = (name: string, type: string, shape: number[], sizeBytes: number): TensorToWrite => ({
  name,
  type,
  shape,
  data: async () => new Uint8Array(sizeBytes),
});

describe('convertGguf', () => {
  test.each(['q8_0', 'q4_0', 'f16', 'f32'] as const)(
    'F32 to %s gives the same weights as forging in that type',
    async (type) => {
      const wanted = memorySource(
        await forgeBytes({ ...options, type: type.toUpperCase() as ForgeOptions['type'] }),
        'forged',
      );
      const found = await converted(memorySource(await forgeBytes(options), 'f32'), type);
      const [a, b] = [await readGguf(wanted), await readGguf(found)];
      expect([...b.tensors.values()].map((t) => [t.name, t.type, t.shape])).toEqual(
        [...a.tensors.values()].map((t) => [t.name, t.type, t.shape]),
      );
      for (const name of a.tensors.keys()) {
        expect(await tensorBytes(found, name), name).toEqual(await tensorBytes(wanted, name));
      }
    },
  );

  test('vectors stay f32, metadata keeps its values and types, the file type is right', async () => {
    const source = memorySource(await forgeBytes({ ...options, type: 'BF16' }), 'bf16');
    const before = await readGguf(source);
    const after = await readGguf(await converted(source, 'q8_0'));
    expect(getNumber(before, 'general.file_type')).toBe(32);
    expect(getNumber(after, 'general.file_type')).toBe(7);
    expect(getNumber(after, 'general.quantization_version')).toBe(2);
    expect(requireTensor(after, 'output_norm.weight').dtype).toBe('f32');
    expect(requireTensor(after, 'rope_freqs.weight').dtype).toBe('f32');
    expect(requireTensor(after, 'output.weight').dtype).toBe('q8_0');
    const rest = (map: ReadonlyMap<string, unknown>) =>
      [...map].filter(([key]) => key !== 'general.file_type');
    expect(rest(after.metadata)).toEqual(rest(before.metadata));
    expect(rest(after.metadataTypes)).toEqual(rest(before.metadataTypes));
    expect(getNumber(await readGguf(await converted(source, 'f16')), 'general.file_type')).toBe(1);
    expect(getNumber(await readGguf(await converted(source, 'f32')), 'general.file_type')).toBe(0);
  });

  test('to q8_0 and back moves a weight by half a step at most', async () => {
    const source = memorySource(await forgeBytes(options), 'f32');
    const back = await converted(await converted(source, 'q8_0'), 'f32');
    const name = 'blk.0.ffn_down.weight';
    const bytes = await tensorBytes(source, name);
    const [x, y] = [bytes, await tensorBytes(back, name)].map((b) =>
      dequantize('f32', b, bytes.length / 4),
    );
    const largest = x.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    const worst = x.reduce((m, v, i) => Math.max(m, Math.abs(v - y[i])), 0);
    expect(worst).toBeGreaterThan(0);
    expect(worst).toBeLessThan((largest / 127) * 0.55);
  });

  test('vectors become f32, a matrix without whole blocks f16, and what is no matrix stays', async () => {
    const source = await fileWith(
      zeros('odd', 'F32', [3, 20], 240),
      zeros('cube', 'IQ2_XS', [2, 2, 256], 296),
      zeros('matrix', 'F16', [3, 64], 384),
      zeros('vector', 'F16', [64], 128),
    );
    const gguf = await readGguf(await converted(source, 'q8_0'));
    expect([...gguf.tensors.values()].map((t) => t.type)).toEqual(['F16', 'IQ2_XS', 'Q8_0', 'F32']);
  });

  test('a matrix that the engine cannot read is refused before anything is written', async () => {
    const source = await fileWith(
      zeros('fine', 'F16', [1, 32], 64),
      zeros('w', 'IQ2_XS', [1, 256], 74),
    );
    let written = 0;
    const sink = { write: async (bytes: Uint8Array) => void (written += bytes.length) };
    const converting = convertGguf(source, await readGguf(source), sink, 'q8_0');
    await expect(converting).rejects.toMatchObject({ code: 'unsupported' });
    await expect(converting).rejects.toThrow(/"w" is IQ2_XS; supported: F32 F16 Q4_0 /);
    expect(written).toBe(0);
  });

  test('a weight that is not finite stops it', async () => {
    const bad = zeros('w', 'F32', [1, 32], 128);
    const source = await fileWith({
      ...bad,
      data: async () => new Uint8Array(new Float32Array(32).fill(NaN).buffer),
    });
    await expect(converted(source, 'q8_0')).rejects.toMatchObject({ code: 'not-finite' });
  });

  test('large tensors go in pieces, and progress ends at the total', async () => {
    const source = await fileWith(zeros('large', 'F16', [3 << 10, 1 << 10], 6 << 20));
    const steps: [number, number][] = [];
    let largestRead = 0;
    const watched: ByteSource = {
      ...source,
      async read(offset, target) {
        largestRead = Math.max(largestRead, target.length);
        await source.read(offset, target);
      },
    };
    const sink = { write: async () => {} };
    await convertGguf(watched, await readGguf(source), sink, 'q8_0', {
      onProgress: (...s) => steps.push(s),
    });
    expect(steps.map(([done]) => done)).toEqual([1 << 20, 2 << 20, 3 << 20]);
    expect(steps.every(([, total]) => total === 3 << 20)).toBe(true);
    expect(largestRead).toBe(2 << 20);
  });

  test('a real model shrinks, all of it readable', async (context) => {
    const file = new URL('../../../shared/models/books-5m-f32.gguf', import.meta.url);
    if (!existsSync(file)) context.skip('no development data at ../shared');
    const source = await openFileSource(decodeURIComponent(file.pathname));
    const small = await converted(source, 'q8_0');
    expect(small.sizeBytes).toBeLessThan(0.5 * source.sizeBytes);
    const { tensors } = await readGguf(small);
    for (const name of tensors.keys()) await tensorBytes(small, name);
    await source.close();
  });
});

/** The model above and its Hugging Face twin, with the same name. */
async function hfTwin(type: 'F32' | 'BF16') {
  const bytes = await forgeBytes({ ...options, type });
  const forged = memorySource(bytes, 'forged');
  const json = await hfJson(bytes);
  json.config.rope_scaling = {
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 16,
  };
  const shard = memorySource(safetensorsBytes(await hfTensors(forged)), 'model.safetensors');
  const name = `forged ${type} seed ${options.seed}`;
  return { forged, twin: await readHfModel({ ...json, name, shards: [{ source: shard }] }) };
}

describe('convertGguf of a Hugging Face model', () => {
  test.each(['q8_0', 'q4_0', 'f16', 'f32'] as const)(
    'to %s is the GGUF twin converted',
    async (type) => {
      const { forged, twin } = await hfTwin(type === 'f32' ? 'F32' : 'BF16');
      const wanted = await converted(forged, type);
      const bytes = await writtenBytes((sink) => convertGguf(twin.source, twin.gguf, sink, type));
      const found = memorySource(bytes, 'converted twin');
      const [a, b] = [await readGguf(wanted), await readGguf(found)];
      expect([...b.tensors.keys()]).toEqual([...a.tensors.keys()]);
      for (const name of a.tensors.keys()) {
        expect(await tensorBytes(found, name), name).toEqual(await tensorBytes(wanted, name));
      }
      expect(b.metadata.has('h1bkv.rope.style')).toBe(false);
      const shared = (gguf: Gguf) =>
        [...gguf.metadata]
          .filter(([key]) => !/quantization_version|add_eos_token/.test(key))
          .sort(([x], [y]) => (x < y ? -1 : 1));
      expect(shared(b)).toEqual(shared(a));
    },
  );

  test('rows are paired within their head, and biases with them', async () => {
    const rows = Float32Array.from({ length: 8 * 3 }, (_, i) => Math.floor(i / 3));
    const f32 = (values: Float32Array) => async () =>
      new Uint8Array(new Float32Array(values).buffer);
    const source = await writtenBytes((sink) =>
      writeGguf(sink, {
        metadata: new Map([
          ['general.architecture', { type: 'string', value: 'llama' }],
          ['llama.attention.key_length', { type: 'u32', value: 4 }],
          ['h1bkv.rope.style', { type: 'string', value: 'halves' }],
        ]),
        tensors: [
          { name: 'blk.0.attn_q.weight', type: 'F32', shape: [8, 3], data: f32(rows) },
          {
            name: 'blk.11.attn_k.bias',
            type: 'F32',
            shape: [8],
            data: f32(Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7)),
          },
          { name: 'blk.0.attn_v.weight', type: 'F32', shape: [8, 3], data: f32(rows) },
          { name: 'blk.0.attn_q_norm.weight', type: 'F32', shape: [24], data: f32(rows) },
        ],
      }),
    ).then((bytes) => memorySource(bytes, 'halves'));
    const found = await converted(source, 'f32');
    const values = async (name: string, count: number) => [
      ...dequantize('f32', await tensorBytes(found, name), count),
    ];
    const order = [0, 2, 1, 3, 4, 6, 5, 7];
    expect(await values('blk.0.attn_q.weight', 24)).toEqual(order.flatMap((i) => [i, i, i]));
    expect(await values('blk.11.attn_k.bias', 8)).toEqual(order);
    expect(await values('blk.0.attn_v.weight', 24)).toEqual([...rows]);
    expect(await values('blk.0.attn_q_norm.weight', 24)).toEqual([...rows]);
  });

  test.each([0, 3, 5, 6])('heads of %i rows do not fit 8 rows', async (headRows) => {
    const source = await writtenBytes((sink) =>
      writeGguf(sink, {
        metadata: new Map([
          ['general.architecture', { type: 'string', value: 'llama' }],
          ['llama.attention.key_length', { type: 'u32', value: headRows }],
          ['h1bkv.rope.style', { type: 'string', value: 'halves' }],
        ]),
        tensors: [zeros('blk.0.attn_q.weight', 'F32', [8, 3], 96)],
      }),
    ).then((bytes) => memorySource(bytes, 'damaged'));
    await expect(converted(source, 'f32')).rejects.toMatchObject({
      code: 'format',
      message: expect.stringContaining(`"blk.0.attn_q.weight" has 8 rows in heads of ${headRows}`),
    });
  });
});
