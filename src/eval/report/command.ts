/** Commands that a reader can copy. */

/** An argument as a shell takes it. */
export function quoted(argument: string): string {
  return /^[\w./:=,@+-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`;
}

/** `h1bkv` with these words; a flag is a pair, left out where its value is undefined. */
export function h1bkv(
  name: string,
  ...words: readonly (readonly [flag: string, value: string | number | undefined])[]
): string {
  const given = words.flatMap(([flag, value]) =>
    value === undefined ? [] : [flag, quoted(String(value))],
  );
  return ['h1bkv', name, ...given].join(' ');
}
