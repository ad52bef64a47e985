/**
 * Typed access to the JSON files of a Hugging Face model folder, which are untrusted input.
 * `where` names the file in messages. A key that is null counts as absent, as in Python's configs.
 */
import { KvError, ensure } from '../errors/errors.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

/** The largest numbers in real configs are context lengths: some ten million. */
const maxConfigNumber = 2 ** 26;

/** @throws KvError "format" unless `value` is a JSON object */
export function asObject(value: unknown, where: string): JsonObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as JsonObject;
  }
  throw new KvError(
    'format',
    `${where} is ${describe(value)}; need a JSON object. Fetch the file again.`,
  );
}

/** The object under `key`; undefined if there is none. @throws KvError "format" */
export function optionalObject(
  object: JsonObject,
  key: string,
  where: string,
): JsonObject | undefined {
  const value = object[key] ?? undefined;
  return value === undefined ? undefined : asObject(value, `${where}: "${key}"`);
}

/** A whole number above 0. @throws KvError "format" if it is not, or absent without a fallback */
export function readCount(
  object: JsonObject,
  key: string,
  where: string,
  fallback?: number,
): number {
  const value = object[key] ?? fallback;
  const isCount =
    typeof value === 'number' && Number.isInteger(value) && value > 0 && value < maxConfigNumber;
  if (isCount) return value;
  throw wrong(where, key, value, 'a whole number above 0');
}

/** A number above 0. @throws KvError "format" if it is not, or absent without a fallback */
export function readPositive(
  object: JsonObject,
  key: string,
  where: string,
  fallback?: number,
): number {
  const value = object[key] ?? fallback;
  if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
  throw wrong(where, key, value, 'a number above 0');
}

/** @throws KvError "format" if it is not a string, or absent without a fallback */
export function readText(
  object: JsonObject,
  key: string,
  where: string,
  fallback?: string,
): string {
  const value = object[key] ?? fallback;
  if (typeof value === 'string') return value;
  throw wrong(where, key, value, 'a string');
}

/** @throws KvError "format" if it is neither true nor false nor absent */
export function readFlag(
  object: JsonObject,
  key: string,
  where: string,
  fallback: boolean,
): boolean {
  const value = object[key] ?? fallback;
  if (typeof value === 'boolean') return value;
  throw wrong(where, key, value, 'true or false');
}

/** @throws KvError "format" if it is not an array, or longer than `limit`; absent is empty */
export function readList(
  object: JsonObject,
  key: string,
  where: string,
  limit: number,
): readonly unknown[] {
  const value = object[key] ?? [];
  if (!Array.isArray(value)) throw wrong(where, key, value, 'an array');
  ensure(
    value.length <= limit,
    'format',
    () => `${where}: "${key}" has ${value.length} items; at most ${limit} are allowed.`,
  );
  return value;
}

function wrong(where: string, key: string, value: unknown, needed: string): KvError {
  return new KvError(
    'format',
    `${where}: "${key}" is ${describe(value)}; need ${needed}. Fetch the file again.`,
  );
}

/** A value for messages, cut short. */
export function describe(value: unknown): string {
  return value === undefined ? 'missing' : JSON.stringify(value).slice(0, 60);
}
