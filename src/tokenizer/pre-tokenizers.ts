import { KvError } from '../errors/errors.ts';

/** How text is cut into words before byte-level BPE; merges never cross words. */
export interface PreTokenizer {
  /** Values of `tokenizer.ggml.pre`. */
  readonly names: readonly string[];
  /** Applied in turn: matches and the text between them become pieces of their own. */
  readonly patterns: readonly string[];
  /** A word that is a token is taken whole, though merges might not lead to it. */
  readonly ignoreMerges?: true;
  /** Texts begin with BOS unless the file says otherwise. */
  readonly addBos?: true;
}

/** GPT-2 (Radford et al. 2019). */
const gpt2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** OpenAI's cl100k pattern and its relatives; they differ in how many digits make a word. */
const cl100k = (digits: string) =>
  String.raw`'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|` +
  digits +
  String.raw`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

export const preTokenizers: readonly PreTokenizer[] = [
  { names: ['gpt-2', 'gpt2'], patterns: [gpt2] },
  { names: ['smollm', 'starcoder'], patterns: [String.raw`\p{N}`, gpt2] },
  {
    names: ['llama-bpe', 'llama3', 'llama-v3'],
    patterns: [cl100k(String.raw`\p{N}{1,3}`)],
    ignoreMerges: true,
    addBos: true,
  },
  { names: ['qwen2'], patterns: [cl100k(String.raw`\p{N}`)] },
  // llama.cpp's choice for files that were made before pre-tokenizers had names.
  {
    names: ['default'],
    patterns: [String.raw`[\p{P}$+<=>^~|]+`, gpt2, String.raw`\p{N}+`, '[0-9][0-9][0-9]'],
  },
];

/** @throws KvError "unsupported" for a name that is not in the table */
export function findPreTokenizer(name: string): PreTokenizer {
  const found = preTokenizers.find((row) => row.names.includes(name));
  if (found) return found;
  const supported = preTokenizers.flatMap((row) => row.names).join(' ');
  throw new KvError(
    'unsupported',
    `tokenizer: tokenizer.ggml.pre is "${name}"; supported: ${supported}. Use a model with one of these.`,
  );
}
