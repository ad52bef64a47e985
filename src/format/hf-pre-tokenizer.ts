/** Recognizes what a tokenizer.json does to text before BPE, and finds GGUF's name for it. */
import { KvError } from '../errors/errors.ts';
import { asObject, describe, readList, type JsonObject } from './hf-json.ts';

/** A tokenizer.json in GGUF's terms. */
export type TextTreatment =
  | { readonly model: 'gpt2'; readonly pre: string }
  | { readonly model: 'llama'; readonly addSpacePrefix: boolean };

/** OpenAI's cl100k pattern as Llama 3 and Qwen 2 write it; they differ in the digits. */
const cl100k = (digits: string) =>
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|` +
  digits +
  String.raw`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

const splitBy = (pattern: string) => `Split ${pattern}`;

interface TreatmentRow {
  /** Steps in the words of `describeSteps`. */
  readonly normalizer: readonly string[];
  readonly preTokenizer: readonly string[];
  /** Words that are tokens are taken whole. */
  readonly ignoresMerges?: true;
  readonly treatment: TextTreatment;
}

const treatments: readonly TreatmentRow[] = [
  {
    normalizer: [],
    preTokenizer: ['ByteLevel words'],
    treatment: { model: 'gpt2', pre: 'gpt-2' },
  },
  {
    normalizer: [],
    preTokenizer: ['Digits', 'ByteLevel words'],
    treatment: { model: 'gpt2', pre: 'smollm' },
  },
  {
    normalizer: [],
    preTokenizer: [splitBy(cl100k(String.raw`\p{N}{1,3}`)), 'ByteLevel'],
    ignoresMerges: true,
    treatment: { model: 'gpt2', pre: 'llama-bpe' },
  },
  {
    // GGUF has no place for the normalizer; like llama.cpp, the engine takes text as it is.
    normalizer: ['NFC'],
    preTokenizer: [splitBy(cl100k(String.raw`\p{N}`)), 'ByteLevel'],
    treatment: { model: 'gpt2', pre: 'qwen2' },
  },
  {
    normalizer: ['Prepend \u2581', 'Replace " " \u2581'],
    preTokenizer: [],
    treatment: { model: 'llama', addSpacePrefix: true },
  },
  {
    normalizer: ['Replace " " \u2581'],
    preTokenizer: [],
    treatment: { model: 'llama', addSpacePrefix: false },
  },
  ...['always', 'first', 'never'].map((scheme) => ({
    normalizer: [],
    preTokenizer: [`Metaspace ${scheme}`],
    treatment: { model: 'llama', addSpacePrefix: scheme !== 'never' } as const,
  })),
];

/** A sequence of sequences is no pre-tokenizer that is known. */
const maxSteps = 16;

/**
 * @param tokenizer a whole tokenizer.json
 * @throws KvError "unsupported" if it is none of those in the table, "format" if it is damaged
 */
export function recognizeTreatment(tokenizer: JsonObject, model: JsonObject): TextTreatment {
  const normalizer = describeSteps(tokenizer.normalizer, 'normalizers', 'normalizer');
  const preTokenizer = describeSteps(tokenizer.pre_tokenizer, 'pretokenizers', 'pre_tokenizer');
  const ignoresMerges = model.ignore_merges === true;
  const needed = model.byte_fallback === true ? 'llama' : 'gpt2';
  const row = treatments.find(
    (candidate) =>
      candidate.treatment.model === needed &&
      candidate.normalizer.join('\n') === normalizer.join('\n') &&
      candidate.preTokenizer.join('\n') === preTokenizer.join('\n') &&
      (candidate.ignoresMerges ?? false) === ignoresMerges,
  );
  if (row) return row.treatment;
  throw new KvError(
    'unsupported',
    `tokenizer.json: normalizer [${normalizer.join(', ')}], pre-tokenizer ` +
      `[${preTokenizer.join(', ')}], ignore_merges ${ignoresMerges}; supported: those of gpt-2, ` +
      `smollm, starcoder, llama-bpe, qwen2 and SentencePiece. Use the model's GGUF file.`,
  );
}

/** Each step of a normalizer or pre-tokenizer in one line; none for null. */
function describeSteps(value: unknown, listKey: string, what: string): string[] {
  if (value === undefined || value === null) return [];
  const where = `tokenizer.json: ${what}`;
  const step = asObject(value, where);
  const steps = step.type === 'Sequence' ? readList(step, listKey, where, maxSteps) : [step];
  return steps.map((item) => describeStep(asObject(item, where)));
}

/** The line that `treatments` uses where every setting is one that it means; else all of it. */
function describeStep(step: JsonObject): string {
  switch (step.type) {
    case 'NFC':
      return 'NFC';
    case 'Prepend':
      return `Prepend ${plain(step.prepend)}`;
    case 'Replace':
      return `Replace ${describe(literal(step.pattern, 'String'))} ${plain(step.content)}`;
    case 'Digits':
      if (step.individual_digits === true) return 'Digits';
      break;
    case 'ByteLevel':
      if (step.add_prefix_space === false) {
        return step.use_regex === false ? 'ByteLevel' : 'ByteLevel words';
      }
      break;
    case 'Split':
      if (step.behavior === 'Isolated' && step.invert !== true) {
        return splitBy(plain(literal(step.pattern, 'Regex')));
      }
      break;
    case 'Metaspace':
      if (step.replacement === '\u2581' && step.split === false) {
        return `Metaspace ${plain(step.prepend_scheme)}`;
      }
      break;
  }
  return JSON.stringify(step).slice(0, 200);
}

/** The pattern under `kind`, which is `String` or `Regex`. */
function literal(pattern: unknown, kind: string): unknown {
  return asObject(pattern, 'tokenizer.json: pattern')[kind];
}

/** A text as it is, for comparing; anything else in a form that no row has. */
function plain(value: unknown): string {
  return typeof value === 'string' ? value : describe(value);
}
