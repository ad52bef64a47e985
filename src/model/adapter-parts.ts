/** What the parts of an adapter look like in its file: which tensors hold which of its fields. */
import type { Adapter, CollectedStatistics, TemperatureFit } from '../cache/adapter.ts';
import type { Finetuned, FinetunedLayer } from '../cache/finetuned.ts';
import { KvError } from '../errors/errors.ts';
import type { NumberTensor } from '../format/safetensors-write.ts';

/** The tensors of a file, each to be taken once by the part that it belongs to. */
export class AdapterTensors {
  private readonly left: Map<string, NumberTensor>;

  /** @param where how messages begin: what file it is */
  constructor(
    private readonly where: string,
    tensors: ReadonlyMap<string, NumberTensor>,
  ) {
    this.left = new Map(tensors);
  }

  /** A tensor that no part has taken, if there is one. */
  get unread(): string | undefined {
    return this.left.keys().next().value;
  }

  /** What stands for `*` in the names of this form, in the file's order. @param form such as `h1b.*.global` */
  matches(form: string): string[] {
    const [before, after] = form.split('*');
    const fits = (name: string) => name.startsWith(before) && name.endsWith(after);
    return [...this.left.keys()]
      .filter(fits)
      .map((name) => name.slice(before.length, name.length - after.length));
  }

  /** The shape of a tensor that no part has taken; none if it is absent. */
  shapeOf(name: string): readonly number[] | undefined {
    return this.left.get(name)?.shape;
  }

  /**
   * @param dimensions how many sizes its shape has
   * @throws KvError "format" if it is absent, of another form or not finite
   */
  take(name: string, dimensions: number): Float32Array {
    const tensor = this.left.get(name);
    this.left.delete(name);
    if (!tensor) throw this.damaged(`it has no tensor "${name}".`);
    if (tensor.shape.length !== dimensions) {
      const shape = `[${tensor.shape.join(', ')}]`;
      throw this.damaged(`tensor "${name}" has shape ${shape}; it needs ${dimensions} dimensions.`);
    }
    const bad = tensor.numbers.findIndex((x) => !Number.isFinite(x));
    if (bad >= 0) throw this.damaged(`tensor "${name}" has ${tensor.numbers[bad]} at ${bad}.`);
    return tensor.numbers;
  }

  damaged(problem: string): KvError {
    return new KvError('format', `${this.where}: ${problem} Run h1bkv calibrate again.`);
  }
}

/** One part of an adapter. Another one is a field of `Adapter`, and a row in `adapterParts`. */
export interface AdapterPart {
  /** the words for what the adapter can serve with this part: `fitted` of the file's metadata */
  serves(adapter: Adapter): string[];
  /** none if the adapter lacks the part */
  write(adapter: Adapter): Iterable<[string, NumberTensor]>;
  /** Takes the part's tensors. @returns its fields, none if the file lacks the part */
  read(file: AdapterTensors): Partial<Adapter>;
}

const vector = (numbers: ArrayLike<number>): NumberTensor => ({
  shape: [numbers.length],
  numbers: Float32Array.from(numbers),
});

/**
 * `h1b.<bits>.global` [1], `h1b.<bits>.layer` [layers], `h1b.<bits>.head.<layer>` [nHeads], and since there
 * are such, `h1b.<bits>.norm.<layer>` [nHeads]
 */
const temperatures: AdapterPart = {
  serves: (adapter) => adapter.temperatures.map(({ bits }) => `h1b:b=${bits}`),
  *write(adapter) {
    for (const { bits, global, layer, head, norm } of adapter.temperatures) {
      yield [`h1b.${bits}.global`, vector([global])];
      yield [`h1b.${bits}.layer`, vector(layer)];
      for (const [i, heads] of head.entries()) yield [`h1b.${bits}.head.${i}`, vector(heads)];
      for (const [i, heads] of (norm ?? []).entries()) {
        yield [`h1b.${bits}.norm.${i}`, vector(heads)];
      }
    }
  },
  read(file) {
    const take = (name: string) => {
      const all = [...file.take(name, 1)];
      if (all.length > 0 && all.every((t) => t > 0)) return all;
      throw file.damaged(`tensor "${name}" has temperatures that are not above 0.`);
    };
    const fits = file.matches('h1b.*.global').map((bits): TemperatureFit => {
      if (!/^\d+$/.test(bits)) throw file.damaged(`it has temperatures for b=${bits}.`);
      const [[global], layer] = [take(`h1b.${bits}.global`), take(`h1b.${bits}.layer`)];
      const head = layer.map((_, i) => take(`h1b.${bits}.head.${i}`));
      const hasNorm = file.shapeOf(`h1b.${bits}.norm.0`) !== undefined;
      const norm = hasNorm && layer.map((_, i) => take(`h1b.${bits}.norm.${i}`));
      return { bits: Number(bits), global, layer, head, ...(norm && { norm }) };
    });
    return { temperatures: fits };
  },
};

/** Shapes of `CollectedStatistics`, with h KV heads and keys and values of k and v dimensions. */
const statisticsShapes: Readonly<
  Record<keyof CollectedStatistics, (h: number, k: number, v: number) => number[]>
> = {
  keyMean: (h, k) => [h, k],
  valueMean: (h, _, v) => [h, v],
  keys: (h, k) => [h, k, k],
  queries: (h, k) => [h, k, k],
  valueCosts: (h) => [h],
  values: (h, _, v) => [h, v, v],
  outputs: (h, _, v) => [h, v, v],
  bareQueries: (h, k) => [h, k, k],
  bareValueCosts: (h) => [h],
};
const statisticsFields = Object.keys(statisticsShapes) as (keyof CollectedStatistics)[];

/** `statistics.<layer>.<field>` */
const statistics: AdapterPart = {
  serves: (adapter) => (adapter.statistics ? ['bitplane'] : []),
  *write(adapter) {
    for (const [i, layer] of (adapter.statistics ?? []).entries()) {
      const heads = layer.valueCosts.length;
      const [k, v] = [layer.keyMean.length / heads, layer.valueMean.length / heads];
      for (const field of statisticsFields) {
        const shape = statisticsShapes[field](heads, k, v);
        yield [`statistics.${i}.${field}`, { shape, numbers: layer[field] }];
      }
    }
  },
  read(file) {
    const layers = file.matches('statistics.*.keyMean').map((_, i) => {
      const take = (field: keyof CollectedStatistics) =>
        file.take(`statistics.${i}.${field}`, statisticsShapes[field](1, 1, 1).length);
      const taken = statisticsFields.map((field) => [field, take(field)] as const);
      return Object.fromEntries(taken) as unknown as CollectedStatistics;
    });
    return layers.length > 0 ? { statistics: layers } : {};
  },
};

/**
 * `finetuned.<name>.<bits>.<seed>.<layer>.` and `temperatures` [nHeads], `values.0` and `values.1`
 * [rows, columns], `projection` [rows, headDimK]; `.norm` behind the seed where temperatures follow the
 * norm of the query. Of `bitplane` its full spec stands in the place of bits and seed.
 */
const finetuned: AdapterPart = {
  serves: (adapter) =>
    (adapter.finetuned ?? []).map(({ method, name }) => `${method}:tuned=${name}`),
  *write(adapter) {
    for (const part of adapter.finetuned ?? []) {
      const of =
        part.method === 'h1b'
          ? `${part.bits}.${part.seed}${part.byNorm ? '.norm' : ''}`
          : part.spec;
      for (const [i, { temperatures, values, projection }] of part.layers.entries()) {
        const at = `finetuned.${part.name}.${of}.${i}`;
        yield [`${at}.temperatures`, vector(temperatures)];
        for (const [j, matrix] of values.entries()) yield [`${at}.values.${j}`, matrix];
        if (projection) yield [`${at}.projection`, vector(projection)];
      }
    }
  },
  read(file) {
    const found = file.matches('finetuned.*.0.temperatures').map((key): Finetuned => {
      const [name, ...of] = key.split('.');
      const layers: FinetunedLayer[] = [];
      for (let at = `finetuned.${key}.0`; file.shapeOf(`${at}.temperatures`);) {
        layers.push(takeFinetunedLayer(file, at));
        at = `finetuned.${key}.${layers.length}`;
      }
      if (of[0].startsWith('bitplane')) {
        return { method: 'bitplane', name, spec: of.join('.'), layers };
      }
      const [bits, seed, norm] = of;
      const byNorm = norm === 'norm' && { byNorm: true };
      return { method: 'h1b', name, bits: Number(bits), seed: Number(seed), ...byNorm, layers };
    });
    return found.length > 0 ? { finetuned: found } : {};
  },
};

function takeFinetunedLayer(file: AdapterTensors, at: string): FinetunedLayer {
  const temperatures = file.take(`${at}.temperatures`, 1);
  if (!temperatures.every((t) => t > 0)) {
    throw file.damaged(`tensor "${at}.temperatures" has temperatures that are not above 0.`);
  }
  const values = [0, 1].flatMap((i) => {
    const name = `${at}.values.${i}`;
    const shape = file.shapeOf(name);
    return shape ? [{ shape, numbers: file.take(name, 2) }] : [];
  });
  const projection = file.shapeOf(`${at}.projection`) && file.take(`${at}.projection`, 1);
  if (projection?.some((r) => !Number.isInteger(r) || Math.abs(r) > 127)) {
    throw file.damaged(`tensor "${at}.projection" must hold whole numbers from -127 to 127.`);
  }
  return { temperatures, values, ...(projection && { projection }) };
}

export const adapterParts: readonly AdapterPart[] = [temperatures, statistics, finetuned];
