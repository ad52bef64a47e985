/** Accuracy on exercises of one skill, with each cache on the same exercises. */
import { ensure } from '../errors/errors.ts';
import { Random } from '../math/random.ts';
import { answersRight, maxAnswerTokens, type Question } from './judge.ts';
import { Prose } from './prose.ts';
import { exercise, type Exercise, type Settings, type Skill } from './skills/skill.ts';
import type { EvalResult, Task, TaskContext } from './task.ts';

const defaultLimit = 100;
const defaultLength = 1024;

/** Exercises of one length of prompt and one depth. */
interface Row {
  readonly settings: Settings;
  readonly length: number | undefined;
  readonly depth: number | undefined;
}

interface MethodAnswer {
  readonly spec: string;
  readonly right: boolean;
  /** positions and bytes of the cache in the end */
  readonly positions: number;
  readonly bytes: number;
  readonly seconds: number;
}

interface Answers {
  readonly chance: number;
  readonly judge: string;
  readonly methods: Readonly<Record<string, MethodAnswer>>;
}

export async function prepareExercises(
  name: string,
  skill: Skill,
  context: TaskContext,
): Promise<Task<Answers>> {
  const { model, settings, texts, shuffled } = context;
  const limit = settings.limit ?? defaultLimit;
  const rows = rowsOf(name, skill, context);
  const prose = new Prose(model.tokenizer, texts, shuffled);
  return {
    units: rows.length * limit,
    heeds: [
      ...Object.keys(skill.settings).map((key) => `set.${key}`),
      ...(rows[0].length === undefined ? [] : ['lengths']),
      ...(Object.hasOwn(skill.settings, 'depth') ? ['depths'] : []),
    ],
    async run(index) {
      const row = rows[Math.floor(index / limit)];
      const number = index % limit;
      const asked = exercise(skill, 'held-out', settings.seed, number, row.settings);
      const random = new Random(Math.imul(settings.seed, 0x9e3779b1) ^ number);
      return answer(context, asked, questionOf(context, asked, row.length, prose, random));
    },
    summarize: (units) =>
      rows.flatMap((row, i) => {
        const own = units.slice(i * limit, (i + 1) * limit);
        return settings.methods.map((method) => resultOf(name, method, row, own));
      }),
  };
}

/** One row for each length and depth that the skill can have. @throws KvError "range" */
function rowsOf(name: string, skill: Skill, { model, settings }: TaskContext): Row[] {
  const given = Object.entries(settings.set).filter(([key]) => Object.hasOwn(skill.settings, key));
  const own: Settings = { ...skill.settings, ...Object.fromEntries(given) };
  const first = exercise(skill, 'held-out', settings.seed, 0, own);
  const { judge, pieces } = first;
  const longest =
    model.contextLength - maxAnswerTokens(model, { judge, answer: lastAnswer(first).text });
  const lengths = pieces.some(({ kind }) => kind === 'filler')
    ? (settings.lengths ?? [Math.min(defaultLength, longest)])
    : [undefined];
  for (const length of lengths) {
    ensure(
      length === undefined || length <= longest,
      'range',
      () =>
        `eval: ${name} with prompts of ${length} tokens; "${model.name}" has room for ${longest} and the answer. Give a smaller --length.`,
    );
  }
  const depths = Object.hasOwn(own, 'depth') ? (settings.depths ?? [undefined]) : [undefined];
  return lengths.flatMap((length) =>
    depths.map((depth) => {
      return { length, depth, settings: depth === undefined ? own : { ...own, depth } };
    }),
  );
}

function lastAnswer({ pieces }: Pick<Exercise, 'pieces'>) {
  const found = pieces.findLast((piece) => piece.kind === 'answer');
  ensure(found !== undefined, 'shape', () => 'eval: an exercise has no answer.');
  return found;
}

/** The exercise with its fillers written out. @param length tokens of the prompt, if it has any */
function questionOf(
  { model }: TaskContext,
  { pieces, judge }: Exercise,
  length: number | undefined,
  prose: Prose,
  random: Random,
): Question {
  const final = lastAnswer({ pieces });
  const before = pieces.slice(0, pieces.lastIndexOf(final));
  const texts = before.map((piece) => (piece.kind === 'filler' ? '' : piece.text));
  const code = texts.join('');
  const shares = before.map((piece) => (piece.kind === 'filler' ? piece.share : 0));
  const taken = model.tokenizer.encode(code, { parseSpecial: true }).length;
  const fillers = length === undefined ? texts : prose.fill(random, length - taken, shares);
  const prompt = texts.map((text, i) => text || fillers[i]).join('');
  if (length !== undefined) expectLength(model.tokenizer.encode(prompt).length, length);
  return { prompt, code, answer: final.text, judge };
}

/** @throws KvError "usage" where the prose gives no prompt of about this length: the row would be named wrongly */
function expectLength(tokens: number, length: number): void {
  ensure(
    Math.abs(tokens - length) <= Math.max(64, length / 5),
    'usage',
    () =>
      `eval: a prompt for --length ${length} has ${tokens} tokens; the paragraphs of the text are too long for it, or the exercise itself is. Give another --length, or a --text of shorter paragraphs.`,
  );
}

async function answer(
  { model, settings, runPython }: TaskContext,
  { chance, judge }: Exercise,
  question: Question,
): Promise<Answers> {
  const methods: Record<string, MethodAnswer> = {};
  for (const method of settings.methods) {
    const cache = await model.createCache(method);
    try {
      const began = performance.now();
      const right = await answersRight(model, cache, question, runPython);
      methods[method] = {
        spec: cache.spec,
        right,
        positions: cache.length,
        bytes: cache.bytes().total,
        seconds: (performance.now() - began) / 1000,
      };
    } finally {
      cache.dispose();
    }
  }
  return { chance, judge: judge.kind, methods };
}

function resultOf(task: string, method: string, row: Row, units: readonly Answers[]): EvalResult {
  const answers = units.map(({ methods }) => methods[method]);
  const items = answers.length;
  const total = (pick: (answer: MethodAnswer) => number) =>
    answers.reduce((sum, each) => sum + pick(each), 0);
  const accuracy = total(({ right }) => Number(right)) / items;
  const tokens = total(({ positions }) => positions);
  return {
    task,
    method,
    spec: answers[0].spec,
    ...(row.length !== undefined && { length: row.length }),
    ...(row.depth !== undefined && { depth: row.depth }),
    items,
    tokens,
    accuracy,
    accuracyStderr: Math.sqrt((accuracy * (1 - accuracy)) / items),
    ...(units[0].judge === 'python' && { passAt1: accuracy }),
    chance: units.reduce((sum, { chance }) => sum + chance, 0) / items,
    bytesPerToken: total(({ bytes }) => bytes) / tokens,
    seconds: total(({ seconds }) => seconds),
  };
}
