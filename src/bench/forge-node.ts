/**
 * Makes llama-architecture GGUF files with random weights, for tests and benchmarks. The files are
 * valid enough for llama.cpp to load and run, so that both engines can be held side by side.
 */
import { KvError } from '../errors/errors.ts';
import { dequantize, encode, type EncodableDType } from '../math/blocks.ts';
import { writeFileAtomically } from '../format/file-node.ts';
import { llama3RopeFactors } from '../format/hf-config.ts';
import { writeGguf, type GgufEntry, type TensorToWrite } from '../format/gguf-write.ts';
import type { ByteSink } from '../format/source.ts';
import { dtypeBlocks, tensorSizeBytes, type WeightDType } from '../math/dtype.ts';
import { f32ToF16 } from '../math/f16.ts';
import { Random } from '../math/random.ts';

export interface ForgeOptions {
  /** default llama; qwen2 has biases on queries, keys and values, qwen3 norms on heads */
  architecture?: 'llama' | 'qwen2' | 'qwen3';
  /** nHeads * headDim if left out */
  dModel?: number;
  nLayers: number;
  nHeads: number;
  nKvHeads: number;
  headDim: number;
  dFeedForward: number;
  vocab: number;
  /** Type of the matrices; one whose rows are no whole blocks of it is F16, in a mix as llama.cpp has it. */
  type: keyof typeof fileTypes;
  /** Type of the output matrix, or of the embedding where they are tied; default: `type` */
  outputType?: keyof typeof fileTypes;
  /** With `type` Q4_K: llama.cpp's mix Q4_K_M, in which some matrices are Q6_K. */
  mixed?: boolean;
  /** true: no `output.weight`, logits come from the embedding */
  tied: boolean;
  ropeTheta?: number;
  /** Llama 3's frequency scaling, written as `rope_freqs.weight` */
  ropeScaling?: {
    factor: number;
    lowFreqFactor: number;
    highFreqFactor: number;
    originalContextLength: number;
  };
  contextLength: number;
  seed: number;
  /** `bpe` needs a vocab of 257 or more, `spm` of 259; node-llama-cpp aborts on `none` */
  tokenizer: 'bpe' | 'spm' | 'none';
}

/** Writes the model to a file; a seed gives the same weights in every type, rounded to it. */
export async function forgeGguf(path: string, options: ForgeOptions): Promise<void> {
  await writeFileAtomically(path, (sink) => forgeTo(sink, options));
}

/** The model as bytes in memory, for small ones. */
export function forgeBytes(options: ForgeOptions): Promise<Uint8Array> {
  return writtenBytes((sink) => forgeTo(sink, options));
}

/** Everything that `write` writes, in memory. */
export async function writtenBytes(
  write: (sink: ByteSink) => Promise<void>,
): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  await write({ write: async (bytes) => void parts.push(new Uint8Array(bytes)) });
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function forgeTo(sink: ByteSink, options: ForgeOptions): Promise<void> {
  const metadata = new Map([...modelMetadata(options), ...tokenizerMetadata(options)]);
  await writeGguf(sink, { metadata, tensors: modelTensors(options) });
}

/** `general.file_type` of a file that is mostly of a type, from llama.cpp's `llama_ftype`. */
const fileTypes = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q8_0: 7,
  Q5_0: 8,
  Q5_1: 9,
  Q4_K: 15,
  Q5_K: 17,
  Q6_K: 18,
  BF16: 32,
} as const;

const u32 = (value: number): GgufEntry => ({ type: 'u32', value });
const f32 = (value: number): GgufEntry => ({ type: 'f32', value });
const string = (value: string): GgufEntry => ({ type: 'string', value });

function modelMetadata(o: ForgeOptions): [string, GgufEntry][] {
  const architecture = o.architecture ?? 'llama';
  const general: [string, GgufEntry][] = [
    ['general.architecture', string(architecture)],
    ['general.name', string(`forged ${o.type} seed ${o.seed}`)],
    ['general.file_type', u32(fileTypes[o.type])],
    ['general.quantization_version', u32(2)],
  ];
  const sizes: [string, GgufEntry][] = [
    ['vocab_size', u32(o.vocab)],
    ['context_length', u32(o.contextLength)],
    ['embedding_length', u32(dModelOf(o))],
    ['block_count', u32(o.nLayers)],
    ['feed_forward_length', u32(o.dFeedForward)],
    ['attention.head_count', u32(o.nHeads)],
    ['attention.head_count_kv', u32(o.nKvHeads)],
    ['attention.key_length', u32(o.headDim)],
    ['attention.value_length', u32(o.headDim)],
    ['attention.layer_norm_rms_epsilon', f32(1e-5)],
    ['rope.dimension_count', u32(o.headDim)],
    ['rope.freq_base', f32(o.ropeTheta ?? 10_000)],
  ];
  return [
    ...general,
    ...sizes.map(([key, entry]) => [`${architecture}.${key}`, entry] as [string, GgufEntry]),
  ];
}

function dModelOf(o: ForgeOptions): number {
  return o.dModel ?? o.nHeads * o.headDim;
}

/**
 * Projections are N(0, 1 / fan-in), so that activations keep unit scale. Whichever matrix makes
 * the logits is three times as large: logits with a deviation of 3 are neither flat nor saturated.
 */
function modelTensors(o: ForgeOptions): TensorToWrite[] {
  const weights = new WeightPool(o.seed, o.type, o.mixed ? blocksOf32 : {});
  const dModel = dModelOf(o);
  const dQuery = o.nHeads * o.headDim;
  const dKv = o.nKvHeads * o.headDim;
  const logitScale = 3 / Math.sqrt(dModel);
  const output = o.outputType ?? o.type;
  const tensors = [
    o.tied
      ? weights.matrix('token_embd', [o.vocab, dModel], logitScale, output)
      : weights.matrix('token_embd', [o.vocab, dModel], 1),
  ];
  for (let layer = 0; layer < o.nLayers; layer++) {
    const name = (part: string) => `blk.${layer}.${part}`;
    const finer = o.mixed && hasMoreBits(layer, o.nLayers) ? 'Q6_K' : o.type;
    tensors.push(
      weights.norm(name('attn_norm'), dModel),
      weights.matrix(name('attn_q'), [dQuery, dModel]),
      weights.matrix(name('attn_k'), [dKv, dModel]),
      weights.matrix(name('attn_v'), [dKv, dModel], undefined, finer),
      weights.matrix(name('attn_output'), [dModel, dQuery]),
      ...(o.architecture === 'qwen2'
        ? [
            weights.bias(name('attn_q'), dQuery),
            weights.bias(name('attn_k'), dKv),
            weights.bias(name('attn_v'), dKv),
          ]
        : []),
      ...(o.architecture === 'qwen3'
        ? [
            weights.norm(name('attn_q_norm'), o.headDim),
            weights.norm(name('attn_k_norm'), o.headDim),
          ]
        : []),
      weights.norm(name('ffn_norm'), dModel),
      weights.matrix(name('ffn_gate'), [o.dFeedForward, dModel]),
      weights.matrix(name('ffn_up'), [o.dFeedForward, dModel]),
      weights.matrix(name('ffn_down'), [dModel, o.dFeedForward], undefined, finer),
    );
  }
  tensors.push(weights.norm('output_norm', dModel));
  if (!o.tied) tensors.push(weights.matrix('output', [o.vocab, dModel], logitScale, output));
  if (o.ropeScaling) {
    const factors = llama3RopeFactors(o.headDim, o.ropeTheta ?? 10_000, o.ropeScaling);
    tensors.push(vector('rope_freqs', factors));
  }
  return tensors;
}

function vector(name: string, values: Float32Array): TensorToWrite {
  return {
    name: `${name}.weight`,
    type: 'F32',
    shape: [values.length],
    data: async () => encode('f32', values),
  };
}

/** A Q8_0 block whatever the type, so that a seed means the same weights in each. */
const pieceOfPlainTypes = dtypeBlocks.q8_0.elements;
const chunkElements = 1 << 20;

/**
 * Layers whose values and second feed-forward matrices have more bits: `use_more_bits` in llama.cpp's
 * src/llama-quant.cpp. A model of 70 billion parameters would have Q5_K for the values of the others.
 */
function hasMoreBits(layer: number, nLayers: number): boolean {
  const eighth = Math.floor(nLayers / 8);
  const isOuter = layer < eighth || layer >= Math.floor((7 * nLayers) / 8);
  return isOuter || (layer - eighth) % 3 === 2;
}

/** What llama.cpp takes for rows that are no whole blocks of 256. */
const blocksOf32: Partial<Record<ForgeOptions['type'], ForgeOptions['type']>> = {
  Q4_K: 'Q5_0',
  Q6_K: 'Q8_0',
};

/**
 * Random weights, fast: drawing hundreds of millions of normals takes a minute, so a matrix is
 * put together from random pieces of a million of them, already encoded. Pieces are much shorter
 * than a row: whole rows would repeat in a large vocabulary, and two tokens tie.
 */
class WeightPool {
  private readonly random: Random;
  private readonly type: ForgeOptions['type'];
  private readonly instead: Partial<Record<ForgeOptions['type'], ForgeOptions['type']>>;
  private readonly normals = new Float32Array(1 << 20);
  private readonly pools = new Map<string, Uint8Array>();

  /** @param instead types for rows that are no whole blocks of the wanted one; otherwise F16 */
  constructor(
    seed: number,
    type: ForgeOptions['type'],
    instead: Partial<Record<ForgeOptions['type'], ForgeOptions['type']>>,
  ) {
    this.random = new Random(seed);
    this.type = type;
    this.instead = instead;
    for (let i = 0; i < this.normals.length; i++) this.normals[i] = this.random.normal();
  }

  norm(name: string, size: number): TensorToWrite {
    return vector(
      name,
      Float32Array.from({ length: size }, () => 1 + 0.1 * this.random.normal()),
    );
  }

  bias(name: string, size: number): TensorToWrite {
    const values = Float32Array.from({ length: size }, () => 0.5 * this.random.normal());
    return { ...vector(name, values), name: `${name}.bias` };
  }

  /** @param shape [rows, columns] */
  matrix(
    name: string,
    shape: [number, number],
    deviation = 1 / Math.sqrt(shape[1]),
    wanted = this.type,
  ): TensorToWrite {
    const [rows, columns] = shape;
    const isWhole = columns % dtypeBlocks[dtypeOf(wanted)].elements === 0;
    const type = isWhole ? wanted : (this.instead[wanted] ?? 'F16');
    const dtype = dtypeOf(type);
    const { random } = this;
    const pool = () => this.encodedPool(dtype, deviation);
    const pieceElements = Math.max(pieceOfPlainTypes, dtypeBlocks[dtype].elements);
    const bytesOf = (elements: number) => tensorSizeBytes(dtype, [elements]);
    return {
      name: `${name}.weight`,
      type,
      shape,
      async *data() {
        const encoded = pool();
        const pieceBytes = bytesOf(pieceElements);
        const pieces = encoded.length / pieceBytes;
        for (let done = 0; done < rows * columns; done += chunkElements) {
          const chunk = new Uint8Array(bytesOf(Math.min(chunkElements, rows * columns - done)));
          for (let at = 0; at < chunk.length; at += pieceBytes) {
            const start = Math.floor(random.uniform() * pieces) * pieceBytes;
            const length = Math.min(pieceBytes, chunk.length - at);
            chunk.set(encoded.subarray(start, start + length), at);
          }
          yield chunk;
        }
      },
    };
  }

  private encodedPool(dtype: WeightDType, deviation: number): Uint8Array {
    const key = `${dtype} ${deviation}`;
    let pool = this.pools.get(key);
    if (!pool) {
      pool = isEncodable(dtype)
        ? encode(
            dtype,
            this.normals.map((x) => x * deviation),
          )
        : randomBlocks(this.random, dtype, this.normals.length, deviation);
      this.pools.set(key, pool);
    }
    return pool;
  }
}

const dtypeOf = (type: ForgeOptions['type']) => type.toLowerCase() as WeightDType;

function isEncodable(dtype: WeightDType): dtype is EncodableDType {
  return ['f32', 'f16', 'bf16', 'q8_0', 'q4_0'].includes(dtype);
}

/** f16 fields of a block: where, and how large beside the scale, so that values centre on zero. */
const halfFields: Partial<Record<WeightDType, readonly { at: number; factor: number }[]>> = {
  q4_1: [
    { at: 0, factor: 1 },
    { at: 2, factor: -7.5 },
  ],
  q5_0: [{ at: 0, factor: 1 }],
  q5_1: [
    { at: 0, factor: 1 },
    { at: 2, factor: -15.5 },
  ],
  q4_k: [
    { at: 0, factor: 1 },
    { at: 2, factor: 7.5 },
  ],
  q5_k: [
    { at: 0, factor: 1 },
    { at: 2, factor: 15.5 },
  ],
  q6_k: [{ at: 208, factor: 1 }],
};

/** Blocks of random codes and packed scales whose values have about this deviation. */
function randomBlocks(
  random: Random,
  dtype: WeightDType,
  count: number,
  deviation: number,
): Uint8Array {
  const { elements, bytes: blockBytes } = dtypeBlocks[dtype];
  const bytes = new Uint8Array((count / elements) * blockBytes);
  const words = new Uint32Array(bytes.buffer, 0, bytes.length >> 2);
  for (let i = 0; i < words.length; i++) words[i] = random.uint32();
  const view = new DataView(bytes.buffer);
  const setScales = (scale: number) => {
    for (let at = 0; at < bytes.length; at += blockBytes) {
      for (const field of halfFields[dtype] ?? []) {
        view.setUint16(at + field.at, f32ToF16(scale * field.factor), true);
      }
    }
  };
  setScales(1);
  const values = dequantize(dtype, bytes, count);
  setScales(deviation / Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / count));
  return bytes;
}

/** GGUF token types, from llama.cpp's `llama_token_type`. */
const tokenType = { normal: 1, unknown: 2, control: 3, byte: 6 };

const letters = [...'etaoinshrdlucmfwypvbgkqjxz'];

function tokenizerMetadata(o: ForgeOptions): [string, GgufEntry][] {
  if (o.tokenizer === 'bpe') return bpeMetadata(o.vocab);
  if (o.tokenizer === 'spm') return spmMetadata(o.vocab);
  return [['tokenizer.ggml.model', string('none')]];
}

/**
 * GPT-2's: 256 byte symbols, one control token, merges of letters, then longer pieces with 2.2
 * merges each, the ratio of Llama 3's vocabulary: most pieces can be put together in several ways.
 */
function bpeMetadata(vocab: number): [string, GgufEntry][] {
  const symbols = byteSymbols();
  const space = symbols[32];
  const tokens = [...symbols, '<|endoftext|>'];
  const merges: string[] = [];
  const pairs = [
    ...letters.map((a) => [space, a]),
    ...letters.flatMap((a) => letters.map((b) => [a, b])),
    ...letters.flatMap((a) => letters.map((b) => [space + a, b])),
  ];
  if (vocab < tokens.length) throw tooSmall(vocab, tokens.length);
  for (const [left, right] of pairs.slice(0, vocab - tokens.length)) {
    merges.push(`${left} ${right}`);
    tokens.push(left + right);
  }
  longPieces(symbols, tokens, vocab - tokens.length).forEach((piece, i) => {
    const cuts = [...new Set([piece.length - 1, 1, 2])].filter((cut) => cut < piece.length);
    for (const cut of cuts.slice(0, i % 3 === 0 ? 3 : 2)) {
      merges.push(`${piece.slice(0, cut)} ${piece.slice(cut)}`);
    }
    tokens.push(piece);
  });
  const end = 256;
  return [
    ['tokenizer.ggml.model', string('gpt2')],
    ['tokenizer.ggml.pre', string('gpt-2')],
    ['tokenizer.ggml.tokens', { type: 'string[]', value: tokens }],
    [
      'tokenizer.ggml.token_type',
      {
        type: 'i32[]',
        value: tokens.map((_, i) => (i === end ? tokenType.control : tokenType.normal)),
      },
    ],
    ['tokenizer.ggml.merges', { type: 'string[]', value: merges }],
    ['tokenizer.ggml.bos_token_id', u32(end)],
    ['tokenizer.ggml.eos_token_id', u32(end)],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: false }],
  ];
}

/**
 * Every part of a few made-up words, in letters and in other scripts, shorter parts first: so each
 * can be merged from two that come before it.
 */
function longPieces(symbols: readonly string[], known: readonly string[], count: number): string[] {
  const random = new Random(count);
  const pick = (from: readonly string[]) => from[Math.floor(random.uniform() * from.length)];
  const all = new Set(known);
  while (all.size < known.length + count) {
    const alphabet = random.uniform() < 0.7 ? letters : symbols.slice(128);
    const word = symbols[32] + Array.from({ length: 11 }, () => pick(alphabet)).join('');
    for (let start = 0; start < word.length; start++) {
      for (let end = start + 2; end <= word.length; end++) all.add(word.slice(start, end));
    }
  }
  return [...all]
    .slice(known.length)
    .sort((a, b) => a.length - b.length)
    .slice(0, count);
}

/** The printable stand-in of every byte: itself where printable, otherwise from U+0100 on. */
function byteSymbols(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable =
      (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte <= 0xff && byte !== 0xad);
    return String.fromCodePoint(isPrintable ? byte : next++);
  });
}

/** SentencePiece's: three special tokens, 256 bytes, then words by falling score. */
function spmMetadata(vocab: number): [string, GgufEntry][] {
  const space = '\u2581';
  const tokens = ['<unk>', '<s>', '</s>'];
  const types = [tokenType.unknown, tokenType.control, tokenType.control];
  for (let byte = 0; byte < 256; byte++) {
    tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
    types.push(tokenType.byte);
  }
  const firstWord = tokens.length;
  const words = [
    ...letters.map((a) => space + a),
    ...letters.flatMap((a) => letters.map((b) => a + b)),
    space,
    ...letters,
  ];
  tokens.push(...words.slice(0, Math.max(0, vocab - firstWord)));
  padTokens(tokens, vocab);
  while (types.length < tokens.length) types.push(tokenType.normal);
  return [
    ['tokenizer.ggml.model', string('llama')],
    ['tokenizer.ggml.pre', string('default')],
    ['tokenizer.ggml.tokens', { type: 'string[]', value: tokens }],
    [
      'tokenizer.ggml.scores',
      { type: 'f32[]', value: tokens.map((_, i) => Math.min(0, firstWord - 1 - i)) },
    ],
    ['tokenizer.ggml.token_type', { type: 'i32[]', value: types }],
    ['tokenizer.ggml.bos_token_id', u32(1)],
    ['tokenizer.ggml.eos_token_id', u32(2)],
    ['tokenizer.ggml.unknown_token_id', u32(0)],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: true }],
  ];
}

function padTokens(tokens: string[], vocab: number): void {
  if (vocab < tokens.length) throw tooSmall(vocab, tokens.length);
  while (tokens.length < vocab) tokens.push(`[made-up-${tokens.length}]`);
}

function tooSmall(vocab: number, needed: number): KvError {
  return new KvError('usage', `forge: vocab is ${vocab}; this tokenizer needs ${needed} or more.`);
}
