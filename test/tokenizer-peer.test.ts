import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { openFileSource } from '../src/format/file-node.ts';
import { readGguf } from '../src/format/gguf.ts';
import { tokenizerFromGguf } from '../src/tokenizer/gguf-tokenizer.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';

/** The part of node-llama-cpp that this test uses. */
interface Peer {
  getLlama(options: object): Promise<{
    loadModel(options: { modelPath: string; vocabOnly: true }): Promise<PeerModel>;
  }>;
}
interface PeerModel {
  tokenize(text: string, specialTokens: boolean): number[];
  detokenize(ids: number[], specialTokens: boolean): string;
  isEogToken(id: number): boolean;
  dispose(): Promise<void>;
}

/** Files of this repository are named from its root, those of the development data from theirs. */
const inShared = (path: string) => {
  const own = fileURLToPath(new URL(`../${path}`, import.meta.url));
  return existsSync(own) ? own : fileURLToPath(new URL(`../../shared/${path}`, import.meta.url));
};
const peerUrl = new URL('../.peer/node_modules/node-llama-cpp/dist/index.js', import.meta.url);

const embedded = 'models/books-skills-5m-q8_0.gguf';

const noVocabulary = 'its vocabulary is not in ../shared';
const noPeer = 'node-llama-cpp is not in .peer; run npm run peer:install';

const goldenTexts = [
  "Hello world, it's 2024!\n\n",
  'naïve 😀 你好',
  'x</s><|endoftext|>',
  '  if (x) {\n\treturn 1;\n',
];

/**
 * Ids of `goldenTexts` by llama.cpp: `model.tokenize(text)` of node-llama-cpp 3.22.1, the model
 * loaded with `vocabOnly`.
 */
const golden: Readonly<Record<string, number[][]>> = {
  'data/tokenizers/ggml-vocab-gpt-2.gguf': [
    [15496, 995, 11, 340, 338, 48609, 0, 628],
    [2616, 38776, 30325, 222, 220, 19526, 254, 25001, 121],
    [87, 3556, 82, 6927, 91, 437, 1659, 5239, 91, 29],
    [220, 611, 357, 87, 8, 1391, 198, 197, 7783, 352, 26, 198],
  ],
  'data/tokenizers/ggml-vocab-starcoder.gguf': [
    [8302, 5810, 49, 580, 1200, 244, 55, 53, 55, 57, 38, 499],
    [3288, 43727, 606, 18445, 246, 244, 7403, 10628],
    [125, 396, 120, 789, 129, 15546, 31124, 28339],
    [244, 434, 327, 125, 46, 320, 222, 221, 620, 244, 54, 64, 222],
  ],
  'data/tokenizers/ggml-vocab-llama-spm.gguf': [
    [15043, 3186, 29892, 372, 29915, 29879, 29871, 29906, 29900, 29906, 29946, 29991, 13, 13],
    [1055, 30085, 345, 29871, 243, 162, 155, 131, 29871, 30919, 31076],
    [921, 829, 29879, 5299, 29989, 355, 974, 726, 29989, 29958],
    [259, 565, 313, 29916, 29897, 426, 13, 12, 2457, 29871, 29896, 29936, 13],
  ],
  'data/tokenizers/ggml-vocab-phi-3.gguf': [
    [15043, 3186, 29892, 372, 29915, 29879, 29871, 29906, 29900, 29906, 29946, 29991, 13, 13],
    [1055, 30085, 345, 29871, 243, 162, 155, 131, 29871, 30919, 31076],
    [921, 829, 29879, 5299, 29989, 355, 974, 726, 29989, 29958],
    [259, 565, 313, 29916, 29897, 426, 13, 12, 2457, 29871, 29896, 29936, 13],
  ],
  'models/books-5m-f32.gguf': [
    [72, 465, 111, 920, 44, 319, 362, 3959, 48, 50, 52, 33, 472],
    [110, 97, 195, 175, 315, 32, 240, 159, 152, 128, 32, 228, 189, 160, 229, 165, 189],
    [120, 60, 47, 115, 62, 60, 124, 568, 485, 655, 1028, 124, 62],
    [32, 522, 851, 120, 41, 32, 123, 10, 9, 856, 532, 2085, 59, 10],
  ],
  'models/stories260K-f32.gguf': [
    [346, 306, 414, 263, 304, 341, 432, 312, 439, 419, 410, 479, 477, 479, 484, 443, 13, 13],
    [297, 412, 198, 178, 360, 410, 243, 162, 155, 131, 410, 231, 192, 163, 232, 168, 192],
    [410, 444, 504, 492, 419, 505, 504, 506, 367, 414, 431, 413, 411, 444, 413, 506, 505],
    [
      410, 410, 410, 417, 431, 410, 489, 444, 488, 410, 126, 13, 12, 276, 413, 425, 420, 416, 410,
      475, 474, 13,
    ],
  ],
};

const preTokenizedText = "I'M 12345 don't!\n\n  x = $3.50...\r\n\tend Paris  ";

/** Ids of `preTokenizedText`, made likewise from the GPT-2 file with `tokenizer.ggml.pre` changed. */
const goldenByPreTokenizer: Readonly<Record<string, number[]>> = {
  'llama-bpe': [
    40, 6, 44, 220, 10163, 2231, 836, 470, 0, 628, 220, 2124, 796, 720, 18, 13, 1120, 986, 201, 198,
    197, 437, 6342, 220, 220,
  ],
  qwen2: [
    40, 6, 44, 220, 16, 17, 18, 19, 20, 836, 470, 0, 628, 220, 2124, 796, 720, 18, 13, 20, 15, 986,
    201, 198, 197, 437, 6342, 220, 220,
  ],
  smollm: [
    40, 6, 44, 220, 16, 17, 18, 19, 20, 836, 470, 0, 628, 220, 2124, 796, 720, 18, 13, 20, 15, 986,
    201, 198, 197, 437, 6342, 220, 220,
  ],
  default: [
    40, 6, 44, 220, 10163, 2231, 836, 6, 83, 0, 628, 220, 2124, 220, 28, 220, 3, 18, 13, 1120, 986,
    201, 198, 197, 437, 6342, 220, 220,
  ],
};

/** Skips the test; Vitest's own note shows in its verbose report only. */
function skipBecause(skip: (note: string) => never, what: string, reason: string): never {
  process.stderr.write(`skipped: tokenizer of ${what}: ${reason}\n`);
  return skip(reason);
}

/** Texts that break tokenizers. */
const nasty = [
  ...['', ' ', '  ', '\n', '\n\n', '\t', ' \n', '\n ', '\r', '\r\n', ' \r\n \r\n', '\0', 'a\0b\0'],
  ' \t \n \t\n\n   a  b   c    d     ',
  "I'm you're we'll they'd he's WE'LL I'M it'S don't 'tis 'S 'ſ",
  '3 33 333 3333 33333 1,234,567.89 0x1F 1e-5 v2.0.1 ١٢٣ Ⅻ ½² 一二',
  '👨‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽 ❤️‍🔥 😀',
  'e\u0301 a\u0300\u0301\u0302 n\u0303 Z\u0351\u036b\u0343A\u0334\u0335L',
  '你好，世界。こんにちは世界！カタカナ 한국어',
  'مرحبا بالعالم שלום नमस्ते ภาษาไทย Ελληνικά Русский 𝔘𝔫𝔦 𐍈 𠜎',
  'for (let i = 0; i < n; i++) {\n\tconst x = a[i] ?? null;\n    return `${x}`;\n}\n',
  'def f(x):\n    """doc"""\n    return x ** 2  # comment\n\n\nprint(f(3))',
  ' '.repeat(500) + 'x' + ' '.repeat(501),
  '\n'.repeat(300) + 'x' + '\t'.repeat(77) + ' \n'.repeat(100),
  '\x01\x02\x1b[31mred\x7f\x80\x85\x9f \u00a0nbsp\u00a0 \u2028line\u2029 \ufeffbom\ufeff \u200b\u200d\u2060',
  '\u3000wide \u1680\u2003\u202f\u205f \u180e \u00ad \ufffd\uffff',
  ...['\ud800', 'a\udc00b', '\udc00\ud800', 'x\ud83d', '\ud83d😀\ude00'],
  'a<|endoftext|>b </s> \n c<s>d<unk> <|im_start|>user\n<|im_end|><|end|> \n<fim_prefix>',
  '<0x0A> <0x41> <|bos|>hi<|eos|> [PAD32011] \u2581 \u2581\u2581x Ġthe Ċ',
  '__proto__ constructor toString',
  ...['a'.repeat(10_000), 'ab'.repeat(2000), '='.repeat(1000), '0'.repeat(1001), '😀'.repeat(300)],
  'https://example.com/path?q=1&r=%20#frag $100 €50 ~~ `x` ^y^ "q" “c” — … «g»',
  '!\n\n ...\r\n\n x\n\n  \n y',
];

async function load(path: string, pre?: string): Promise<Tokenizer> {
  const source = await openFileSource(path);
  try {
    const metadata = new Map<string, unknown>((await readGguf(source)).metadata);
    if (pre !== undefined) metadata.set('tokenizer.ggml.pre', pre);
    return tokenizerFromGguf(metadata);
  } finally {
    await source.close();
  }
}

describe.each(Object.entries(golden))('%s', (file, ids) => {
  const path = inShared(file);

  it('gives the ids that llama.cpp gave', async ({ skip }) => {
    if (!existsSync(path)) skipBecause(skip, file, noVocabulary);
    const tokenizer = await load(path);
    const ours = goldenTexts.map((text) => Array.from(tokenizer.encode(text, { addBos: false })));
    expect(ours).toEqual(ids);
  });
});

it.for(Object.entries(goldenByPreTokenizer))('pre-tokenizer %s', async ([pre, ids], { skip }) => {
  const file = 'data/tokenizers/ggml-vocab-gpt-2.gguf';
  const path = inShared(file);
  if (!existsSync(path)) skipBecause(skip, file, noVocabulary);
  const tokenizer = await load(path, pre);
  expect(Array.from(tokenizer.encode(preTokenizedText, { addBos: false }))).toEqual(ids);
});

describe('node-llama-cpp on the same vocabulary', () => {
  let llama: Awaited<ReturnType<Peer['getLlama']>> | undefined;

  beforeAll(async () => {
    if (!existsSync(peerUrl)) return;
    const peer = (await import(/* @vite-ignore */ peerUrl.href)) as Peer;
    const options = { gpu: false, build: 'never', skipDownload: true, logLevel: 'disabled' };
    llama = await peer.getLlama(options);
  });

  it.for([...Object.keys(golden), embedded])('%s', async (file, { skip }) => {
    const path = inShared(file);
    if (!llama) return skipBecause(skip, file, noPeer);
    if (!existsSync(path)) skipBecause(skip, file, noVocabulary);
    const theirs = await llama.loadModel({ modelPath: path, vocabOnly: true });
    const ours = await load(path);

    const corpus = inShared('data/eval/wikitext-2-test.txt');
    const paragraphs = existsSync(corpus)
      ? readFileSync(corpus, 'utf8')
          .slice(0, 120_000)
          .split(/(?<=\n)/)
      : [];
    for (const text of [...paragraphs, ...nasty]) {
      for (const parseSpecial of [false, true]) {
        const ids = Array.from(ours.encode(text, { parseSpecial, addBos: false }));
        expect(ids, JSON.stringify(text.slice(0, 80))).toEqual(theirs.tokenize(text, parseSpecial));
      }
    }

    const differing: string[] = [];
    for (let id = 0; id < ours.vocabSize; id++) {
      for (const special of [false, true]) {
        const text = ours.decode([id], { special });
        // For some vocabularies llama.cpp drops spaces before punctuation; we never do.
        if (/ [?!.,']/.test(text)) continue;
        if (text !== theirs.detokenize([id], special)) differing.push(ours.token(id));
      }
    }
    expect(differing).toEqual([]);
    for (const id of ours.eosIds) expect(theirs.isEogToken(id)).toBe(true);
    await theirs.dispose();
  });
});
