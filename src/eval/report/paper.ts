/**
 * Figures of the H1B-KV paper (arXiv 2510.05529), as it reports them. Nothing here is measured by
 * this program; whatever shows these numbers says whose they are.
 */

/** Its main table: a model of 60M parameters, 8k tokens. */
export interface PaperQuality {
  readonly name: string;
  readonly megabytes: number;
  readonly wikitext: number;
  readonly ptb: number;
  readonly qpb: number;
}

const quality = (
  name: string,
  megabytes: number,
  wikitext: number,
  ptb: number,
  qpb: number,
): PaperQuality => ({ name, megabytes, wikitext, ptb, qpb });

/** By our spec of the same method. */
export const paperQuality: Readonly<Record<string, PaperQuality>> = {
  f16: quality('FP16', 67.1, 9.2, 5.98, 1.63),
  minicache: quality('MiniCache, 4 bits', 16.8, 9.42, 6.1, 6.3),
  'kivi:2': quality('KIVI, 2 bits', 8.4, 9.65, 6.25, 12.28),
  'sparse:budget=0.125': quality('SparseLLM', 8.4, 9.58, 6.2, 12.44),
  loki: quality('Loki, 1-bit keys', 33.7, 9.24, 6.01, 3.23),
  h1b: quality('H1B-KV', 5.3, 9.28, 6.02, 20.35),
};

/** A 7B model at 8k tokens: MB of the cache, and perplexity on WikiText-2. */
export const paperLarge: Readonly<Record<string, { megabytes: number; perplexity: number }>> = {
  f16: { megabytes: 4300, perplexity: 5.05 },
  'kivi:2': { megabytes: 537.5, perplexity: 5.3 },
  'sparse:budget=0.125': { megabytes: 537.5, perplexity: 5.25 },
  loki: { megabytes: 2150, perplexity: 5.08 },
  h1b: { megabytes: 58.7, perplexity: 5.15 },
};

/** Right answers in percent, 7B. By our task that stands for the benchmark, then by our spec. */
export const paperTasks: Readonly<
  Record<string, { benchmark: string; right: Readonly<Record<string, number>> }>
> = {
  'tiny-gsm': {
    benchmark: 'GSM8K',
    right: { f16: 54.2, 'kivi:2': 52.8, 'sparse:budget=0.125': 15.7, h1b: 53.5 },
  },
  'tiny-mmlu': {
    benchmark: 'MMLU',
    right: { f16: 68.1, 'kivi:2': 67.5, 'sparse:budget=0.125': 65.2, h1b: 67.9 },
  },
  'tiny-humaneval': {
    benchmark: 'HumanEval',
    right: { f16: 28.5, 'kivi:2': 27.1, 'sparse:budget=0.125': 9.3, h1b: 28.1 },
  },
};

/** Milliseconds of a token, 7B at 8k on an edge board. */
export const paperTimes = {
  f16: { loadMs: 25, attentionMs: 41 },
  h1b: { loadMs: 3, attentionMs: 11 },
} as const;

/** Perplexity of the 60M model without a tuned temperature, instead of `paperQuality.h1b.wikitext`. */
export const paperUntuned = 12.51;

/** Below this width of sketches the paper finds a sharp loss. */
export const paperLeastWidth = 64;
