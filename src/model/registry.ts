import { KvError } from '../errors/errors.ts';
import type { Network } from './model.ts';
import type { WeightLoader } from './weights.ts';

export interface FamilyRow {
  readonly summary: string;
  readonly load: () => Promise<(weights: WeightLoader) => Promise<Network>>;
}

/** Every model family, by GGUF's `general.architecture`. To add one: one file, one row. */
export const modelFamilies: Readonly<Record<string, FamilyRow>> = {
  llama: {
    summary: 'Llama 2 and 3, Mistral, SmolLM2',
    load: async () => (await import('./llama.ts')).loadLlama,
  },
};

/** @throws KvError "unsupported" naming the architectures that are there */
export function modelFamily(architecture: string): FamilyRow {
  if (Object.hasOwn(modelFamilies, architecture)) return modelFamilies[architecture];
  throw new KvError(
    'unsupported',
    `model: architecture "${architecture}"; supported: ${Object.keys(modelFamilies).join(', ')}.`,
  );
}
