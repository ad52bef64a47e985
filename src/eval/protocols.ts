/** Windows as programs and papers of the field cut them, by name; docs/evaluation.md says what differs. */
import type { EvalSettings } from './task.ts';

type Windows = Required<Pick<EvalSettings, 'context'>> & Pick<EvalSettings, 'stride' | 'beyond'>;

interface Protocol {
  readonly summary: string;
  /** @param context positions of a window, if others are asked for */
  readonly windows: (context?: number) => Windows;
}

/** All tokens of windows that follow each other. */
const whole = (context = 2048): Windows => ({ context });

export const protocols: Readonly<Record<string, Protocol>> = {
  'llama.cpp': {
    summary: 'windows of 512, the second half of each is scored',
    windows: (context = 512) => ({ context, beyond: Math.floor(context / 2) }),
  },
  gptq: { summary: 'windows of 2048, all is scored', windows: whole },
  kvquant: { summary: 'as gptq', windows: whole },
  'transformers-guide': {
    summary: 'windows of 1024 every 512 tokens, the tokens that are new in each are scored',
    windows: (context = 1024) => ({ context, stride: Math.min(512, context) }),
  },
};
