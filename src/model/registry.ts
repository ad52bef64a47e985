import { KvError } from '../errors/errors.ts';
import type { LoadNetwork } from './model.ts';

export interface FamilyRow {
  readonly summary: string;
  readonly load: () => Promise<{ load: LoadNetwork }>;
}

/** Every model family, by GGUF's `general.architecture`. To add one: one file, one row. */
export const modelFamilies: Readonly<Record<string, FamilyRow>> = {
  llama: { summary: 'Llama 2 and 3, Mistral, SmolLM2', load: () => import('./llama.ts') },
  qwen2: { summary: 'Qwen 2 and 2.5', load: () => import('./qwen2.ts') },
  qwen3: { summary: 'Qwen 3', load: () => import('./qwen3.ts') },
};

/** @throws KvError "unsupported" naming the architectures that are there */
export function modelFamily(architecture: string): FamilyRow {
  if (Object.hasOwn(modelFamilies, architecture)) return modelFamilies[architecture];
  throw new KvError(
    'unsupported',
    `model: architecture "${architecture}"; supported: ${Object.keys(modelFamilies).join(', ')}.`,
  );
}
