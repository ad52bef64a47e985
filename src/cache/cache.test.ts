import { describe, expect, test } from 'vitest';
import { ReferenceKernels } from '../kernels/reference.ts';
import { createKernels } from '../kernels/select.ts';
import { describeCache } from './cache-contract.ts';
import { createCache } from './registry.ts';
import { parseSpec } from './spec.ts';

for (const spec of ['f32', 'f16', 'h1b', 'h1b:b=32', 'h1b:b=1024,t=0.03']) {
  describeCache(spec, () => createKernels('auto'), { truncatesExactly: true });
}

describe('specs', () => {
  const shapes = [{ nHeads: 2, nKvHeads: 1, headDimK: 8, headDimV: 8, scale: 1 }];
  const create = (spec: string) => createCache(spec, shapes, new ReferenceKernels());

  test('are read, and written in full', async () => {
    expect(parseSpec('h1b:b=128,t=0.1')).toEqual({
      name: 'h1b',
      settings: new Map([
        ['b', '128'],
        ['t', '0.1'],
      ]),
    });
    expect((await create('f16')).spec).toBe('f16');
    const full = (await create('h1b:t=0.2')).spec;
    expect(full).toBe('h1b:b=256,seed=0,t=0.2');
    expect((await create(full)).spec).toBe(full);
  });

  test.each([
    'nosuch',
    'toString',
    '',
    'h1b:',
    'h1b:b',
    'h1b:b=',
    'h1b:b=64,b=64',
    'h1b:b=16',
    'h1b:b=33',
    'h1b:b=2048',
    'h1b:b=1e2',
    'h1b:width=64',
    'h1b:t=0',
    'h1b:t=-1',
    'h1b:t=warm',
    'h1b:t=head',
    'h1b:seed=-1',
    'f16:b=64',
  ])('"%s" is refused', async (spec) => {
    await expect(create(spec)).rejects.toMatchObject({ name: 'KvError', code: 'usage' });
  });
});
