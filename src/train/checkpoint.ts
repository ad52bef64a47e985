import { KvError } from '../errors/errors.ts';
import { safetensorsBytes, type NumberTensor } from '../format/safetensors-write.ts';
import { readSafetensors } from '../format/safetensors.ts';
import { memorySource } from '../format/source.ts';
import { startFinetune, type FinetuneEntry, type FinetuneState } from './finetune.ts';
import { mapTuning, type Tuning } from './tuning.ts';

const format = 'h1b-kv finetune checkpoint 1';

const tuningsOf = ({ tuning, adam, best }: FinetuneState): [string, Tuning][] => [
  ['tuning', tuning],
  ['mean', adam.mean],
  ['square', adam.square],
  ['best', best],
];

/** A run as a safetensors file. @param identity what the run depends on, as JSON */
export function checkpointBytes(state: FinetuneState, identity: string): Uint8Array<ArrayBuffer> {
  const tensors = new Map<string, NumberTensor>();
  for (const [kind, tuning] of tuningsOf(state)) {
    mapTuning(tuning, (numbers, name) => {
      tensors.set(`${kind}.${name}`, { shape: [numbers.length], numbers });
      return numbers;
    });
  }
  const history = JSON.stringify(state.history);
  return safetensorsBytes(tensors, { format, identity, step: String(state.step), history });
}

/**
 * The state that was saved.
 * @param start what the run would begin with: it says which tensors there must be
 * @throws KvError "usage" if the file belongs to another run, "format" if it is damaged
 */
export async function readCheckpoint(
  bytes: Uint8Array,
  name: string,
  identity: string,
  start: Tuning,
): Promise<FinetuneState> {
  const source = memorySource(bytes, name);
  const { tensors, metadata } = await readSafetensors(source);
  if (metadata.get('format') !== format || metadata.get('identity') !== identity) {
    throw new KvError(
      'usage',
      `finetune: ${name} belongs to another run: its model, texts and options were ${metadata.get('identity') ?? 'none'}; now they are ${identity}. Repeat its arguments, remove it, or name another with --run.`,
    );
  }
  const read = new Map<string, Float32Array>();
  for (const [key, { offset, sizeBytes }] of tensors) {
    const numbers = new Float32Array(sizeBytes / 4);
    await source.read(offset, new Uint8Array(numbers.buffer));
    read.set(key, numbers);
  }
  const take = (kind: string) =>
    mapTuning(start, (x, part) => {
      const numbers = read.get(`${kind}.${part}`);
      if (numbers?.length === x.length) return numbers;
      throw new KvError('format', `finetune: ${name} lacks "${kind}.${part}". Remove it.`);
    });
  return {
    ...startFinetune(take('tuning')),
    step: Number(metadata.get('step')),
    adam: { mean: take('mean'), square: take('square') },
    best: take('best'),
    history: JSON.parse(metadata.get('history') ?? '[]') as FinetuneEntry[],
  };
}
