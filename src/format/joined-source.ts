import { ensureInside, type ByteSource } from './source.ts';

export interface JoinedSource {
  readonly source: ByteSource;
  /** Where each of the sources begins in the joined one, in bytes. */
  readonly starts: readonly number[];
}

/** Several sources, one after the other, as one: the shards of a model. Closing it closes all. */
export function joinSources(sources: readonly ByteSource[], name: string): JoinedSource {
  const starts: number[] = [];
  let sizeBytes = 0;
  for (const source of sources) {
    starts.push(sizeBytes);
    sizeBytes += source.sizeBytes;
  }
  const source: ByteSource = {
    name,
    sizeBytes,
    async read(offset, target) {
      ensureInside({ name, sizeBytes }, offset, target.length);
      const end = offset + target.length;
      for (const [i, part] of sources.entries()) {
        const from = Math.max(offset, starts[i]);
        const to = Math.min(end, starts[i] + part.sizeBytes);
        if (from < to)
          await part.read(from - starts[i], target.subarray(from - offset, to - offset));
      }
    },
    async close() {
      await Promise.all(sources.map((part) => part.close()));
    },
  };
  return { source, starts };
}
