import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { openFileSource } from '../format/file-node.ts';
import { urlSource } from '../format/source.ts';
import type { OpenedModelFile } from './load.ts';

/** Opens a path, a file: URL or an http(s): URL. */
export async function openModelFile(input: string | URL): Promise<OpenedModelFile> {
  const text = String(input);
  if (/^https?:/.test(text)) {
    return { source: await urlSource(text), readSibling: () => Promise.resolve(undefined) };
  }
  const path = text.startsWith('file:') ? fileURLToPath(text) : text;
  return {
    source: await openFileSource(path),
    readSibling: async (suffix) => {
      try {
        return await readFile(path.replace(/\.gguf$/, '') + suffix, 'utf8');
      } catch {
        return undefined;
      }
    },
  };
}
