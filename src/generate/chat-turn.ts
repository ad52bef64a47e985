import type { ChatMessage } from '../tokenizer/chat-template.ts';

export interface ChatTurn extends ChatMessage {
  /** The answer stopped before its end: by an abort, or because nobody read on. */
  readonly interrupted?: true;
}
