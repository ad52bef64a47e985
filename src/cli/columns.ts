/** Two texts that grow side by side, wrapped; a row is final once both sides have filled it. */
export class Columns {
  private readonly width: number;
  private readonly write: (text: string) => void;
  private readonly live: boolean;
  private readonly sides: [string, string] = ['', ''];
  private rowsShown = 0;

  /** @param live whether `write` goes to a terminal, where the row under way may be redrawn */
  constructor(totalWidth: number, live: boolean, write: (text: string) => void) {
    this.width = Math.floor((totalWidth - 3) / 2);
    this.live = live;
    this.write = write;
  }

  header(left: string, right: string): void {
    this.write(`${this.row(left, right)}\n${'─'.repeat(this.width)}─┼─${'─'.repeat(this.width)}\n`);
  }

  push(side: 0 | 1, text: string): void {
    this.sides[side] += text;
    const [left, right] = this.sides.map((all) => wrap(all, this.width));
    // The last line of a side may still change where it wraps.
    const final = Math.min(left.length, right.length) - 1;
    this.show(left, right, final);
    if (this.live) this.write(`\r${this.row(left[final] ?? '', right[final] ?? '')}`);
  }

  end(): void {
    const [left, right] = this.sides.map((all) => wrap(all, this.width));
    this.show(left, right, Math.max(left.length, right.length));
  }

  private show(left: string[], right: string[], upTo: number): void {
    for (; this.rowsShown < upTo; this.rowsShown++) {
      const row = this.row(left[this.rowsShown] ?? '', right[this.rowsShown] ?? '');
      this.write(`${this.live ? '\r' : ''}${row}\n`);
    }
  }

  private row(left: string, right: string): string {
    return `${left.slice(0, this.width).padEnd(this.width)} │ ${right.slice(0, this.width).padEnd(this.width)}`;
  }
}

/** Lines of at most `width` characters, broken at spaces where there are any. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split('\n')) {
    let line = '';
    for (const word of paragraph.split(/(?<= )/)) {
      if (line.length + word.trimEnd().length > width && line !== '') {
        lines.push(line.trimEnd());
        line = '';
      }
      line += word;
      while (line.length > width && line.trimEnd().length > width) {
        lines.push(line.slice(0, width));
        line = line.slice(width);
      }
    }
    lines.push(line);
  }
  return lines;
}
