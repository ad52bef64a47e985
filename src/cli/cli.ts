#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { KvError } from '../errors/errors.ts';
import { commands } from './commands.ts';
import { packageVersion } from './options.ts';

// Who reads the output may have read enough, as `head` has: then nothing is left to do.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});

const program = new Command('h1bkv')
  .description('Runs large language models with a radically compressed KV cache.')
  .version(packageVersion())
  .showHelpAfterError('(h1bkv --help lists the commands)')
  .showSuggestionAfterError()
  .exitOverride();

for (const [name, { summary, load }] of Object.entries(commands)) {
  const command = program.command(name).description(summary).exitOverride();
  // Only the chosen command's file is loaded; the others stay a name and a line of help.
  if (process.argv[2] === name) (await load()).define(command);
}

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

/** Says what went wrong on stderr. @returns the exit code: 2 if the call was wrong, 1 if the work failed */
function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof KvError) {
    console.error(`error: ${error.message}`);
    return error.code === 'usage' ? 2 : 1;
  }
  // Not one of ours: a bug, so the stack is what helps.
  console.error(error instanceof Error ? error.stack : `error: ${String(error)}`);
  return 1;
}
