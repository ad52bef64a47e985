/**
 * A session as a file; docs/sessions.md is the specification.
 *
 *   magic, version, bytes of the header | header, JSON | tokens | blocks of the cache | seal
 *
 * Numbers are little-endian. The blocks are the cache's own memory, so a change of any cache's
 * layout that leaves its spec as it was must raise `version`.
 */
import { KvError } from '../errors/errors.ts';
import { blobSource, type ByteSource } from '../format/source.ts';
import type { ChatTurn } from './chat-turn.ts';
import { Seal, sealBytes } from './session-digest.ts';
import type { SessionState } from './session-state.ts';

const magic = new TextEncoder().encode('H1BKVSES');
const version = 1;
/** magic, u32 version, u32 bytes of the header */
const preambleBytes = 16;
/** Room for the sizes of a million blocks and a long conversation; more is a damaged file. */
const maxHeaderBytes = 1 << 25;

interface Header {
  readonly engine: string;
  readonly model: { readonly name: string; readonly hash: string };
  readonly adapter: string | null;
  readonly cache: string;
  /** number of tokens */
  readonly tokens: number;
  /** positions that the cache holds */
  readonly length: number;
  readonly numbers: Readonly<Record<string, number>>;
  /** bytes of each block */
  readonly blocks: readonly number[];
  readonly messages?: readonly ChatTurn[];
}

/** Whether a file that begins with these bytes claims to be a saved session. */
export function isSession(start: Uint8Array): boolean {
  return magic.every((byte, i) => start[i] === byte);
}

/**
 * The file's bytes in pieces; the blocks are those of the state, not copies.
 * @throws KvError "range" if the header outgrows the format
 */
export async function* encodeSession(state: SessionState): AsyncGenerator<Uint8Array, void> {
  const seal = new Seal();
  for (const part of [encodeHead(state), asBytes(state.tokens), ...state.cache.blocks]) {
    await seal.add(part);
    yield part;
  }
  yield seal.digest();
}

/**
 * Reads a session that `encodeSession` wrote. No size is believed, nor memory taken for it, before
 * it has been held against the size of the whole.
 * @throws KvError "format" if it is no session, of a later version, truncated or damaged
 */
export async function decodeSession(input: ByteSource | Blob): Promise<SessionState> {
  const source = input instanceof Blob ? blobSource(input, 'session') : input;
  const { name, sizeBytes } = source;
  const headerBytes = await readPreamble(source);
  const headEnd = preambleBytes + headerBytes;
  if (headerBytes > maxHeaderBytes || headEnd + sealBytes > sizeBytes) {
    throw truncated(name, headEnd + sealBytes, sizeBytes);
  }
  const seal = new Seal();
  let at = 0;
  const next = async (length: number): Promise<Uint8Array<ArrayBuffer>> => {
    const part = new Uint8Array(length);
    await source.read(at, part);
    at += length;
    await seal.add(part);
    return part;
  };
  const header = parseHeader((await next(headEnd)).subarray(preambleBytes), name);
  expectSize(header, headEnd, source);
  const tokens = new Int32Array((await next(header.tokens * 4)).buffer);
  const blocks: Uint8Array[] = [];
  for (const length of header.blocks) blocks.push(await next(length));
  const written = new Uint8Array(sealBytes);
  await source.read(at, written);
  const computed = await seal.digest();
  if (!computed.every((byte, i) => byte === written[i])) {
    throw damaged(name, 'its contents do not match the SHA-256 at its end');
  }
  const { engine, model, adapter, cache: spec, length, numbers, messages } = header;
  return {
    engine,
    model,
    adapter: adapter ?? undefined,
    spec,
    tokens,
    cache: { length, numbers, blocks },
    ...(messages && { messages }),
  };
}

function encodeHead(state: SessionState): Uint8Array {
  const { engine, model, adapter = null, spec, tokens, cache, messages } = state;
  const header: Header = {
    engine,
    model,
    adapter,
    cache: spec,
    tokens: tokens.length,
    length: cache.length,
    numbers: cache.numbers,
    blocks: cache.blocks.map((block) => block.length),
    ...(messages && { messages }),
  };
  const json = new TextEncoder().encode(JSON.stringify(header));
  if (json.length > maxHeaderBytes) {
    throw new KvError(
      'range',
      `session: its header takes ${json.length} bytes; the format allows ${maxHeaderBytes}. Save a shorter session.`,
    );
  }
  const head = new Uint8Array(preambleBytes + json.length);
  head.set(magic);
  const view = new DataView(head.buffer);
  view.setUint32(8, version, true);
  view.setUint32(12, json.length, true);
  head.set(json, preambleBytes);
  return head;
}

/** @returns bytes of the header */
async function readPreamble(source: ByteSource): Promise<number> {
  const { name, sizeBytes } = source;
  const preamble = new Uint8Array(Math.min(preambleBytes, sizeBytes));
  await source.read(0, preamble);
  if (!isSession(preamble)) {
    throw new KvError(
      'format',
      `${name}: is not a saved session: it does not begin with H1BKVSES. Name a file that h1b-kv saved.`,
    );
  }
  if (sizeBytes < preambleBytes) throw truncated(name, preambleBytes + sealBytes, sizeBytes);
  const view = new DataView(preamble.buffer);
  const found = view.getUint32(8, true);
  if (found > version) {
    throw new KvError(
      'format',
      `${name}: is a saved session of version ${found}; this program reads up to ${version}. Update h1b-kv.`,
    );
  }
  if (found < 1) throw damaged(name, `its version is ${found}`);
  return view.getUint32(12, true);
}

/** @throws KvError "format" unless this is JSON with everything that a header has */
function parseHeader(bytes: Uint8Array, name: string): Header {
  let header: Partial<Header> | null;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    header = JSON.parse(text) as Partial<Header> | null;
  } catch (cause) {
    throw damaged(name, 'its header is not JSON', cause);
  }
  const isText = (value: unknown) => typeof value === 'string';
  const isCount = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0;
  const isTurn = (turn: Partial<ChatTurn> | null) => isText(turn?.role) && isText(turn?.content);
  const { engine, model, adapter, cache, tokens, length, numbers, blocks, messages } = header ?? {};
  const problems = Object.entries({
    engine: isText(engine),
    model: isText(model?.name) && isText(model?.hash),
    adapter: adapter === null || isText(adapter),
    cache: isText(cache),
    tokens: isCount(tokens),
    length: isCount(length) && Number(length) <= Number(tokens),
    numbers: isRecord(numbers) && Object.values(numbers).every(Number.isFinite),
    blocks: Array.isArray(blocks) && blocks.every(isCount),
    messages: messages === undefined || (Array.isArray(messages) && messages.every(isTurn)),
  }).filter(([, isRight]) => !isRight);
  if (problems.length > 0) {
    throw damaged(name, `its header has no usable ${problems.map(([field]) => field).join(', ')}`);
  }
  return header as Header;
}

/** @throws KvError "format" unless the source is exactly as long as its header says */
function expectSize(header: Header, headEnd: number, { name, sizeBytes }: ByteSource): void {
  const contents = header.blocks.reduce((sum, size) => sum + size, header.tokens * 4);
  const promised = headEnd + contents + sealBytes;
  if (promised > sizeBytes) throw truncated(name, promised, sizeBytes);
  if (promised < sizeBytes) {
    throw damaged(name, `${sizeBytes - promised} bytes follow its end at ${promised}`);
  }
}

function truncated(name: string, promised: number, sizeBytes: number): KvError {
  return damaged(name, `it should have ${promised} bytes and has ${sizeBytes}: it is truncated`);
}

function damaged(name: string, what: string, cause?: unknown): KvError {
  const message = `${name}: is a damaged session: ${what}. Use another copy, or begin a new session.`;
  return new KvError('format', message, { cause });
}

function asBytes({ buffer, byteOffset, byteLength }: Int32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
