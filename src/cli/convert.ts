import { Option, type Command } from 'commander';
import { convertGguf, type ConvertType } from '../format/convert.ts';
import { openFileSource, writeFileAtomically } from '../format/file-node.ts';
import { formatBytes, openFromFlags, progressLine } from './options.ts';

interface ConvertFlags {
  readonly type: ConvertType;
  readonly out: string;
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
    .option('--json', 'print one JSON document on standard output')
    .addHelpText(
      'after',
      '\nExample:\n  h1bkv convert model-f16.gguf --type q8_0 --out model-q8_0.gguf',
    )
    .action((model: string, flags: ConvertFlags) => run(model, flags));
}

async function run(input: string, flags: ConvertFlags): Promise<void> {
  const { gguf, source } = await openFromFlags(input);
  try {
    const progress = progressLine('converting');
    await writeFileAtomically(flags.out, (sink) =>
      convertGguf(source, gguf, sink, flags.type, progress),
    );
    progress.done();
    const written = await openFileSource(flags.out);
    await written.close();
    const report = {
      input: { file: input, sizeBytes: source.sizeBytes },
      output: { file: flags.out, type: flags.type, sizeBytes: written.sizeBytes },
    };
    if (flags.json) console.log(JSON.stringify(report, null, 2));
    else {
      console.log(
        `${flags.out}: ${flags.type}, ${formatBytes(written.sizeBytes)} (was ${formatBytes(source.sizeBytes)})`,
      );
    }
  } finally {
    await source.close();
  }
}
