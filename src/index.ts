export { KvError, type ErrorCode } from './errors/errors.ts';
export { loadModel, type LoadOptions } from './model/load.ts';
export type { Model } from './model/model.ts';
export type { CacheBytes, KvCache } from './cache/cache.ts';
export { Chat, type ChatOptions, type ChatTurn } from './generate/chat.ts';
export { Session } from './generate/session.ts';
export {
  generate,
  type GenerateOptions,
  type GenerateStats,
  type Piece,
} from './generate/generate.ts';
export type { SampleOptions } from './generate/sample.ts';
