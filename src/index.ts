export { KvError, type ErrorCode } from './errors/errors.ts';
export { loadModel, type LoadOptions } from './model/load.ts';
export type { Model } from './model/model.ts';
export type { CacheBytes, CacheState, KvCache } from './cache/cache.ts';
export type { ChatTurn } from './generate/chat-turn.ts';
export { Chat, type ChatOptions } from './generate/chat.ts';
export { Session } from './generate/session.ts';
export type { SessionState } from './generate/session-state.ts';
export { decodeSession, encodeSession } from './generate/session-file.ts';
export {
  generate,
  type GenerateOptions,
  type GenerateStats,
  type Piece,
} from './generate/generate.ts';
export type { SampleOptions } from './generate/sample.ts';
