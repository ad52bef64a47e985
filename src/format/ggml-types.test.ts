import { expect, test } from 'vitest';
import { dtypeBlocks } from '../math/dtype.ts';
import { ggmlTypeById, ggmlTypeByName, ggmlTypes, supportedTypeNames } from './ggml-types.ts';

test('ids and names are unique, and find their row', () => {
  for (const type of ggmlTypes) {
    expect(ggmlTypeById(type.id)).toBe(type);
    expect(ggmlTypeByName(type.name)).toBe(type);
  }
  expect(ggmlTypeById(4)).toBeUndefined();
  expect(ggmlTypeByName('Q9_9')).toBeUndefined();
});

test('what messages call supported is what has a dtype, of the same block size', () => {
  const usable = ggmlTypes.filter((type) => type.dtype);
  expect(usable.map((type) => type.name).sort()).toEqual(supportedTypeNames.split(' ').sort());
  for (const { dtype, elements, bytes } of usable) {
    expect(dtype && dtypeBlocks[dtype]).toEqual({ elements, bytes });
  }
});

test('bits per weight are the ones that the types are known by', () => {
  const bits = (name: string) => {
    const type = ggmlTypeByName(name);
    return type && (8 * type.bytes) / type.elements;
  };
  const known = {
    Q4_0: 4.5,
    Q5_1: 6,
    Q8_0: 8.5,
    Q2_K: 2.625,
    Q3_K: 3.4375,
    Q4_K: 4.5,
    Q5_K: 5.5,
    Q6_K: 6.5625,
    IQ2_XXS: 2.0625,
    IQ2_XS: 2.3125,
    IQ2_S: 2.5625,
    IQ3_XXS: 3.0625,
    IQ3_S: 3.4375,
    IQ1_S: 1.5625,
    IQ1_M: 1.75,
    IQ4_XS: 4.25,
    IQ4_NL: 4.5,
    TQ1_0: 1.6875,
    TQ2_0: 2.0625,
    MXFP4: 4.25,
  };
  for (const [name, expected] of Object.entries(known)) expect(bits(name), name).toBe(expected);
});
