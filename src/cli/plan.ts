import { InvalidArgumentError, type Command } from 'commander';
import { cacheMethods } from '../cache/registry.ts';
import { Plan } from '../plan/plan.ts';
import { collectSpecs, formatBytes, wholeNumber } from './options.ts';
import { readModelSizes, type ModelSizes } from './model-sizes.ts';

interface PlanFlags {
  readonly model: string;
  readonly adapter?: string;
  readonly context?: number;
  readonly cache?: string[];
  readonly maxMemory?: number;
  readonly json?: boolean;
}

/** One row of `h1bkv plan --json`. */
interface PlanRow {
  readonly method: string;
  readonly spec: string;
  readonly bytes: number;
  readonly bytesPerToken: number;
  readonly bitsPerElement: number;
  /** bytes of f16 / bytes */
  readonly ratio: number;
  /** the longest context whose cache fits --max-memory */
  readonly maxContext?: number;
}

export function define(command: Command): void {
  command
    .option('--model <what>', 'GGUF file, config.json, or a named shape', 'default')
    .option('--adapter <file>', 'what was fitted for it, or none (default: the file beside it)')
    .option(
      '--context <n>',
      "positions (default: the model's own context)",
      wholeNumber(1, 2 ** 24),
    )
    .option('--cache <specs...>', 'methods (default: all)', collectSpecs)
    .option('--max-memory <size>', 'also the longest context that fits, such as 512MB', sizeBytes)
    .option('--json', 'print one JSON document on standard output')
    .addHelpText(
      'after',
      '\nExamples:\n  h1bkv plan --model qwen2.5-7b --context 8192\n  h1bkv plan --model model.gguf --max-memory 2GB',
    )
    .action((flags: PlanFlags) => run(flags));
}

/** Bytes from a text such as `512MB` or `2GiB`; without a unit, bytes. */
function sizeBytes(text: string): number {
  const units: Record<string, number> = { '': 1, B: 1, KB: 1e3, MB: 1e6, GB: 1e9 };
  const binary: Record<string, number> = { KIB: 2 ** 10, MIB: 2 ** 20, GIB: 2 ** 30 };
  const [, number, unit] = /^([\d.]+)\s*([a-z]*)$/i.exec(text.trim()) ?? [];
  const factor = { ...units, ...binary }[(unit ?? '?').toUpperCase()];
  if (factor !== undefined && Number(number) > 0) return Number(number) * factor;
  throw new InvalidArgumentError('It must be a size such as 512MB, 2GB or 1.5GiB.');
}

async function run(flags: PlanFlags): Promise<void> {
  const sizes = await readModelSizes(flags.model, flags.adapter);
  const context = flags.context ?? sizes.contextLength;
  const f16 = await Plan.create('f16', sizes.layers);
  const bytesF16 = f16.bytesAt(context).total;
  const rows: PlanRow[] = [];
  for (const method of flags.cache ?? Object.keys(cacheMethods)) {
    rows.push(await planRow(method, sizes, context, bytesF16, flags.maxMemory));
  }
  if (flags.json) {
    console.log(JSON.stringify({ model: sizes.name, context, rows }, null, 2));
    return;
  }
  console.log(`${sizes.name}, ${context} positions\n`);
  console.log(
    `${'method'.padEnd(24)}${'cache'.padStart(10)}${'per token'.padStart(12)}${'bits'.padStart(7)}${'f16 / it'.padStart(10)}${flags.maxMemory ? 'longest'.padStart(11) : ''}`,
  );
  for (const row of rows) {
    console.log(
      [
        row.method.padEnd(24),
        formatBytes(row.bytes).padStart(10),
        formatBytes(row.bytesPerToken).padStart(12),
        row.bitsPerElement.toFixed(2).padStart(7),
        `${row.ratio.toFixed(2)}x`.padStart(10),
        row.maxContext === undefined ? '' : String(row.maxContext).padStart(11),
      ].join(''),
    );
  }
}

async function planRow(
  method: string,
  { layers, adapter }: ModelSizes,
  context: number,
  bytesF16: number,
  maxMemory: number | undefined,
): Promise<PlanRow> {
  const plan = await Plan.create(method, layers, adapter);
  const { total } = plan.bytesAt(context);
  const elements = layers.reduce(
    (sum, { nKvHeads, headDimK, headDimV }) => sum + nKvHeads * (headDimK + headDimV),
    0,
  );
  return {
    method,
    spec: plan.spec,
    bytes: total,
    bytesPerToken: total / context,
    bitsPerElement: (8 * total) / (context * elements),
    ratio: bytesF16 / total,
    ...(maxMemory !== undefined && { maxContext: plan.longestWithin(maxMemory) }),
  };
}
