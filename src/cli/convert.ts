import { Option, type Command } from 'commander';
import { ensure } from '../errors/errors.ts';
import { convertGguf, type ConvertType } from '../format/convert.ts';
import { openFileSource, writeFileAtomically } from '../format/file-node.ts';
import { mergedValues } from '../model/merge.ts';
import { adapterFileOf, formatBytes, openFromFlags, progressLine } from './options.ts';

interface ConvertFlags {
  readonly type: ConvertType;
  readonly out: string;
  readonly merge?: string;
  readonly adapter?: string;
  readonly json?: boolean;
}

export function define(command: Command): void {
  command
    .argument('<model>', 'GGUF file, or a folder with safetensors and config.json')
    .requiredOption('--out <file>', 'where the new model goes')
    .addOption(
      new Option('--type <type>', 'type of the weight matrices')
        .choices(['q8_0', 'q4_0', 'f16', 'f32'])
        .default('q8_0'),
    )
    .option('--merge <name>', 'add what h1b:tuned=<name> learned to the value projections')
    .option('--adapter <file>', 'where --merge finds it (default: the file beside the model)')
    .option('--json', 'print one JSON document on standard output')
    .addHelpText(
      'after',
      '\nExamples:\n  h1bkv convert model-f16.gguf --type q8_0 --out model-q8_0.gguf\n  h1bkv convert model-f16.gguf --merge rank2 --type f16 --out model-rank2-f16.gguf',
    )
    .action((model: string, flags: ConvertFlags) => run(model, flags));
}

async function run(input: string, flags: ConvertFlags): Promise<void> {
  const { merge: name } = flags;
  ensure(
    name !== undefined || flags.adapter === undefined,
    'usage',
    () => 'convert: --adapter without --merge. Say what is to be merged, or leave it out.',
  );
  const opened = await openFromFlags(input);
  const { gguf, source } = opened;
  try {
    const added =
      name === undefined
        ? undefined
        : await mergedValues(opened, await adapterFileOf(opened, flags.adapter), name);
    const progress = progressLine('converting');
    await writeFileAtomically(flags.out, (sink) =>
      convertGguf(source, gguf, sink, flags.type, {
        ...(added && { added }),
        onProgress: progress,
      }),
    );
    progress.done();
    const written = await openFileSource(flags.out);
    await written.close();
    const report = {
      input: { file: input, sizeBytes: source.sizeBytes },
      output: { file: flags.out, type: flags.type, sizeBytes: written.sizeBytes },
      ...(name !== undefined && { merged: name }),
    };
    if (flags.json) console.log(JSON.stringify(report, null, 2));
    else {
      const merged = name === undefined ? '' : `, with ${name} merged`;
      console.log(
        `${flags.out}: ${flags.type}${merged}, ${formatBytes(written.sizeBytes)} (was ${formatBytes(source.sizeBytes)})`,
      );
    }
  } finally {
    await source.close();
  }
}
