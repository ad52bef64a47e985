import type { GgufStringList } from './gguf-string-list.ts';

/** Scalar types of GGUF metadata, in the order of their ids in the file. */
export const ggufScalars = [
  'u8',
  'i8',
  'u16',
  'i16',
  'u32',
  'i32',
  'f32',
  'bool',
  'string',
  'array',
  'u64',
  'i64',
  'f64',
] as const;

export const arrayTypeId = ggufScalars.indexOf('array');

export type GgufScalarType = Exclude<(typeof ggufScalars)[number], 'array'>;
export type GgufNumberType = Exclude<GgufScalarType, 'bool' | 'string'>;

/** Type of a metadata value as the file has it: `u32`, or `string[]` for an array of strings. */
export type GgufType = GgufScalarType | `${GgufScalarType}[]`;

/** An array of numbers, in the width that the file has. */
export type GgufNumbers =
  | Uint8Array<ArrayBuffer>
  | Int8Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Int16Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Float32Array<ArrayBuffer>
  | Float64Array<ArrayBuffer>
  | BigUint64Array<ArrayBuffer>
  | BigInt64Array<ArrayBuffer>;

/** A metadata value. u64 and i64 are numbers where that is exact, otherwise bigint. */
export type GgufValue =
  | number
  | bigint
  | boolean
  | string
  | readonly string[]
  | GgufStringList
  | readonly boolean[]
  | GgufNumbers;

interface NumberType {
  readonly bytes: number;
  /** The values in `buffer`, which is not shared with anything else. */
  array(buffer: ArrayBuffer): GgufNumbers;
  read(view: DataView): number | bigint;
}

/** The number types. Arrays take the machine's byte order: JavaScript runs on little-endian ones. */
export const ggufNumberTypes: Readonly<Record<GgufNumberType, NumberType>> = {
  u8: { bytes: 1, array: (b) => new Uint8Array(b), read: (v) => v.getUint8(0) },
  i8: { bytes: 1, array: (b) => new Int8Array(b), read: (v) => v.getInt8(0) },
  u16: { bytes: 2, array: (b) => new Uint16Array(b), read: (v) => v.getUint16(0, true) },
  i16: { bytes: 2, array: (b) => new Int16Array(b), read: (v) => v.getInt16(0, true) },
  u32: { bytes: 4, array: (b) => new Uint32Array(b), read: (v) => v.getUint32(0, true) },
  i32: { bytes: 4, array: (b) => new Int32Array(b), read: (v) => v.getInt32(0, true) },
  f32: { bytes: 4, array: (b) => new Float32Array(b), read: (v) => v.getFloat32(0, true) },
  u64: { bytes: 8, array: (b) => new BigUint64Array(b), read: (v) => v.getBigUint64(0, true) },
  i64: { bytes: 8, array: (b) => new BigInt64Array(b), read: (v) => v.getBigInt64(0, true) },
  f64: { bytes: 8, array: (b) => new Float64Array(b), read: (v) => v.getFloat64(0, true) },
};
