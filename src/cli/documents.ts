/** What commands that write documents share. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { KvError } from '../errors/errors.ts';
import { quoted } from '../eval/report/command.ts';
import { writeFileAtomically } from '../format/file-node.ts';

/** The call of this program, as a shell takes it. */
export const calledAs = () => ['h1bkv', ...process.argv.slice(2).map(quoted)].join(' ');

/**
 * Each file whole or not at all.
 * @param subject the command, for its errors
 */
export async function writeDocuments(
  subject: string,
  folder: string,
  files: Readonly<Record<string, string>>,
): Promise<void> {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (cause) {
    throw new KvError('io', `${subject}: ${folder} cannot be a folder. Name another with --out.`, {
      cause,
    });
  }
  for (const [name, text] of Object.entries(files)) {
    const bytes = new TextEncoder().encode(text);
    await writeFileAtomically(join(folder, name), (sink) => sink.write(bytes));
  }
}
