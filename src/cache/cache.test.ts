import { describe, expect, test } from 'vitest';
import { ReferenceKernels } from '../kernels/reference.ts';
import { createKernels } from '../kernels/select.ts';
import { describeCache } from './cache-contract.ts';
import { cacheMethods, createCache } from './registry.ts';
import { parseSpec } from './spec.ts';

for (const spec of ['f32', 'f16', 'h1b', 'h1b:b=32', 'h1b:b=1024,t=0.03', 'h1b+', 'h1b+:b=32']) {
  describeCache(spec, () => createKernels('auto'), { truncatesExactly: true });
}

// Six query heads in two layers, as the contract's caches have.
const heads = [0, 1].map(() => [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]);
const fit = { bits: 64, global: 0.2, layer: [0.2, 0.2], head: heads, norm: heads };
describeCache('h1b:b=64,t=norm', () => createKernels('auto'), {
  truncatesExactly: true,
  adapter: { model: '', text: '', temperatures: [fit] },
});

// Every position is written once and for good: any prefix is all there is to know.
for (const spec of ['loki:b=64', 'q8_0', 'q4_0', 'q4_0:rotate=none']) {
  describeCache(spec, () => createKernels('auto'), { truncatesExactly: true });
}

// `loki:pca` keeps everything. The others have given up what a shorter cache would hold exact.
describeCache('loki:pca,n=100', () => createKernels('auto'), { truncatesExactly: true });
for (const spec of [
  ...['kivi:2', 'kivi:4,window=40', 'kivi:2,window=0', 'cq', 'cq:c=2,b=4,n=100'],
  // Of two layers the upper half is one, which has no partner.
  ...['sparse', 'sparse:budget=0.5,sinks=0', 'minicache', 'minicache:start=0'],
]) {
  describeCache(spec, () => createKernels('auto'), { truncatesExactly: false });
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
      layers: [],
    });
    expect(parseSpec('bitplane:k=1@0-1:k=3,v=4@-1:k=3').layers).toEqual([
      {
        from: 0,
        to: 1,
        settings: new Map([
          ['k', '3'],
          ['v', '4'],
        ]),
      },
      { from: -1, to: -1, settings: new Map([['k', '3']]) },
    ]);
    expect((await create('f16')).spec).toBe('f16');
    const full = (await create('h1b:t=0.2')).spec;
    expect(full).toBe('h1b:b=256,seed=0,t=0.2');
    expect((await create(full)).spec).toBe(full);
  });

  test('every method has a summary and makes itself again from its full form', async () => {
    for (const [name, { summary }] of Object.entries(cacheMethods)) {
      expect(summary.length).toBeGreaterThan(0);
      const full = (await create(name)).spec;
      expect((await create(full)).spec).toBe(full);
    }
  });

  test('the first setting may stand bare where the method says which it is', () => {
    const bareKey = (name: string) => (name === 'kivi' ? 'bits' : undefined);
    const settings = (text: string) => Object.fromEntries(parseSpec(text, bareKey).settings);
    expect(settings('kivi:2')).toEqual({ bits: '2' });
    expect(settings('kivi:2,window=0')).toEqual({ bits: '2', window: '0' });
    const usage = expect.objectContaining({ code: 'usage' });
    for (const text of ['h1b:2', 'kivi:window=0,2', 'kivi:2,4', 'kivi:2,bits=2', 'kivi:']) {
      expect(() => settings(text)).toThrow(usage);
    }
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
    'h1b:t=norm',
    'h1b:seed=-1',
    'f16:b=64',
    'q4_0:rotate=45',
    'sparse:budget=0',
    'sparse:sinks=17',
    'minicache:start=2',
    'minicache:keep=33',
    'kivi:2,window=1e9',
  ])('"%s" is refused', async (spec) => {
    await expect(create(spec)).rejects.toMatchObject({ name: 'KvError', code: 'usage' });
  });
});
