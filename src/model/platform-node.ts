import { readFile, stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { openFileSource } from '../format/file-node.ts';
import { openHfFolder } from '../format/hf-folder-node.ts';
import { urlSource } from '../format/source.ts';
import { openGguf, type OpenedModel, type OpenOptions } from './open.ts';

/** Opens a GGUF by path or URL, a folder as Hugging Face has them, or `hf:owner/repo[/file]`. */
export async function openModel(
  input: string | URL,
  { onDownload, onNote }: OpenOptions = {},
): Promise<OpenedModel> {
  const text = String(input);
  if (/^https?:/.test(text)) return openGguf(await urlSource(text));
  if (!text.startsWith('hf:')) {
    return openPath(text.startsWith('file:') ? fileURLToPath(text) : text);
  }
  // Only then: the hub's client is most of what would be loaded at every start.
  const { downloadFromHub } = await import('./hub-node.ts');
  const found = await downloadFromHub(text, onDownload && { onProgress: onDownload });
  if (found.note) onNote?.(found.note);
  return openPath(found.kind === 'gguf' ? found.paths[0] : found.folder);
}

async function openPath(path: string): Promise<OpenedModel> {
  const readSibling = async (suffix: string) => {
    try {
      return await readFile(path.replace(/(\.gguf|\/)$/, '') + suffix);
    } catch {
      return undefined;
    }
  };
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isFolder) return openGguf(await openFileSource(path), readSibling);
  const { gguf, source } = await openHfFolder(path);
  return { gguf, source, readSibling };
}
