/** Typed access to what `readGguf` found. */
import { KvError, ensure } from '../errors/errors.ts';
import type { DType } from '../math/dtype.ts';
import { supportedTypeNames } from './ggml-types.ts';
import type { Gguf, GgufTensor } from './gguf.ts';
import { GgufStringList } from './gguf-string-list.ts';
import type { GgufValue } from './gguf-value.ts';

type Metadata = Pick<Gguf, 'metadata' | 'metadataTypes'>;

/** A tensor that the engine can compute with. */
export interface UsableTensor extends GgufTensor {
  readonly dtype: DType;
}

/** @throws KvError "format" if it is not a number, or absent without a `fallback` */
export function getNumber(gguf: Metadata, key: string, fallback?: number): number {
  return get(gguf, key, 'number', fallback, (value) =>
    typeof value === 'number' ? value : undefined,
  );
}

/** @throws KvError "format" if it is not a string, or absent without a `fallback` */
export function getString(gguf: Metadata, key: string, fallback?: string): string {
  return get(gguf, key, 'string', fallback, (value) =>
    typeof value === 'string' ? value : undefined,
  );
}

/** @throws KvError "format" if it is not a boolean, or absent without a `fallback` */
export function getBoolean(gguf: Metadata, key: string, fallback?: boolean): boolean {
  return get(gguf, key, 'bool', fallback, (value) =>
    typeof value === 'boolean' ? value : undefined,
  );
}

/** @throws KvError "format" if it is not an array of strings, or absent without a `fallback` */
export function getStrings(
  gguf: Metadata,
  key: string,
  fallback?: readonly string[],
): readonly string[] {
  return get(gguf, key, 'string[]', fallback, (value) => {
    // An empty array of booleans is no array of strings, so ask the type, not the items.
    if (gguf.metadataTypes.get(key) !== 'string[]') return undefined;
    return value instanceof GgufStringList ? [...value] : (value as readonly string[]);
  });
}

/** Numbers of any width: a typed array or a plain one. */
export type NumberList = ArrayLike<number> & Iterable<number>;

/** @throws KvError "format" if it is not an array of numbers, or absent without a `fallback` */
export function getNumbers(gguf: Metadata, key: string, fallback?: NumberList): NumberList {
  return get(gguf, key, 'array of numbers', fallback, (value) => {
    if (!ArrayBuffer.isView(value)) return undefined;
    if (!(value instanceof BigInt64Array || value instanceof BigUint64Array)) return value;
    const numbers = Array.from(value, Number);
    return numbers.every(Number.isSafeInteger) ? numbers : undefined;
  });
}

function get<T>(
  gguf: Metadata,
  key: string,
  needed: string,
  fallback: T | undefined,
  accept: (value: GgufValue) => T | undefined,
): T {
  const found = gguf.metadata.get(key);
  if (found === undefined) {
    ensure(
      fallback !== undefined,
      'format',
      () => `gguf: metadata "${key}" is missing; need ${needed}. Convert the model again.`,
    );
    return fallback;
  }
  const value = accept(found);
  if (value === undefined) {
    const type = gguf.metadataTypes.get(key);
    const shown = typeof found === 'object' ? '' : ` ${JSON.stringify(String(found).slice(0, 40))}`;
    throw new KvError(
      'format',
      `gguf: metadata "${key}" is ${type}${shown}; need ${needed}. Convert the model again.`,
    );
  }
  return value;
}

/**
 * The tensor of this name, checked to be one that the engine can use.
 * @param shape row-major; checked where given
 * @throws KvError "format" if it is missing or of another shape, "unsupported" if of another type
 */
export function requireTensor(
  gguf: Pick<Gguf, 'tensors'>,
  name: string,
  shape?: readonly number[],
): UsableTensor {
  const tensor = gguf.tensors.get(name);
  if (!tensor) {
    throw new KvError(
      'format',
      `gguf: tensor "${name}" is missing; the file has ${gguf.tensors.size} tensors. ` +
        `Use the whole model file, not one part of it.`,
    );
  }
  ensure(
    shape === undefined || shape.join() === tensor.shape.join(),
    'format',
    () =>
      `gguf: tensor "${name}" is [${tensor.shape.join(', ')}]; ` +
      `need [${shape?.join(', ')}]. Convert the model again.`,
  );
  return usable(tensor);
}

/** @throws KvError "unsupported" unless the engine can compute with the tensor's type */
export function usable(tensor: GgufTensor): UsableTensor {
  const { dtype } = tensor;
  if (dtype === undefined) {
    throw new KvError(
      'unsupported',
      `gguf: tensor "${tensor.name}" is ${tensor.type}; supported: ${supportedTypeNames}. ` +
        `Re-quantize to Q8_0.`,
    );
  }
  return { ...tensor, dtype };
}
