/** Where and how a report was made. */
export interface ReportProvenance {
  readonly model: string;
  readonly hash: string;
  readonly command: string;
  readonly version: string;
  /** of the source, if it is there with its history */
  readonly commit?: string;
  readonly machine: string;
  readonly backend: string;
  readonly threads: number;
  readonly texts: readonly string[];
}

export function factsOf(provenance: ReportProvenance): [name: string, value: string][] {
  const { model, hash, command, version, commit, machine, backend, threads, texts } = provenance;
  return [
    ['command', command],
    ['model', `${model}, hash ${hash.slice(0, 12)}`],
    ['texts', texts.join(', ')],
    ['version', `h1b-kv ${version}${commit === undefined ? '' : `, commit ${commit}`}`],
    ['machine', `${machine}; ${backend}, threads: ${threads}`],
  ];
}
