import type { Adapter } from '../cache/adapter.ts';
import { ensure } from '../errors/errors.ts';

/** @throws KvError "unsupported" where the page has no Web Crypto, as over plain http */
export async function sha256(bytes: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  ensure(
    globalThis.crypto?.subtle !== undefined,
    'unsupported',
    () => 'session: Web Crypto is missing; browsers have it over https. Serve the page so.',
  );
  // Saved blocks are copies, so they never lie in shared memory, which Web Crypto refuses.
  const digest = await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>);
  return new Uint8Array(digest);
}

/**
 * The seal of a session file: the SHA-256 of the SHA-256s of its parts, 32 bytes each, in order.
 * Web Crypto digests whole arrays only, and a file of a gigabyte must not have to be one.
 */
export class Seal {
  private readonly digests: Uint8Array[] = [];

  async add(part: Uint8Array): Promise<void> {
    this.digests.push(await sha256(part));
  }

  async digest(): Promise<Uint8Array> {
    const joined = new Uint8Array(this.digests.length * sealBytes);
    this.digests.forEach((digest, i) => joined.set(digest, i * sealBytes));
    return sha256(joined);
  }
}

export const sealBytes = 32;

/** SHA-256 of an adapter, in hex: a cache may depend on what was fitted for its model. */
export async function adapterHash(adapter: Adapter | undefined): Promise<string | undefined> {
  if (!adapter) return undefined;
  const digest = await sha256(new TextEncoder().encode(JSON.stringify(adapter)));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
