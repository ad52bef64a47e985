import { urlSource } from '../format/source.ts';
import type { OpenedModelFile } from './load.ts';

/** Opens a URL; relative ones are resolved against the page. */
export async function openModelFile(input: string | URL): Promise<OpenedModelFile> {
  const url = new URL(input, globalThis.location?.href);
  return {
    source: await urlSource(url),
    readSibling: async (suffix) => {
      const sibling = new URL(url);
      sibling.pathname = sibling.pathname.replace(/\.gguf$/, '') + suffix;
      const response = await fetch(sibling);
      return response.ok ? response.text() : undefined;
    },
  };
}
