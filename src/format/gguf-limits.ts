/**
 * What a GGUF header may ask of us. A header is untrusted input: each of these is checked before
 * anything of that size is allocated, and each is far above any file seen in the wild.
 */

/** The longest real headers hold 260,000 tokens and their merges: some 15 MB. */
export const maxHeaderBytes = 64 * 2 ** 20;

/** Real files have fewer than 100 keys. */
export const maxMetadataCount = 2 ** 16;

/** The specification's own limit. */
export const maxKeyBytes = 2 ** 16 - 1;

/** The longest strings in real files are chat templates and licences: some 100 kB. */
export const maxStringBytes = 2 ** 24;

/** The longest real arrays are merges: half a million. */
export const maxArrayLength = 2 ** 22;

/** One: an array of arrays is valid GGUF, but llama.cpp reads none and no known model has one. */
export const maxArrayDepth = 1;

/** Mixtures of experts with one tensor per expert reach some 20,000. */
export const maxTensorCount = 2 ** 16;

/** The specification says 64; builds of GGML for image models write up to 128. */
export const maxTensorNameBytes = 256;

/** GGML's own limit, GGML_MAX_DIMS. */
export const maxDimensions = 4;

/** Real files use 32; a page of 64 KiB is the most that mapping a file could want. */
export const maxAlignment = 2 ** 16;

/** Longer arrays of strings stay packed: a large vocabulary and its merges, nothing else. */
export const maxStringsUnpacked = 2 ** 16;
