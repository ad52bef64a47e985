import { cpus, totalmem } from 'node:os';

/** The machine in a line: processor, cores, memory, Node. */
export function machine(): string {
  return `${cpus()[0]?.model ?? 'unknown processor'}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.versions.node}`;
}
