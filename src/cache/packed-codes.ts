/** Codes of 1, 2, 4 or 8 bits side by side in bytes, the first in the lowest bits. */
export type CodeBits = 1 | 2 | 4 | 8;

export function getCode(bytes: Uint8Array, index: number, bits: CodeBits): number {
  return (bytes[(index * bits) >> 3] >> ((index * bits) & 7)) & ((1 << bits) - 1);
}

/** @param code 0 .. 2^bits - 1 */
export function setCode(bytes: Uint8Array, index: number, bits: CodeBits, code: number): void {
  const [at, shift] = [(index * bits) >> 3, (index * bits) & 7];
  bytes[at] = (bytes[at] & ~(((1 << bits) - 1) << shift)) | (code << shift);
}
