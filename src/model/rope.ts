import type { DecoderConfig } from './config.ts';

/**
 * Angle per position of every rotating pair: theta^(-2 i / ropeDims), divided by the linear scale
 * and by the pair's own factor (Llama 3's scaling, from rope_freqs.weight).
 * @param factors f32 [ropeDims / 2], or undefined for none
 * @returns radians per position, [ropeDims / 2]
 */
export function ropeFrequencies(config: DecoderConfig, factors?: Float32Array): Float64Array {
  return Float64Array.from({ length: config.ropeDims / 2 }, (_, i) => {
    const frequency = config.ropeTheta ** ((-2 * i) / config.ropeDims);
    return frequency / config.ropeLinearScale / (factors?.[i] ?? 1);
  });
}

/**
 * (cos, sin) for a run of positions, written to `out` from element `offset` on.
 * @param out f32 [n, frequencies.length, 2], flat
 */
export function fillRopeTable(
  frequencies: Float64Array,
  start: number,
  n: number,
  out: Float32Array,
  offset: number,
): void {
  for (let i = 0; i < n; i++) {
    for (const frequency of frequencies) {
      const angle = (start + i) * frequency;
      out[offset++] = Math.cos(angle);
      out[offset++] = Math.sin(angle);
    }
  }
}
