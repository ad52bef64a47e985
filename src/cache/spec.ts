import { KvError } from '../errors/errors.ts';

/** A cache spec in parts: `h1b:b=128,t=0.1` is { name: 'h1b', settings: { b: '128', t: '0.1' } }. */
export interface CacheSpec {
  readonly name: string;
  readonly settings: ReadonlyMap<string, string>;
}

/**
 * @param bareKey the setting that a method's first item may give without its name: with `bits`,
 *   `kivi:2` is `kivi:bits=2`
 * @throws KvError "usage" if the text is not `name` or `name:key=value,key=value`
 */
export function parseSpec(
  text: string,
  bareKey: (name: string) => string | undefined = () => undefined,
): CacheSpec {
  const [, name, rest] = /^([^:\s]+)(?::(.+))?$/.exec(text.trim()) ?? [];
  if (!name) throw malformed(text);
  const settings = new Map<string, string>();
  for (const [i, item] of (rest?.split(',') ?? []).entries()) {
    const bare = i === 0 && !item.includes('=') ? bareKey(name) : undefined;
    const [, key, value] = /^([^=]+)=([^=]+)$/.exec(bare ? `${bare}=${item}` : item) ?? [];
    if (!key || settings.has(key)) throw malformed(text);
    settings.set(key, value);
  }
  return { name, settings };
}

/** @throws KvError "usage" naming the first setting that the method does not have */
export function expectSettings(spec: CacheSpec, allowed: readonly string[]): void {
  for (const key of spec.settings.keys()) {
    if (allowed.includes(key)) continue;
    throw new KvError(
      'usage',
      `cache "${spec.name}": unknown setting "${key}"; ${allowed.length > 0 ? `allowed: ${allowed.join(', ')}` : 'it has no settings'}.`,
    );
  }
}

/** A whole-number setting. @throws KvError "usage" outside [min, max] or off the step */
export function wholeSetting(
  spec: CacheSpec,
  key: string,
  fallback: number,
  { min, max, step = 1 }: { min: number; max: number; step?: number },
): number {
  const text = spec.settings.get(key);
  if (text === undefined) return fallback;
  const value = Number(text);
  if (Number.isInteger(value) && value >= min && value <= max && value % step === 0) return value;
  const steps = step > 1 ? ` in steps of ${step}` : '';
  throw new KvError(
    'usage',
    `cache "${spec.name}": ${key} is ${text}; it must be a whole number from ${min} to ${max}${steps}.`,
  );
}

/** A setting out of a few words or numbers. @throws KvError "usage" for another */
export function choiceSetting<T extends string | number>(
  spec: CacheSpec,
  key: string,
  fallback: T,
  allowed: readonly T[],
): T {
  const text = spec.settings.get(key);
  if (text === undefined) return fallback;
  const found = allowed.find((choice) => String(choice) === text);
  if (found !== undefined) return found;
  throw new KvError(
    'usage',
    `cache "${spec.name}": ${key} is ${text}; allowed: ${allowed.join(', ')}.`,
  );
}

/** A setting that is any number in [min, max]. @throws KvError "usage" for another */
export function numberSetting(
  spec: CacheSpec,
  key: string,
  fallback: number,
  { min, max }: { min: number; max: number },
): number {
  const text = spec.settings.get(key);
  if (text === undefined) return fallback;
  const value = Number(text);
  if (value >= min && value <= max) return value;
  throw new KvError(
    'usage',
    `cache "${spec.name}": ${key} is ${text}; it must be a number from ${min} to ${max}.`,
  );
}

function malformed(text: string): KvError {
  return new KvError(
    'usage',
    `cache spec "${text}" cannot be read; write name or name:key=value,key=value, each key once. Example: h1b:b=128.`,
  );
}
