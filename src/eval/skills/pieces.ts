import { ensure } from '../../errors/errors.ts';
import type { Draw, Piece } from './skill.ts';

export const text = (text: string): Piece => ({ kind: 'text', text });
export const answer = (text: string): Piece => ({ kind: 'answer', text });

/** A text or answer that stands after the share `depth` of all filler, 0 to 1. */
export interface Placed {
  readonly depth: number;
  readonly piece: Piece;
}

/**
 * Pieces in the order of their depths (those of equal depth as given), with filler between and
 * around them; its shares sum to 1.
 */
export function amidFiller(placed: readonly Placed[]): Piece[] {
  const pieces: Piece[] = [];
  let depth = 0;
  for (const next of [...placed].sort((a, b) => a.depth - b.depth)) {
    if (next.depth > depth) pieces.push({ kind: 'filler', share: next.depth - depth });
    pieces.push(next.piece);
    depth = next.depth;
  }
  if (depth < 1) pieces.push({ kind: 'filler', share: 1 - depth });
  return pieces;
}

/**
 * Lines in `blocks` runs of whole lines at random depths amid filler, each with a line break before
 * and after it; `blocks` 0 stands for all lines together and no filler.
 */
export function linesAmidFiller(draw: Draw, lines: readonly string[], blocks: number): Piece[] {
  if (blocks === 0) return [text(`${lines.join('\n')}\n`)];
  const count = Math.min(blocks, lines.length);
  const inner = Array.from({ length: lines.length - 1 }, (_, i) => i + 1);
  const cuts = [0, ...draw.sample(inner, count - 1).sort((a, b) => a - b), lines.length];
  const depths = Array.from({ length: count }, () => draw.uniform()).sort((a, b) => a - b);
  return amidFiller(
    depths.map((depth, i) => ({
      depth,
      piece: text(`\n${lines.slice(cuts[i], cuts[i + 1]).join('\n')}\n`),
    })),
  );
}

/** The same pieces with every run of texts made one, as one tokenizer call would read it. */
export function joinTexts(pieces: readonly Piece[]): Piece[] {
  const joined: Piece[] = [];
  for (const piece of pieces) {
    const last = joined.at(-1);
    if (piece.kind === 'text' && last?.kind === 'text') joined.pop();
    joined.push(
      piece.kind === 'text' && last?.kind === 'text' ? text(last.text + piece.text) : piece,
    );
  }
  return joined;
}

/** A setting that is a whole number from `min` to `max`, or a `range` error that says so. */
export function checkSetting(skill: string, name: string, value: number, min: number, max: number) {
  ensure(
    Number.isInteger(value) && value >= min && value <= max,
    'range',
    () =>
      `${skill}: ${name}=${value}; allowed: whole numbers from ${min} to ${max}. Choose another ${name}.`,
  );
}

/** A setting `depth`: 0 to 1, or -1 for a random one. */
export function placeAt(draw: Draw, skill: string, depth: number): number {
  if (depth === -1) return draw.uniform();
  ensure(
    depth >= 0 && depth <= 1,
    'range',
    () =>
      `${skill}: depth=${depth}; allowed: 0 (start) to 1 (end), or -1 (random). Choose another depth.`,
  );
  return depth;
}
