/** What sections are made of, before it is Markdown or HTML. */

export interface Column {
  readonly title: string;
  /** words stand left, numbers right */
  readonly words?: true;
  /** figures that the paper reports, not ours */
  readonly paper?: true;
}

export interface Row {
  readonly cells: readonly string[];
  /** one of our own methods */
  readonly ours?: boolean;
  /** what makes this row alone, if the table's command makes more */
  readonly command?: string;
}

export interface TableBlock {
  readonly kind: 'table';
  readonly caption: string;
  readonly command: string;
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
}

/** A picture of so many units across; a narrow one is for a telephone. */
export interface ChartBlock {
  readonly kind: 'chart';
  /** of its own file beside the Markdown, without `.svg` */
  readonly name: string;
  readonly caption: string;
  readonly command: string;
  readonly draw: (width: number) => string;
}

export interface TextBlock {
  readonly kind: 'text';
  readonly text: string;
}

export type Block = TableBlock | ChartBlock | TextBlock;

export const text = (content: string): TextBlock => ({ kind: 'text', text: content });

/** Methods of this project that are not of the paper. */
export const isOurs = (spec: string) => /^(bitplane|h1b\+)/.test(spec);

/** Widths that a page draws its charts in. */
export const chartWidths = { broad: 960, narrow: 360 } as const;
