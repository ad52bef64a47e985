import { readGguf, type Gguf } from '../format/gguf.ts';
import type { ByteSource } from '../format/source.ts';

/** A model's header and its bytes, whatever it is stored as, and what lies beside it. */
export interface OpenedModel {
  readonly gguf: Gguf;
  /** Where the offsets of `gguf` point to; the caller closes it. */
  readonly source: ByteSource;
  /** Bytes of the file whose name is the model's, less `.gguf`, plus `suffix`, if there is one. */
  readSibling(suffix: string): Promise<Uint8Array | undefined>;
}

export interface OpenOptions {
  /** Called while a model is fetched from the hub. */
  readonly onDownload?: (doneBytes: number, totalBytes: number, file: string) => void;
  /** Told, in a sentence, what the caller may want to know: such as that the hub did not answer. */
  readonly onNote?: (note: string) => void;
}

const noSibling = () => Promise.resolve(undefined);

/** Opens a GGUF. If its header is not one, the source is closed. */
export async function openGguf(
  source: ByteSource,
  readSibling: OpenedModel['readSibling'] = noSibling,
): Promise<OpenedModel> {
  try {
    return { gguf: await readGguf(source), source, readSibling };
  } catch (error) {
    await source.close();
    throw error;
  }
}
