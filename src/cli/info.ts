import type { Command } from 'commander';
import { modelHash } from '../format/model-hash.ts';
import { formatBytes, openFromFlags } from './options.ts';
import { systemLines, systemReport } from './system.ts';

interface InfoFlags {
  readonly tensors?: boolean;
  readonly system?: boolean;
  readonly json?: boolean;
}

export function define(command: Command): void {
  command
    .argument('[model]', 'GGUF file, folder, URL or hf:owner/repo[/file]', 'default')
    .option('--tensors', 'list every tensor')
    .option('--system', 'this machine instead of a model: what can compute here, and why')
    .option('--json', 'print one JSON document on standard output')
    .addHelpText('after', '\nExample:\n  h1bkv info model.gguf --tensors\n  h1bkv info --system')
    .action((model: string, flags: InfoFlags) =>
      flags.system ? system(flags) : run(model, flags),
    );
}

async function system(flags: InfoFlags): Promise<void> {
  const report = await systemReport();
  console.log(flags.json ? JSON.stringify(report, null, 2) : systemLines(report).join('\n'));
}

async function run(name: string, flags: InfoFlags): Promise<void> {
  const { gguf, source } = await openFromFlags(name);
  try {
    const tensors = [...gguf.tensors.values()];
    const info = {
      file: source.name,
      sizeBytes: source.sizeBytes,
      version: gguf.version,
      hash: await modelHash(gguf, source),
      parameters: tensors.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0),
      bytesByType: bytesByType(tensors),
      metadata: Object.fromEntries([...gguf.metadata].map(([key, value]) => [key, shorten(value)])),
      tensors: tensors.map(({ name, type, shape, sizeBytes }) => ({
        name,
        type,
        shape,
        sizeBytes,
      })),
    };
    if (flags.json) return console.log(JSON.stringify(info, null, 2));
    console.log(`${info.file}: GGUF v${info.version}, ${formatBytes(info.sizeBytes)}`);
    console.log(`hash        ${info.hash}`);
    console.log(`parameters  ${(info.parameters / 1e6).toFixed(2)} M in ${tensors.length} tensors`);
    for (const [type, bytes] of Object.entries(info.bytesByType)) {
      console.log(`  ${type.padEnd(10)}${formatBytes(bytes)}`);
    }
    console.log('metadata');
    for (const [key, value] of Object.entries(info.metadata)) console.log(`  ${key}: ${value}`);
    if (!flags.tensors) return;
    console.log('tensors');
    for (const { name, type, shape } of tensors) {
      console.log(`  ${name.padEnd(32)}${type.padEnd(6)}[${shape.join(', ')}]`);
    }
  } finally {
    await source.close();
  }
}

function bytesByType(tensors: readonly { type: string; sizeBytes: number }[]) {
  const sums: Record<string, number> = {};
  for (const { type, sizeBytes } of tensors) sums[type] = (sums[type] ?? 0) + sizeBytes;
  return sums;
}

/** A metadata value in a few characters; long lists by their length and beginning. */
function shorten(value: unknown): string {
  if (typeof value === 'object' && value !== null && 'length' in value) {
    const list = Array.from(value as ArrayLike<unknown>)
      .slice(0, 4)
      .map(String);
    return `[${(value as ArrayLike<unknown>).length}] ${list.join(', ')}, ...`;
  }
  const text = String(value);
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}
