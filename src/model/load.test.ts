import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { editGguf, temporaryFolder, tinyShape, type GgufEdit } from '../../test/forged.ts';
import { forgeBytes } from '../bench/forge-node.ts';
import type { Adapter } from '../cache/adapter.ts';
import type { GgufEntry, TensorToWrite } from '../format/gguf-write.ts';
import { readGguf } from '../format/gguf.ts';
import { memorySource, type ByteSource } from '../format/source.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { adapterBytes } from './adapter-file.ts';
import { loadModel, type LoadOptions } from './load.ts';

let kernels: Kernels;
let whole: Uint8Array;
beforeAll(async () => {
  kernels = await createKernels('auto');
  whole = await forgeBytes(tinyShape);
});
afterEach(() => expect(kernels.allocatedBytes).toBe(0));
afterAll(() => kernels.dispose());

/** Bytes of all tensors of a file. */
async function tensorBytes(bytes: Uint8Array): Promise<number> {
  const { tensors } = await readGguf(memorySource(bytes, 'forged'));
  return [...tensors.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

/** A memory source that knows whether it was closed. */
function watched(bytes: Uint8Array): { source: ByteSource; closed(): boolean } {
  let closed = false;
  const source = { ...memorySource(bytes, 'forged'), close: async () => void (closed = true) };
  return { source, closed: () => closed };
}

test('weights are in kernel memory once, as they are in the file; dispose frees them', async () => {
  for (const type of ['F32', 'Q8_0'] as const) {
    const bytes = await forgeBytes({ ...tinyShape, type });
    const seen: number[][] = [];
    const model = await loadModel(memorySource(bytes, 'forged'), {
      kernels,
      onProgress: (loaded, total) => seen.push([loaded, total]),
    });
    const expected = await tensorBytes(bytes);
    expect(kernels.allocatedBytes).toBe(expected);
    expect(model.weightBytes).toBe(expected);
    const [loaded, total] = seen.at(-1) ?? [];
    expect(loaded).toBe(expected);
    // The file also pads every tensor to 32 bytes.
    expect(total - loaded).toBeLessThan(32 * seen.length);
    model.dispose();
  }
});

test('what a model says of itself', async () => {
  const { source, closed } = watched(whole);
  const model = await loadModel(source, { kernels });
  expect(closed()).toBe(true);
  expect(model).toMatchObject({
    name: 'forged F32 seed 1',
    architecture: 'llama',
    contextLength: tinyShape.contextLength,
    vocabSize: tinyShape.vocab,
    adapter: undefined,
  });
  expect(model.layers).toEqual(
    Array(2).fill({ nHeads: 4, nKvHeads: 2, headDimK: 16, headDimV: 16, scale: 0.25 }),
  );
  model.dispose();
});

test('weights of a file are mapped where the backend can, and go on after the file is closed', async () => {
  const path = join(temporaryFolder(), 'tiny.gguf');
  writeFileSync(path, whole);
  const ids = Int32Array.of(1, 2, 3);
  const logits: unknown[] = [];
  for (const input of [path, memorySource(whole, 'forged')]) {
    const model = await loadModel(input, { kernels });
    const isMapped = input === path && kernels.backend === 'native';
    expect(kernels.allocatedBytes).toBe(isMapped ? 0 : model.weightBytes);
    const cache = await model.createCache('f16');
    logits.push(await kernels.read(await model.forward([{ ids, cache }], 'all')));
    cache.dispose();
    model.dispose();
  }
  expect(logits[0]).toEqual(logits[1]);
});

test('a Blob is as good as a file', async () => {
  const model = await loadModel(new Blob([new Uint8Array(whole)]), { kernels });
  expect(model.vocabSize).toBe(tinyShape.vocab);
  model.dispose();
});

test('kernels that were made for the model go with it', async () => {
  const model = await loadModel(memorySource(whole, 'forged'), { backend: 'reference' });
  expect(model.kernels.backend).toBe('reference');
  model.dispose();
  expect(model.kernels.allocatedBytes).toBe(0);
});

const set = (key: string, value: GgufEntry): GgufEdit => ({
  metadata: (entries) => entries.set(key, value),
});
const replace = (name: string, change: Partial<TensorToWrite>): GgufEdit => ({
  tensors: (list) => list.map((t) => (t.name === name ? { ...t, ...change } : t)),
});
const zeros = (sizeBytes: number) => async () => new Uint8Array(sizeBytes);
const lastTensor = 'blk.1.ffn_down.weight';

describe('a model that cannot run is refused, and nothing stays allocated', () => {
  const wrong: [string, GgufEdit, { code: string; message: RegExp }][] = [
    [
      'unknown architecture',
      set('general.architecture', { type: 'string', value: 'mamba' }),
      { code: 'unsupported', message: /architecture "mamba"; supported: llama/ },
    ],
    [
      'an architecture that is a property of every object',
      set('general.architecture', { type: 'string', value: 'constructor' }),
      { code: 'unsupported', message: /architecture "constructor"/ },
    ],
    [
      'missing tensor',
      { tensors: (list) => list.filter(({ name }) => name !== lastTensor) },
      { code: 'format', message: /tensor "blk\.1\.ffn_down\.weight" is missing/ },
    ],
    [
      'no embedding',
      { tensors: (list) => list.filter(({ name }) => name !== 'token_embd.weight') },
      { code: 'format', message: /tensor "token_embd\.weight" is missing/ },
    ],
    [
      'wrong shape',
      replace(lastTensor, { shape: [64, 32] }),
      { code: 'format', message: /ffn_down\.weight" is \[64, 32\]; need \[32, 64\]/ },
    ],
    [
      'unsupported type',
      replace(lastTensor, { type: 'IQ4_NL', data: zeros((32 * 64 * 18) / 32) }),
      { code: 'unsupported', message: /ffn_down\.weight" is IQ4_NL; supported: .*Re-quantize/ },
    ],
    [
      'norm weights in another type',
      replace('blk.1.ffn_norm.weight', { type: 'F16', data: zeros(64) }),
      { code: 'unsupported', message: /ffn_norm\.weight" is F16; supported for vectors: F32/ },
    ],
    [
      'RoPE factors of another size',
      {
        tensors: (list) => [
          ...list,
          { name: 'rope_freqs.weight', type: 'F32', shape: [5], data: zeros(20) },
        ],
      },
      { code: 'format', message: /rope_freqs\.weight" is \[5\]; need \[8\]/ },
    ],
    [
      'no such tokenizer',
      set('tokenizer.ggml.model', { type: 'string', value: 'unheard-of' }),
      { code: 'unsupported', message: /unheard-of/ },
    ],
    [
      'heads that do not divide',
      set('llama.attention.head_count_kv', { type: 'u32', value: 3 }),
      { code: 'format', message: /4 query heads over 3 KV heads/ },
    ],
  ];

  test.each(wrong)('%s', async (_, edit, { code, message }) => {
    const { source, closed } = watched(await editGguf(whole, edit));
    const load = loadModel(source, { kernels });
    await expect(load).rejects.toThrow(expect.objectContaining({ code }));
    await expect(load).rejects.toThrow(message);
    expect(closed()).toBe(true);
  });

  test('a truncated file', async () => {
    for (const share of [0.001, 0.1, 0.5, 0.999]) {
      const cut = whole.subarray(0, Math.floor(whole.length * share));
      const load = loadModel(memorySource(cut, 'cut'), { kernels });
      await expect(load).rejects.toThrow(expect.objectContaining({ code: 'format' }));
    }
  });

  test('a source that breaks in mid-load', async () => {
    let reads = 0;
    const inner = memorySource(whole, 'forged');
    const breaking: ByteSource = {
      ...inner,
      read: async (offset, target) => {
        if (target.length > 4000 && ++reads > 8) throw new Error('the disk is gone');
        return inner.read(offset, target);
      },
    };
    await expect(loadModel(breaking, { kernels })).rejects.toThrow('the disk is gone');
    expect(reads).toBe(9);
  });
});

test('weights beyond what a backend holds are refused before any is read', async () => {
  const { source, closed } = watched(whole);
  const small = new Proxy(kernels, {
    get: (target, name) => (name === 'maxBytes' ? 1e6 : Reflect.get(target, name, target)),
  });
  await expect(loadModel(source, { kernels: small })).rejects.toMatchObject({
    code: 'memory',
    message: expect.stringMatching(/weights take .* GB; .* holds .* GB.*q4_0/),
  });
  expect(closed()).toBe(true);
});

describe('adapters', () => {
  const fit = {
    bits: 64,
    global: 0.5,
    layer: [0.5, 0.25],
    head: [Array<number>(4).fill(0.5), Array<number>(4).fill(0.25)],
  };
  const adapter = (model: string) => adapterBytes({ model, text: '', temperatures: [fit] });

  test('one that was fitted for this model is used', async () => {
    const bare = await loadModel(memorySource(whole, 'forged'), { kernels });
    const { hash } = bare;
    bare.dispose();
    const options = { kernels, adapter: adapter(hash) };
    const model = await loadModel(memorySource(whole, 'forged'), options);
    const cache = await model.createCache('h1b:b=64');
    expect(cache.spec).toBe('h1b:b=64,seed=0,t=head');
    cache.dispose();
    model.dispose();
  });

  const temperatures = new Float32Array(4).fill(1);
  const parts = (hash: string): Adapter => ({
    model: hash,
    text: '',
    temperatures: [fit, { ...fit, bits: 128 }],
    finetuned: [
      { method: 'h1b', name: 'x', bits: 64, seed: 0, layers: [{ temperatures, values: [] }] },
    ],
  });
  const everything = "this model's has temperatures for b=64, 128; tuned=x";
  test.each<[string, string, ((hash: string) => Adapter) | false]>([
    ['h1b:b=96,t=head', `for b=96, and ${everything}. Run h1bkv calibrate --bits 96`, parts],
    ['h1b:tuned=y', `under that name, and ${everything}. Run h1bkv finetune --name y`, parts],
    ['bitplane:source=adapter', `statistics, and ${everything}. Run h1bkv calibrate`, parts],
    [
      'bitplane:source=adapter',
      "statistics, and this model's has nothing. Run h1bkv calibrate",
      (hash) => ({ model: hash, text: '', temperatures: [] }),
    ],
    ['h1b:tuned=y', 'under that name, and this model has no adapter. Run h1bkv finetune', false],
  ])('%s without its part says what there is: %s', async (spec, message, make) => {
    const bare = await loadModel(memorySource(whole, 'forged'), { kernels, adapter: false });
    const chosen = make && adapterBytes(make(bare.hash));
    bare.dispose();
    const model = await loadModel(memorySource(whole, 'forged'), { kernels, adapter: chosen });
    const creating = model.createCache(spec);
    await expect(creating).rejects.toThrow(expect.objectContaining({ code: 'usage' }));
    await expect(creating).rejects.toThrow(message);
    model.dispose();
  });

  test('messages call it by its name, if it has one', async () => {
    const bytes = adapter('0123');
    const named = { kernels, adapter: { name: 'my.file', bytes } };
    const load = (options: LoadOptions) => loadModel(memorySource(whole, 'forged'), options);
    await expect(load(named)).rejects.toThrow(/^adapter my\.file: it was fitted for another model/);
    await expect(load({ kernels, adapter: bytes })).rejects.toThrow(/^adapter of forged: /);
  });

  test.each([
    ['another model', adapter('0123')],
    ['nobody', new TextEncoder().encode('{ "format": "h1b-kv adapter" }')],
  ])('one of %s is refused', async (_, bytes) => {
    const load = loadModel(memorySource(whole, 'forged'), { kernels, adapter: bytes });
    await expect(load).rejects.toThrow(expect.objectContaining({ code: 'format' }));
  });
});
