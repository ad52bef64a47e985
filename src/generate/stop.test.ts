import fc from 'fast-check';
import { expect, test } from 'vitest';
import { StopMatcher } from './stop.ts';

/** What is shown of a text that comes in pieces, and whether it was stopped. */
function show(pieces: readonly string[], stops: readonly string[]) {
  const matcher = new StopMatcher(stops);
  let shown = '';
  for (const piece of pieces) {
    const { text, stopped } = matcher.push(piece);
    shown += text;
    if (stopped) return { shown, stopped };
  }
  return { shown: shown + matcher.end(), stopped: false };
}

test('a stop string inside a piece, across pieces, at either end', () => {
  expect(show(['one STOP two'], ['STOP'])).toEqual({ shown: 'one ', stopped: true });
  expect(show(['one S', 'TO', 'P two'], ['STOP'])).toEqual({ shown: 'one ', stopped: true });
  expect(show(['STOP'], ['STOP'])).toEqual({ shown: '', stopped: true });
  expect(show(['a', 'b', 'c'], ['c'])).toEqual({ shown: 'ab', stopped: true });
});

test('what only begins a stop string is held back, then shown', () => {
  const matcher = new StopMatcher(['\n\n']);
  expect(matcher.push('line\n')).toEqual({ text: 'line', stopped: false });
  expect(matcher.push('next')).toEqual({ text: '\nnext', stopped: false });
  expect(matcher.push('\n')).toEqual({ text: '', stopped: false });
  expect(matcher.end()).toBe('\n');
  expect(matcher.end()).toBe('');
});

test('a match that begins inside a failed one is found', () => {
  expect(show(['a', 'a', 'a', 'b'], ['aab'])).toEqual({ shown: 'a', stopped: true });
});

test('the earliest of several wins; empty ones are ignored', () => {
  expect(show(['x END y STOP'], ['', 'STOP', 'END'])).toEqual({ shown: 'x ', stopped: true });
  expect(show(['abc'], [''])).toEqual({ shown: 'abc', stopped: false });
});

test('shows what comes before the first match, however the text is cut', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 3 });
  fc.assert(
    fc.property(fc.array(letters, { maxLength: 12 }), letters, (pieces, stop) => {
      const text = pieces.join('');
      const at = stop === '' ? -1 : text.indexOf(stop);
      expect(show(pieces, [stop])).toEqual(
        at < 0 ? { shown: text, stopped: false } : { shown: text.slice(0, at), stopped: true },
      );
    }),
    { numRuns: 300, seed: 1 },
  );
});
