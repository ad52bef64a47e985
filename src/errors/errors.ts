/**
 * What went wrong, as a word that a program can test.
 *
 * - `usage`: the call was wrong (CLI exit code 2); everything else is exit code 1
 * - `shape`: tensors or sizes that do not fit together
 * - `format`: a file that is truncated, lies, or is not what it says
 * - `unsupported`: a valid file or request that this version cannot serve
 * - `range`: a number outside its allowed range, such as a prompt longer than the context
 * - `memory`: not enough memory; nothing was changed
 * - `not-finite`: NaN or infinity where a number was needed
 * - `io`: a file or URL that could not be read or written
 * - `aborted`: the caller's AbortSignal fired
 * - `backend`: a kernel backend could not start
 */
export type ErrorCode =
  | 'usage'
  | 'shape'
  | 'format'
  | 'unsupported'
  | 'range'
  | 'memory'
  | 'not-finite'
  | 'io'
  | 'aborted'
  | 'backend';

/**
 * The one error class of the package. A message says, in this order: the subject, what was found,
 * what is allowed, and the next step.
 */
export class KvError extends Error {
  override readonly name = 'KvError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** Throws a `KvError` unless `condition` holds; `message` is built only when it is needed. */
export function ensure(
  condition: boolean,
  code: ErrorCode,
  message: () => string,
): asserts condition {
  if (!condition) throw new KvError(code, message());
}
