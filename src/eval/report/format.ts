/** Numbers as the report shows them. */

export const megabytes = (bytes: number) => {
  const value = bytes / 1e6;
  return value >= 100 ? value.toFixed(1) : value.toPrecision(3);
};
export const percent = (share: number, digits = 1) =>
  `${(100 * share).toFixed(digits).replace('-', '−')} %`;
/** A ratio as a change: 1.012 is `+1.2 %`. */
export const change = (ratio: number) => {
  const value = 100 * (ratio - 1);
  return `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(Math.abs(value) < 10 ? 2 : 1)} %`;
};
export const times = (ratio: number) => `${ratio.toFixed(ratio < 10 ? 2 : 1)}×`;
export const small = (x: number) =>
  x === 0 ? '0' : Math.abs(x) < 1e-3 ? x.toExponential(1) : x.toPrecision(3);
export const milliseconds = (ms: number) => ms.toFixed(ms < 10 ? 2 : 1);

/** Files of the field's texts, as they are distributed. WikiText-103 has the same test part as WikiText-2. */
const knownTexts: readonly (readonly [file: RegExp, name: string])[] = [
  [/^wiki\.(\w+)\.raw$/, 'WikiText-2 raw'],
  [/^wiki\.(\w+)\.tokens$/, 'WikiText-2'],
  [/^wikitext-2-(\w+)\.txt$/, 'WikiText-2'],
  [/^ptb\.(\w+)\.txt$/, 'PTB'],
];

/** What a text of the field is called, or a file's name without author and ending, no longer than a column can be. */
export function shortName(name: string): string {
  for (const [file, known] of knownTexts) {
    const [, part] = file.exec(name) ?? [];
    if (part) return `${known}, ${part}`;
  }
  const stem = name.replace(/\.\w+$/, '').replace(/^.*_/, '');
  return stem.length > 24 ? `${stem.slice(0, 23)}…` : stem;
}
