/** A model for tests that says what it was told to say. */
import type { Model } from '../model/model.ts';

/** A cache of a model that remembers characters. */
export class Characters {
  text: string;

  constructor(
    text = '',
    readonly spec = 'f16',
  ) {
    this.text = text;
  }
  get length(): number {
    return this.text.length;
  }
  fork(): Characters {
    return new Characters(this.text, this.spec);
  }
  truncate(length: number): number {
    this.text = this.text.slice(0, length);
    return this.length;
  }
  bytes() {
    return { total: 2 * this.length };
  }
  dispose(): void {}
}

/** Stands for the end of a turn, which is one token and no text. */
const control = '\u0001';
const withControl = (text: string) => text.replaceAll('<|im_end|>', control);

/**
 * A model of ASCII characters that says what it was told to say: after each text of `script` the
 * text that belongs to it. Other characters have little probability, but for `tastes`.
 */
export function parrot(told: Record<string, string>, tastes: Record<string, number> = {}): Model {
  const script = Object.entries(told).map((pair) => pair.map(withControl));
  const nextAfter = (text: string) => {
    const [prompt, reply] =
      script.find(([p, r]) => (p + r).startsWith(text) && text.length >= p.length) ?? [];
    return prompt === undefined ? undefined : (prompt + reply)[text.length];
  };
  const rowAfter = (text: string) => {
    const row = new Float32Array(128);
    for (const [ending, logit] of Object.entries(tastes)) {
      if (text.endsWith(ending.slice(0, -1))) row[ending.charCodeAt(ending.length - 1)] = logit;
    }
    const next = nextAfter(text);
    if (next !== undefined) row[next.charCodeAt(0)] = 50;
    return row;
  };
  const decode = (ids: Iterable<number>) => String.fromCharCode(...ids).replaceAll(control, '');
  const model = {
    name: 'parrot',
    vocabSize: 128,
    contextLength: 4000,
    createCache: async (spec: string) => new Characters('', spec),
    async forward([{ ids, cache }]: { ids: Int32Array; cache: Characters }[], which = 'last') {
      const rows = [...ids].map((id) => {
        cache.text += String.fromCharCode(id);
        return rowAfter(cache.text);
      });
      return which === 'last' ? rows.slice(-1) : rows;
    },
    kernels: {
      read: async (rows: Float32Array[]) => Float32Array.from(rows.flatMap((row) => [...row])),
    },
    tokenizer: {
      bosId: undefined,
      eosIds: [0],
      encode: (text: string) => Int32Array.from(withControl(text), (c) => c.charCodeAt(0)),
      decode,
      stream: () => ({ push: (id: number) => decode([id]), end: () => '' }),
    },
  };
  return model as unknown as Model;
}
