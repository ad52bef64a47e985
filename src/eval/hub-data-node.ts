/** A file of a data set from the Hugging Face hub, kept nowhere: data sets that tasks read are small. */
import { ensure } from '../errors/errors.ts';
import { isSafePath } from '../model/hub-cache-node.ts';
import { HubClient, maxRetries, type RequestOptions } from '../model/hub-request-node.ts';

/**
 * @param spec `hf:owner/repo/path[@revision]`, path being that of one file of a data set repository
 * @param maxBytes of the file
 * @returns the file's path in the repository, and what is in it
 * @throws KvError "usage" if there is no such file, "io" if the hub refuses or cannot be reached, or
 *   "format" if the file is too large
 */
export async function downloadData(
  spec: string,
  maxBytes: number,
  options: RequestOptions = {},
): Promise<{ path: string; bytes: Uint8Array }> {
  const [, owner, repo, path, revision = 'main'] =
    /^hf:([\w.-]+)\/([\w.-]+)\/([^@]+)(?:@(.+))?$/.exec(spec) ?? [];
  ensure(
    [owner, repo, path, revision].every((part) => part !== undefined && isSafePath(part)),
    'usage',
    () =>
      `data: ${JSON.stringify(spec)} names no file on the hub. Write hf:owner/repo/file.jsonl, or hf:owner/repo/file.jsonl@revision.`,
  );
  const client = new HubClient(`datasets/${owner}/${repo}`, revision, options);
  const encoded = [revision, ...path.split('/')].map(encodeURIComponent).join('/');
  const url = `${client.endpoint}/${client.name}/resolve/${encoded}`;
  const response = await client.fetcher(maxRetries)(url);
  if (!response.ok || !response.body) {
    await response.body?.cancel();
    throw client.refusal(response.status, path);
  }
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
    sizeBytes += chunk.length;
    ensure(
      sizeBytes <= maxBytes,
      'format',
      () => `data: ${spec} has more than ${maxBytes} bytes. Name a smaller file.`,
    );
    chunks.push(chunk);
  }
  return { path, bytes: Buffer.concat(chunks) };
}
