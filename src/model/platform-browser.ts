import { urlSource } from '../format/source.ts';
import { openGguf, type OpenedModel } from './open.ts';

/** Opens a GGUF by URL; relative ones are resolved against the page. */
export async function openModel(input: string | URL): Promise<OpenedModel> {
  const url = new URL(input, globalThis.location?.href);
  return openGguf(await urlSource(url), async (suffix) => {
    const sibling = new URL(url);
    sibling.pathname = sibling.pathname.replace(/\.gguf$/, '') + suffix;
    // Another host's answer may be unreadable, and some answer with a page to whatever is asked.
    const response = await fetch(sibling).catch(() => undefined);
    const isPage = response?.headers.get('content-type')?.startsWith('text/html');
    return response?.ok && !isPage ? new Uint8Array(await response.arrayBuffer()) : undefined;
  });
}
