/** A decoded token's time in milliseconds, in three parts that add up to `tokenMs`. */
export interface TokenSplit {
  readonly tokenMs: number;
  /** reading the cache's bytes from memory, at the speed at which the threads read memory */
  readonly cacheLoadMs: number;
  /** what attention takes beyond that: unpacking, scores, softmax, sums, and storing the token */
  readonly attentionMs: number;
  /** all but attention: weights, norms, logits */
  readonly restMs: number;
}

/**
 * Where the time of a decoded token goes. What a part measures by itself may be more than the
 * whole that it is part of, as a cache that fits the processor's caches is read faster than memory:
 * then it is the whole.
 * @param measured tokenMs of a token, attendMs of its attention alone, bytes of the cache
 * @param memoryGigabytes 10^9 bytes a second
 */
export function splitOf(
  measured: {
    readonly tokenMs: number;
    readonly attendMs: number;
    readonly cacheBytes: number;
  },
  memoryGigabytes: number,
): TokenSplit {
  const { tokenMs, cacheBytes } = measured;
  const attendMs = Math.min(measured.attendMs, tokenMs);
  const cacheLoadMs = Math.min(cacheBytes / (memoryGigabytes * 1e6), attendMs);
  return { tokenMs, cacheLoadMs, attentionMs: attendMs - cacheLoadMs, restMs: tokenMs - attendMs };
}
