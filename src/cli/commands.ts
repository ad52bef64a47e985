import type { Command } from 'commander';

export interface CommandRow {
  readonly summary: string;
  readonly load: () => Promise<{ define(command: Command): void }>;
}

/** Every command. To add one: one file that exports `define`, one row. */
export const commands: Readonly<Record<string, CommandRow>> = {
  demo: {
    summary: 'one model, two caches: texts, bytes and speed side by side',
    load: () => import('./demo.ts'),
  },
  generate: { summary: 'continue a text', load: () => import('./generate.ts') },
  chat: { summary: 'talk with a model', load: () => import('./chat.ts') },
  plan: {
    summary: 'exact cache bytes of every method, before anything is loaded',
    load: () => import('./plan.ts'),
  },
  info: { summary: 'what is in a model file', load: () => import('./info.ts') },
  convert: {
    summary: 'write a model again with its weights in another type',
    load: () => import('./convert.ts'),
  },
  calibrate: {
    summary: "fit a method's temperatures to a model",
    load: () => import('./calibrate.ts'),
  },
  finetune: {
    summary: "train a method's temperatures, values and sketches on a text, end to end",
    load: () => import('./finetune.ts'),
  },
  eval: {
    summary: 'perplexity, agreement with the f16 cache, and accuracy on exercises',
    load: () => import('./eval.ts'),
  },
  compare: {
    summary: 'every cache method on one model: bytes, agreement with f16 and speed',
    load: () => import('./compare.ts'),
  },
  report: {
    summary: "the paper's tables on one model, its figures beside ours: one document",
    load: () => import('./report.ts'),
  },
  bench: { summary: 'speed and bytes, ours beside a peer', load: () => import('./bench.ts') },
};
