// Writes exercises as JSON lines, for training the embedded model: the same arguments give the same
// file. Training exercises are of all difficulties, held-out ones as evaluation asks them.
//   node scripts/pretrain/exercises.mjs --count n --seed s --out file.jsonl
//     [--split train|held-out] [--skill a,b]
// A line: {"skill":"needle","pieces":[["text","..."],["filler",0.4],["answer"," 7203"]]}
import { closeSync, mkdtempSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from 'tsdown';

const root = fileURLToPath(new URL('../..', import.meta.url));
const linesPerWrite = 1000;

const { values: given } = parseArgs({
  options: {
    count: { type: 'string' },
    seed: { type: 'string', default: '1' },
    out: { type: 'string' },
    split: { type: 'string', default: 'train' },
    skill: { type: 'string' },
  },
});
const count = Number(given.count);
const seed = Number(given.seed);
if (!Number.isInteger(count) || count < 1) fail(`--count is ${given.count}; give a whole number`);
if (!Number.isInteger(seed)) fail(`--seed is ${given.seed}; give a whole number`);
if (!given.out) fail('--out is missing; give a file');
if (!['train', 'held-out'].includes(given.split)) {
  fail(`--split is ${given.split}; allowed: train held-out`);
}

const folder = mkdtempSync(join(tmpdir(), 'exercises-'));
const temporary = `${given.out}.${process.pid}.tmp`;
process.on('exit', () => {
  for (const path of [folder, temporary]) rmSync(path, { recursive: true, force: true });
});
await write(await loadRows(await bundle()));

/** Node cannot import TypeScript: bundles the skills into a temporary folder. */
async function bundle() {
  const source = `${root}src/eval/skills/`;
  await build({
    cwd: root,
    config: false,
    dts: false,
    fixedExtension: false,
    logLevel: 'error',
    outDir: folder,
    platform: 'node',
    target: 'node20.20',
    entry: {
      registry: `${source}registry.ts`,
      skill: `${source}skill.ts`,
      random: `${root}src/math/random.ts`,
    },
  });
  const load = (name) => import(pathToFileURL(join(folder, `${name}.js`)).href);
  const { skills } = await load('registry');
  const { exercise } = await load('skill');
  const { Random } = await load('random');
  return { skills, exercise, Random };
}

async function loadRows({ skills, exercise, Random }) {
  const names = given.skill?.split(',') ?? Object.keys(skills);
  const rows = [];
  for (const name of names) {
    if (!skills[name]) fail(`--skill ${name} is unknown; known: ${Object.keys(skills).join(' ')}`);
    rows.push({ name, skill: await skills[name].load(), weight: skills[name].weight });
  }
  return { rows, exercise, Random };
}

async function write({ rows, exercise, Random }) {
  const random = new Random(seed);
  const weights = rows.reduce((sum, { weight }) => sum + weight, 0);
  const draw = () => {
    let left = random.uniform() * weights;
    return rows.find(({ weight }) => (left -= weight) < 0) ?? rows[rows.length - 1];
  };
  const file = openSync(temporary, 'w');
  for (let start = 0; start < count; start += linesPerWrite) {
    const lines = [];
    for (let index = start; index < Math.min(start + linesPerWrite, count); index++) {
      const { name, skill } = draw();
      const { pieces } = exercise(skill, given.split, seed, index);
      lines.push(`${JSON.stringify({ skill: name, pieces: pieces.map(pair) })}\n`);
    }
    writeFileSync(file, lines.join(''));
  }
  closeSync(file);
  renameSync(temporary, given.out);
}

function pair(piece) {
  return [piece.kind, piece.kind === 'filler' ? piece.share : piece.text];
}

function fail(message) {
  console.error(`exercises: ${message}`);
  process.exit(2);
}
