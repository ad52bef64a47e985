import type { StreamDecoder } from './tokenizer.ts';

/** A UTF-8 decoder that keeps U+FEFF: it is a character of the text here, not a file's mark. */
export function utf8Decoder(): TextDecoder {
  return new TextDecoder('utf-8', { ignoreBOM: true });
}

/** @param bytesOf bytes of a token: any part of UTF-8 text */
export function streamDecoder(bytesOf: (id: number) => Uint8Array): StreamDecoder {
  const decoder = utf8Decoder();
  return {
    push: (id) => decoder.decode(bytesOf(id), { stream: true }),
    end: () => decoder.decode(),
  };
}
