import { ensure } from '../errors/errors.ts';

/**
 * @param name of the file, and where messages begin
 * @throws KvError "unsupported" if it is a Parquet file, which begins with PAR1 and is often what the hub has
 */
export function refuseParquet(name: string, bytes: Uint8Array): void {
  const isParquet = String.fromCharCode(...bytes.subarray(0, 4)) === 'PAR1';
  ensure(
    !isParquet,
    'unsupported',
    () =>
      `data: ${name} is Parquet; JSON lines, CSV and plain text are read. Convert it: python3 -c "import pandas; pandas.read_parquet('FILE').to_json('FILE.jsonl', orient='records', lines=True)"`,
  );
}
