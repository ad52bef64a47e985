/** Files with random weights in the shape of a known model, made once. */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { namedShapes, type ShapeName } from '../model/shapes.ts';
import { forgeGguf, type ForgeOptions } from './forge-node.ts';

export const forgedQuants = ['q8_0', 'q4_0', 'q4_k_m', 'q4_k', 'q6_k', 'f16', 'f32'] as const;
export type ForgedQuant = (typeof forgedQuants)[number];

/** Another one where what is forged changes, so that older files are not taken for it. */
const version = 2;

/** Shapes whose embedding makes the logits too, from `tie_word_embeddings` of their config.json. */
const tied: readonly ShapeName[] = [
  'llama-3.2-1b',
  'llama-3.2-3b',
  'smollm2-135m',
  'smollm2-360m',
  'smollm2-1.7b',
];

/** Context of the files, positions: as far as any benchmark goes. */
const contextLength = 131_072;

/** Where `forgedShape` has its file. */
export function forgedPath(folder: string, shape: ShapeName, quant: ForgedQuant): string {
  return join(folder, `${shape}-${quant}-v${version}.gguf`);
}

/**
 * The file of a shape in `folder`; written, a tensor at a time, if it is not there yet.
 * @param onForge called before a file is written
 * @throws KvError "io" if it cannot be written
 */
export async function forgedShape(
  folder: string,
  shape: ShapeName,
  quant: ForgedQuant,
  onForge?: (path: string) => void,
): Promise<string> {
  const path = forgedPath(folder, shape, quant);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  onForge?.(path);
  const { vocabSize: vocab, ...sizes } = namedShapes[shape];
  await forgeGguf(path, {
    ...sizes,
    ...{ vocab, contextLength, seed: 1, tokenizer: 'bpe', tied: tied.includes(shape) },
    ...(quant === 'q4_k_m'
      ? { type: 'Q4_K', outputType: 'Q6_K', mixed: true }
      : { type: quant.toUpperCase() as ForgeOptions['type'] }),
  });
  return path;
}
