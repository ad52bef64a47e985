import { KvError } from '../errors/errors.ts';

/** A cache spec in parts: `h1b:b=128,t=0.1` is { name: 'h1b', settings: { b: '128', t: '0.1' } }. */
export interface CacheSpec {
  readonly name: string;
  readonly settings: ReadonlyMap<string, string>;
}

/** @throws KvError "usage" if the text is not `name` or `name:key=value,key=value` */
export function parseSpec(text: string): CacheSpec {
  const [, name, rest] = /^([^:\s]+)(?::(.+))?$/.exec(text.trim()) ?? [];
  if (!name) throw malformed(text);
  const settings = new Map<string, string>();
  for (const item of rest?.split(',') ?? []) {
    const [, key, value] = /^([^=]+)=([^=]+)$/.exec(item) ?? [];
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

function malformed(text: string): KvError {
  return new KvError(
    'usage',
    `cache spec "${text}" cannot be read; write name or name:key=value,key=value, each key once. Example: h1b:b=128.`,
  );
}
