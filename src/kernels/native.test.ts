import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { KvError } from '../errors/errors.ts';
import { describeCodes } from './codes-contract.ts';
import type { InstructionSet } from './kernels.ts';
import { describeKernels, describeRefusals } from './kernels-contract.ts';
import { createNativeKernels, instructionSets } from './native.ts';
import { allocTensor, tensor } from './tensor.ts';
import { describeThreads } from './threads-contract.ts';

function skip(what: string, reason: string): void {
  process.stderr.write(`skipped: ${what}: ${reason}\n`);
  it.skip(`${what} (${reason})`, () => undefined);
}

function compiledSets(): Partial<Record<InstructionSet, boolean>> {
  try {
    return instructionSets();
  } catch (error) {
    if (!(error instanceof KvError)) throw error;
    skip('native kernels', error.message);
    return {};
  }
}

const sets = Object.entries(compiledSets()) as [InstructionSet, boolean][];

for (const [instructionSet, runsHere] of sets) {
  const name = `native, ${instructionSet}`;
  if (!runsHere) {
    skip(`kernels of ${name}`, 'this processor does not have it');
    continue;
  }
  const start = (threads: number) => async () => createNativeKernels({ threads, instructionSet });
  describeKernels(name, start(2));
  describeCodes(name, start(2));
  describeRefusals(name, start(2));
  describeThreads(name, [start(1), start(2), start(3)]);
}

describe.runIf(sets.length > 0)('native: starting and stopping', () => {
  it('takes the best instruction set that runs here, and says which', () => {
    const kernels = createNativeKernels({ threads: 2 });
    const labels: Record<InstructionSet, string> = {
      ...{ avx512: 'AVX-512 VNNI', avx2: 'AVX2', neon: 'NEON with dot products' },
      baseline: 'baseline|NEON',
    };
    const best = sets.find(([, runsHere]) => runsHere)?.[0] ?? 'baseline';
    expect(kernels.description).toMatch(new RegExp(`^native: (${labels[best]}), 2 threads$`));
    expect(kernels.threads).toBe(2);
    kernels.dispose();
    expect(() => kernels.alloc(1)).toThrow(/disposed/);
    kernels.dispose();
  });

  it('refuses thread counts and instruction sets that it does not have', () => {
    for (const threads of [0, -1, 1.5, 65]) {
      expect(() => createNativeKernels({ threads })).toThrow(/whole number/);
    }
    expect(() => createNativeKernels({ instructionSet: 'sse9' as InstructionSet })).toThrow(
      /sse9 does not run here/,
    );
  });

  it('gives a large buffer back to the system, and empties views of it', () => {
    const kernels = createNativeKernels({ threads: 1 });
    const sizeBytes = 256 << 20;
    const resident = () => process.memoryUsage.rss();
    const before = resident();
    const t = allocTensor(kernels, 'u8', [sizeBytes]);
    const view = kernels.view(t);
    view.fill(1);
    expect(resident() - before).toBeGreaterThan(sizeBytes * 0.9);
    kernels.free(t.buffer);
    expect(resident() - before).toBeLessThan(sizeBytes * 0.1);
    expect(view.length).toBe(0);
    kernels.dispose();
  });

  it('refuses what the machine does not have, and goes on', () => {
    const kernels = createNativeKernels({ threads: 1 });
    expect(() => kernels.alloc(2 ** 46)).toThrow(/cannot allocate/);
    expect(kernels.allocatedBytes).toBe(0);
    kernels.free(kernels.alloc(64));
    kernels.dispose();
  });

  it('maps parts of a file beyond 4 GB, and closes them', async () => {
    const kernels = createNativeKernels({ threads: 1 });
    const folder = await mkdtemp(join(tmpdir(), 'h1bkv-test-'));
    const file = await open(join(folder, 'sparse'), 'w+');
    const offset = 2 ** 32 + 4096 + 32;
    await file.write(Float32Array.of(1, 2, 3, 4), 0, 16, offset);
    const buffer = kernels.mapFile?.(file.fd, offset, 16);
    await file.close();
    await rm(folder, { recursive: true });
    if (!buffer) throw new Error('the system refuses to map a file');
    const t = tensor(buffer, 'f32', [4]);
    const view = kernels.view(t);
    expect(view).toEqual(Float32Array.of(1, 2, 3, 4));
    const sum = allocTensor(kernels, 'f32', [4]);
    kernels.add(sum, t);
    expect(kernels.view(sum)).toEqual(Float32Array.of(1, 2, 3, 4));
    expect(kernels.allocatedBytes).toBe(16);
    kernels.free(buffer);
    expect(view.length).toBe(0);
    expect(kernels.allocatedBytes).toBe(16);
    expect(kernels.mapFile?.(-1, 0, 16)).toBeUndefined();
    kernels.dispose();
  });

  it('two backends at once keep apart', () => {
    const [a, b] = [createNativeKernels({ threads: 2 }), createNativeKernels({ threads: 2 })];
    const t = allocTensor(a, 'f32', [4]);
    expect(() => b.view(t)).toThrow(/another backend/);
    b.dispose();
    a.write(t, Float32Array.of(1, 2, 3, 4));
    a.add(t, t);
    expect(a.view(t)).toEqual(Float32Array.of(2, 4, 6, 8));
    a.dispose();
  });
});
