import { KvError } from '../errors/errors.ts';

/** A cache spec in parts: `h1b:b=128,t=0.1` is { name: 'h1b', settings: { b: '128', t: '0.1' } }. */
export interface CacheSpec {
  readonly name: string;
  readonly settings: Settings;
  /** settings of some layers: `@0-1:k=3` of the first two, `@-1:k=3` of the last */
  readonly layers: readonly LayerSettings[];
}

export type Settings = ReadonlyMap<string, string>;

interface LayerSettings {
  /** first and last layer; below 0, counted from the end */
  readonly from: number;
  readonly to: number;
  readonly settings: Settings;
}

/**
 * @param bareKey the setting that a method's first item may give without its name: with `bits`,
 *   `kivi:2` is `kivi:bits=2`
 * @throws KvError "usage" if the text is not `name` or `name:key=value,key=value`, each followed by
 *   any number of `@layers:key=value,key=value`
 */
export function parseSpec(
  text: string,
  bareKey: (name: string) => string | undefined = () => undefined,
): CacheSpec {
  const [first, ...others] = text.trim().split('@');
  const [, name, rest] = /^([^:\s]+)(?::(.+))?$/.exec(first) ?? [];
  if (!name) throw malformed(text);
  const items = rest?.split(',') ?? [];
  const bare = items[0] && !items[0].includes('=') ? bareKey(name) : undefined;
  if (bare) items[0] = `${bare}=${items[0]}`;
  const layers = others.map((part): LayerSettings => {
    const [, from, to, list] = /^(-?\d+)(?:-(-?\d+))?:(.+)$/.exec(part) ?? [];
    if (!list) throw malformed(text);
    return {
      from: Number(from),
      to: Number(to ?? from),
      settings: readSettings(text, list.split(',')),
    };
  });
  return { name, settings: readSettings(text, items), layers };
}

function readSettings(text: string, items: readonly string[]): Settings {
  const settings = new Map<string, string>();
  for (const item of items) {
    const [, key, value] = /^([^=]+)=([^=]+)$/.exec(item) ?? [];
    if (!key || settings.has(key)) throw malformed(text);
    settings.set(key, value);
  }
  return settings;
}

/**
 * The spec as one layer sees it.
 * @throws KvError "usage" if a range of layers is not one of this model
 */
export function specOfLayer(spec: CacheSpec, layer: number, layerCount: number): CacheSpec {
  const settings = new Map(spec.settings);
  for (const { from, to, settings: own } of spec.layers) {
    const [low, high] = [from, to].map((at) => (at < 0 ? at + layerCount : at));
    if (!(low >= 0 && low <= high && high < layerCount)) {
      throw new KvError(
        'usage',
        `cache "${spec.name}": layers ${from} to ${to}; the model has layers 0 to ${layerCount - 1}, or -${layerCount} to -1 counted from the end.`,
      );
    }
    if (layer >= low && layer <= high) for (const [key, value] of own) settings.set(key, value);
  }
  return { name: spec.name, settings, layers: [] };
}

/**
 * @param perLayer settings that layers may have of their own
 * @throws KvError "usage" naming the first setting that the method does not have
 */
export function expectSettings(
  spec: CacheSpec,
  allowed: readonly string[],
  perLayer: readonly string[] = [],
): void {
  const expectThese = (settings: Settings, these: readonly string[], place: string) => {
    for (const key of settings.keys()) {
      if (these.includes(key)) continue;
      throw new KvError(
        'usage',
        `cache "${spec.name}": unknown setting "${key}"${place}; ${these.length > 0 ? `allowed: ${these.join(', ')}` : 'there are none'}.`,
      );
    }
  };
  expectThese(spec.settings, allowed, '');
  for (const { settings } of spec.layers) expectThese(settings, perLayer, ' of single layers');
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

/** A setting that is any number in [min, max], or one more. @throws KvError "usage" for another */
export function numberSetting(
  spec: CacheSpec,
  key: string,
  fallback: number,
  { min, max, or }: { min: number; max: number; or?: number },
): number {
  const text = spec.settings.get(key);
  if (text === undefined) return fallback;
  const value = Number(text);
  if ((value >= min && value <= max) || value === or) return value;
  throw new KvError(
    'usage',
    `cache "${spec.name}": ${key} is ${text}; it must be a number from ${min} to ${max}${or === undefined ? '' : `, or ${or}`}.`,
  );
}

function malformed(text: string): KvError {
  return new KvError(
    'usage',
    `cache spec "${text}" cannot be read; write name or name:key=value,key=value, each key once, then @layers:key=value if need be. Examples: h1b:b=128, bitplane:k=1@0-1:k=3.`,
  );
}
