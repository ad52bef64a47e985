export interface EncodeOptions {
  /** Read control tokens such as `<|im_start|>` in the text as such; false by default. */
  readonly parseSpecial?: boolean;
  /**
   * Begin with the BOS token; by default what the model file says. `false` also leaves out the EOS
   * token that a few files ask to append.
   */
  readonly addBos?: boolean;
}

export interface DecodeOptions {
  /** Show control tokens; they are left out by default. */
  readonly special?: boolean;
}

/** Decodes one token at a time and never returns part of a character. */
export interface StreamDecoder {
  /**
   * The characters that token `id` completes, possibly none.
   * @throws KvError "range" if there is no token `id`
   */
  push(id: number): string;
  /** What is left: U+FFFD if the last character is incomplete, else nothing. */
  end(): string;
}

/** Text to token ids and back. Ids equal those of llama.cpp for the same model file. */
export interface Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  /** Generation stops at any of these; the model's own end of sequence comes first. */
  readonly eosIds: readonly number[];
  /**
   * Token ids of `text`, i32 [n]. Text never becomes a control token unless `parseSpecial` is set.
   * Lone surrogates become U+FFFD.
   * @throws KvError "unsupported" if `addBos` is true and the model has no BOS token
   */
  encode(text: string, options?: EncodeOptions): Int32Array;
  /**
   * The text of `ids`; bytes that are not UTF-8 become U+FFFD. A space that `encode` put in front
   * of the text is taken away again. Spaces before punctuation stay: what was encoded comes back.
   * @throws KvError "range" if an id is not in the vocabulary
   */
  decode(ids: Iterable<number>, options?: DecodeOptions): string;
  /** Decodes the continuation of a text, so a leading space stays; control tokens are left out. */
  stream(): StreamDecoder;
  /**
   * The piece as the vocabulary spells it, such as `Ġthe` or `▁the`.
   * @throws KvError "range" if there is no token `id`
   */
  token(id: number): string;
}
