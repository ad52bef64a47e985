/** Which files of a repository make a model. */
import { ensure, KvError } from '../errors/errors.ts';

export interface HubFile {
  /** path inside the repository, with `/` */
  readonly path: string;
  readonly sizeBytes: number;
}

export interface ModelFiles {
  readonly kind: 'gguf' | 'safetensors';
  /** the model file, or the index that names the safetensors files */
  readonly weights: string;
  /** what belongs beside them */
  readonly companions: readonly string[];
}

const shardIndex = 'model.safetensors.index.json';
/** What a safetensors model has beside its weights; whichever exist are taken. */
const companionNames = [
  'chat_template.jinja',
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
];

/**
 * @param repository its name, for messages
 * @param file the one that was asked for, if any
 * @param choose picks one of several GGUF files
 * @throws KvError "usage" if the file does not exist or there are several and none was picked,
 *   "unsupported" if there is no model
 */
export async function selectFiles(
  repository: string,
  files: readonly HubFile[],
  file: string | undefined,
  choose: ((files: readonly HubFile[]) => string | Promise<string>) | undefined,
): Promise<ModelFiles> {
  const paths = files.map(({ path }) => path);
  const ggufs = files.filter(({ path }) => path.endsWith('.gguf'));
  if (file !== undefined) requireFile(repository, file, files);
  if (file?.endsWith('.gguf') || (file === undefined && ggufs.length > 0)) {
    const weights = file ?? (await chooseGguf(repository, ggufs, choose));
    return { kind: 'gguf', weights, companions: [] };
  }
  const weights = file ?? ['model.safetensors', shardIndex].find((path) => paths.includes(path));
  ensure(
    weights !== undefined && /\.safetensors(\.index\.json)?$/.test(weights),
    'unsupported',
    () =>
      `hub: ${repository} has ${file ?? `${files.length} files`}; a model is a .gguf file, model.safetensors or ${shardIndex}. Look for a GGUF version of it.`,
  );
  const companions = companionNames.filter((path) => paths.includes(path));
  return { kind: 'safetensors', weights, companions };
}

/** @throws KvError "usage", with the files of a like name */
export function requireFile(repository: string, file: string, files: readonly HubFile[]): void {
  const paths = files.map(({ path }) => path);
  ensure(paths.includes(file), 'usage', () => {
    const models = paths.filter((path) => /\.(gguf|safetensors)$/.test(path));
    const near = nearest(file, models).join(', ');
    const hint = near ? `The nearest: ${near}.` : 'It holds no model files.';
    return `hub: ${repository} has no file ${JSON.stringify(file)}. ${hint}`;
  });
}

async function chooseGguf(
  repository: string,
  files: readonly HubFile[],
  choose: Parameters<typeof selectFiles>[3],
): Promise<string> {
  if (files.length === 1) return files[0].path;
  const chosen = await choose?.(files);
  if (chosen !== undefined && files.some(({ path }) => path === chosen)) return chosen;
  const list = files.map(({ path, sizeBytes }) => `  ${(sizeBytes / 1e6).toFixed(1)} MB  ${path}`);
  throw new KvError(
    'usage',
    `hub: ${repository} has ${files.length} GGUF files:\n${list.join('\n')}\n` +
      `Name one of them, such as hf:${repository}/${files[0].path}`,
  );
}

/**
 * The files that a shard index names, sorted.
 * @param text of the index
 * @throws KvError "format", or SyntaxError, if it is none
 */
export function shardNames(text: string): string[] {
  const index = JSON.parse(text) as { weight_map: object };
  const names = new Set<unknown>(Object.values(index.weight_map));
  const shards = [...names].filter((name) => typeof name === 'string');
  ensure(names.size > 0 && shards.length === names.size, 'format', () => 'no names of files');
  return shards.sort();
}

/** The three names with the fewest changes of letters from `name`. */
export function nearest(name: string, names: readonly string[]): string[] {
  const ranked = names.map((other) => ({ other, distance: editDistance(name, other) }));
  return ranked
    .sort((a, b) => a.distance - b.distance)
    .slice(0, 3)
    .map(({ other }) => other);
}

/** Letters to insert, delete or replace (Levenshtein 1966), whatever their case. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const differs = a[i - 1].toLowerCase() === b[j - 1].toLowerCase() ? 0 : 1;
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + differs));
    }
    row = next;
  }
  return row[b.length];
}
