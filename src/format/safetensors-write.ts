/** Writes a safetensors file of f32 tensors; `safetensors.ts` describes the layout. */

/** Numbers, f32, row-major. */
export interface NumberTensor {
  /** outermost first */
  readonly shape: readonly number[];
  readonly numbers: Float32Array;
}

/**
 * The bytes of a file. The same input makes the same bytes.
 * @param tensors  by name, in the order in which they will lie
 * @param metadata what the file says about itself
 */
export function safetensorsBytes(
  tensors: ReadonlyMap<string, NumberTensor>,
  metadata: Readonly<Record<string, string>>,
): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let dataBytes = 0;
  for (const [name, { shape, numbers }] of tensors) {
    const end = dataBytes + numbers.byteLength;
    header[name] = { dtype: 'F32', shape, data_offsets: [dataBytes, end] };
    dataBytes = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  // Spaces behind the header let the data begin at a multiple of 8, as the format's own writer does.
  const headerBytes = Math.ceil(text.length / 8) * 8;
  const out = new Uint8Array(8 + headerBytes + dataBytes);
  const view = new DataView(out.buffer);
  view.setBigUint64(0, BigInt(headerBytes), true);
  out.fill(0x20, 8, 8 + headerBytes);
  out.set(text, 8);
  let at = 8 + headerBytes;
  for (const { numbers } of tensors.values()) {
    for (const number of numbers) {
      view.setFloat32(at, number, true);
      at += 4;
    }
  }
  return out;
}
