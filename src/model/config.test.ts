import { describe, expect, test } from 'vitest';
import type { Gguf } from '../format/gguf.ts';
import { readConfig } from './config.ts';

const complete = {
  'general.architecture': 'llama',
  'llama.context_length': 2048,
  'llama.embedding_length': 64,
  'llama.block_count': 3,
  'llama.feed_forward_length': 96,
  'llama.attention.head_count': 4,
  'llama.attention.layer_norm_rms_epsilon': 1e-5,
};

/** @param change keys to set, without the prefix; undefined takes one away */
function read(change: Readonly<Record<string, number | string | undefined>> = {}) {
  const metadata = new Map<string, number | string>(Object.entries(complete));
  for (const [key, value] of Object.entries(change)) {
    if (value === undefined) metadata.delete(`llama.${key}`);
    else metadata.set(`llama.${key}`, value);
  }
  return readConfig({ metadata, metadataTypes: new Map() } as unknown as Gguf, 100);
}

test('what a file leaves out follows from the rest', () => {
  expect(read()).toEqual({
    architecture: 'llama',
    nLayers: 3,
    dModel: 64,
    nHeads: 4,
    nKvHeads: 4,
    headDimK: 16,
    headDimV: 16,
    dFeedForward: 96,
    vocabSize: 100,
    contextLength: 2048,
    rmsEpsilon: 1e-5,
    ropeDims: 16,
    ropeTheta: 10000,
    ropeLinearScale: 1,
  });
});

test('what a file says is taken', () => {
  const config = read({
    'attention.head_count_kv': 2,
    'attention.key_length': 24,
    'attention.value_length': 32,
    'rope.dimension_count': 8,
    'rope.freq_base': 500000,
    'rope.scaling.type': 'linear',
    'rope.scaling.factor': 4,
  });
  expect(config).toMatchObject({
    nKvHeads: 2,
    headDimK: 24,
    headDimV: 32,
    ropeDims: 8,
    ropeTheta: 500000,
    ropeLinearScale: 4,
  });
  expect(read({ 'rope.scaling.type': 'llama3' }).ropeLinearScale).toBe(1);
});

describe('is refused', () => {
  test.each([
    'context_length',
    'embedding_length',
    'block_count',
    'feed_forward_length',
    'attention.head_count',
    'attention.layer_norm_rms_epsilon',
  ])('without %s', (key) => {
    const call = () => read({ [key]: undefined });
    expect(call).toThrow(expect.objectContaining({ code: 'format' }));
    expect(call).toThrow(`"llama.${key}" is missing`);
  });

  test.each([
    ['context_length', 0, 'contextLength is 0'],
    ['context_length', 1.5, 'contextLength is 1.5'],
    ['embedding_length', -64, 'dModel is -64'],
    ['block_count', 0, 'nLayers is 0'],
    ['feed_forward_length', NaN, 'dFeedForward is NaN'],
    ['attention.head_count', 0, 'nHeads is 0'],
    ['attention.head_count', 3, 'headDimK is 21.3'],
    ['attention.head_count_kv', 0, 'nKvHeads is 0'],
    ['attention.head_count_kv', 3, '4 query heads over 3 KV heads'],
    ['attention.key_length', Infinity, 'headDimK is Infinity'],
    ['attention.value_length', 0, 'headDimV is 0'],
    ['rope.dimension_count', 5, '5 rotary dimensions'],
    ['rope.dimension_count', 18, '18 rotary dimensions in a head of 16'],
    ['rope.freq_base', 0, 'ropeTheta is 0'],
    ['rope.freq_base', NaN, 'ropeTheta is NaN'],
    ['attention.layer_norm_rms_epsilon', -1e-5, 'rmsEpsilon is'],
  ])('%s = %s', (key, value, message) => {
    const call = () => read({ [key]: value });
    expect(call).toThrow(expect.objectContaining({ code: 'format' }));
    expect(call).toThrow(message);
  });

  test('a linear scale of zero', () => {
    const call = () => read({ 'rope.scaling.type': 'linear', 'rope.scaling.factor': 0 });
    expect(call).toThrow('ropeLinearScale is 0');
  });

  test.each([
    [{ 'attention.key_length': 12 }, 'head dimension 12'],
    [{ 'attention.value_length': 4 }, 'head dimension 4'],
    [{ 'rope.scaling.type': 'yarn' }, 'rope scaling "yarn"'],
  ])('%o, as not supported', (change, message) => {
    const call = () => read(change);
    expect(call).toThrow(expect.objectContaining({ code: 'unsupported' }));
    expect(call).toThrow(message);
  });

  test('a number that is a string', () => {
    expect(() => read({ block_count: '3' })).toThrow(expect.objectContaining({ code: 'format' }));
  });
});
