import { ensure } from '../errors/errors.ts';

const block = 512;

/**
 * The plain files of a tar archive (POSIX ustar); links, folders and what else there is are left out.
 * @throws KvError "format" if it is cut off or no tar archive
 */
export function tarFiles(name: string, bytes: Uint8Array): { name: string; bytes: Uint8Array }[] {
  const files: { name: string; bytes: Uint8Array }[] = [];
  for (let at = 0; at + block <= bytes.length && bytes[at] !== 0;) {
    const field = (from: number, length: number) =>
      new TextDecoder().decode(bytes.subarray(at + from, at + from + length)).split('\0', 1)[0];
    const size = Number.parseInt(field(124, 12), 8);
    const start = at + block;
    ensure(
      field(257, 5) === 'ustar' && size >= 0 && start + size <= bytes.length,
      'format',
      () => `${name}: is no tar archive, or cut off at byte ${at}. Get it again.`,
    );
    const kind = field(156, 1);
    if (kind === '0' || kind === '') {
      files.push({ name: field(0, 100), bytes: bytes.subarray(start, start + size) });
    }
    at = start + Math.ceil(size / block) * block;
  }
  return files;
}
