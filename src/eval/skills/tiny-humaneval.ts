/** Small Python functions from a docstring, in the format of HumanEval (arXiv:2107.03374). */
import { answer, checkSetting, joinTexts, text } from './pieces.ts';
import { families, python, type PythonTask } from './python-functions.ts';
import type { Draw, Exercise, Piece, Settings, Skill } from './skill.ts';

/** Signature and docstring; the first call is the example. */
function prompt({ name, argument, sentence, calls: [[input, output]] }: PythonTask): string {
  const example = `    >>> ${name}(${python(input)})\n    ${python(output)}\n`;
  return `def ${name}(${argument}):\n    """${sentence}\n${example}    """\n`;
}

function make(draw: Draw, chosen: Settings): Exercise {
  const { functions } = { ...settings, ...chosen };
  checkSetting('tiny-humaneval', 'functions', functions, 1, 1000);
  const pieces: Piece[] = [];
  let tests = '';
  for (let i = 0; i < functions; i++) {
    // The example is no part of the key: another example does not make another task.
    const { name, ...task } = draw.fresh(
      () => draw.pick(families)(draw),
      (one) => `${one.name}(${one.argument}): ${one.sentence}`,
    );
    pieces.push(text(prompt({ name, ...task })), answer(`    return ${task.body}\n\n`));
    tests = task.calls
      .map(([input, output]) => `assert ${name}(${python(input)}) == ${python(output)}\n`)
      .join('');
  }
  return { pieces: joinTexts(pieces), judge: { kind: 'python', stop: '\n\n', tests }, chance: 0 };
}

/** `functions` to write, one after another; the last one is judged */
const settings = { functions: 1 };

export const skill: Skill = {
  summary: 'one-line Python functions from a docstring, in the format of HumanEval',
  settings,
  vary: (draw) => ({ functions: draw.pick([1, 1, 2, 3, 4]) }),
  make,
};
