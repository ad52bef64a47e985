/** Colours of families of methods, by class, for pages in the light and in the dark. */

/** A family: its colour in the light and in the dark. After Okabe and Ito, for colour-blind eyes. */
const families: readonly (readonly [name: string, light: string, dark: string])[] = [
  ['bitplane', '#d1480a', '#ff8a4c'],
  ['h1b+', '#b07d00', '#f0c24a'],
  ['h1b', '#0b62b0', '#5ab0f5'],
  ['kivi', '#00785a', '#3fcf9f'],
  ['q4_0, q8_0', '#5d6470', '#a9b1bf'],
  ['loki', '#a14a86', '#e493c6'],
  ['sparse', '#7a5c38', '#c9a479'],
  ['minicache', '#4f6f7f', '#8fb6c8'],
  ['cq', '#6a4fb0', '#b3a1f2'],
  ['f16', '#1b1f27', '#e6e9ef'],
];

/** The family of a spec: the one of its method's name. */
export function familyOf(spec: string): string {
  const [name] = spec.split(/[:,]/);
  if (/^q\d_0/.test(name)) return 'q4_0, q8_0';
  if (name.startsWith('bitplane')) return 'bitplane';
  return families.some(([known]) => known === name) ? name : 'f16';
}

export const familyIndex = (family: string) => families.findIndex(([name]) => name === family);

export const familyClass = (spec: string) =>
  `g${familyIndex(spec.startsWith('q4_0, q8_0') ? spec : familyOf(spec))}`;

/** Variables for both schemes; `.gN` has `--own`, the colour of family N. */
export const colourStyle = `
:root { --ink: #1b1f27; --soft: #5f6673; --rule: #e3e6eb; --paper: #fdfdfc; --wash: #f4f4f1; --accent: #d1480a;
${families.map(([, light], i) => `--g${i}: ${light};`).join(' ')} }
@media (prefers-color-scheme: dark) {
:root { --ink: #e7e9ee; --soft: #99a1af; --rule: #2c313b; --paper: #14161b; --wash: #1b1e25; --accent: #ff8a4c;
${families.map(([, , dark], i) => `--g${i}: ${dark};`).join(' ')} } }
${families.map((_, i) => `.g${i} { --own: var(--g${i}); }`).join('\n')}
`;

/** What the shapes of charts look like; the page and files with one chart share it. */
export const chartStyle = `${colourStyle}
svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg text { font-size: 11px; fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
svg .tick, svg .title { fill: var(--soft); }
svg .on, svg .ours { font-weight: 650; }
svg .own { fill: var(--own); }
svg .heading { font-weight: 650; font-size: 12px; }
.grid { stroke: var(--rule); }
.reference { stroke: var(--soft); stroke-dasharray: 3 4; }
.front { fill: none; stroke: var(--soft); stroke-width: 1.25; }
.line { fill: none; stroke: var(--own); stroke-width: 1.5; stroke-linejoin: round; }
.line.strong { stroke-width: 2.75; }
.line.dashed { stroke-dasharray: 5 4; }
.point { fill: var(--own); stroke: var(--paper); stroke-width: 1; }
.point.on { stroke: var(--ink); stroke-width: 1.25; }
.hollow { fill: var(--paper); stroke: var(--own); stroke-width: 1.75; }
.whisker { stroke: var(--own); stroke-width: 1.5; opacity: 0.55; }
.mark { stroke: var(--soft); stroke-width: 1.5; }
.bar0 { fill: var(--own); } .bar1 { fill: var(--own); opacity: 0.55; } .bar2 { fill: var(--soft); opacity: 0.3; }
`;
