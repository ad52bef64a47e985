/** Requests to the hub about one repository, and what its refusals mean. */
import { setTimeout as pause } from 'node:timers/promises';
import { ensure, KvError } from '../errors/errors.ts';
import { reason } from './hub-cache-node.ts';

export interface RequestOptions {
  /** default: `$HF_ENDPOINT` or `https://huggingface.co` */
  readonly endpoint?: string;
  /** default: `$HF_TOKEN`; it is sent to the endpoint only, never where that redirects to */
  readonly token?: string;
  readonly signal?: AbortSignal;
  readonly fetch?: typeof fetch;
  /** First wait before trying again; it doubles every time. Default 500. */
  readonly retryDelayMs?: number;
}

/** Attempts after the first. */
export const maxRetries = 4;
/** A hub that asks for a longer wait gets an error instead. */
const maxWaitMs = 60_000;

/** The hub gave no answer; the cache may still have one. */
export class HubUnavailable extends KvError {}

export class HubClient {
  /** `owner/repo` */
  readonly name: string;
  readonly revision: string;
  /** without a slash at its end */
  readonly endpoint: string;
  private readonly token: string | undefined;
  private readonly options: RequestOptions;

  /** @throws KvError "usage" if the endpoint is no URL */
  constructor(name: string, revision: string, options: RequestOptions) {
    const endpoint = options.endpoint ?? process.env.HF_ENDPOINT ?? 'https://huggingface.co';
    ensure(
      URL.canParse(endpoint) && /^https?:/.test(endpoint),
      'usage',
      () => `hub: the endpoint is "${endpoint}"; it must be a URL such as https://huggingface.co.`,
    );
    this.name = name;
    this.revision = revision;
    this.endpoint = endpoint.replace(/\/+$/, '');
    this.token = options.token ?? process.env.HF_TOKEN;
    this.options = options;
  }

  /**
   * A `fetch` with the token, which tries again when the hub is busy or the network fails.
   * It throws KvError "io" when it has tried enough, and "aborted".
   */
  fetcher(retries: number): typeof fetch {
    const { fetch: fetchOnce = fetch, signal } = this.options;
    return async (input, init) => {
      const url = new URL(input instanceof Request ? input.url : input);
      const headers = new Headers(init?.headers);
      if (this.token && url.origin === new URL(this.endpoint).origin) {
        headers.set('authorization', `Bearer ${this.token}`);
      }
      for (let attempt = 1; ; attempt++) {
        this.throwIfAborted();
        let waitMs = this.backoffMs(attempt);
        let problem: string;
        let cause: unknown;
        try {
          const response = await fetchOnce(url, { ...init, headers, ...(signal && { signal }) });
          if (response.status !== 429 && response.status < 500) return response;
          await response.body?.cancel();
          problem = `answers ${response.status}`;
          const asked = response.status === 429 && response.headers.get('retry-after');
          if (asked) {
            waitMs = retryAfterMs(asked) ?? waitMs;
            problem += `, retry after ${asked}${/\D/.test(asked) ? '' : ' s'}`;
          }
        } catch (error) {
          this.throwIfAborted();
          cause = error;
          const inner = error instanceof Error && error.cause ? error.cause : error;
          problem = `cannot be reached (${reason(inner)})`;
        }
        if (attempt > retries || waitMs > maxWaitMs) {
          throw new HubUnavailable(
            'io',
            `hub: ${this.endpoint} ${problem} (attempts: ${attempt}). Try again later.`,
            { cause },
          );
        }
        await this.wait(waitMs);
      }
    };
  }

  /** What to tell the user about a status that is no success. */
  refusal(status: number, file?: string, hint = ''): KvError {
    const { name, revision, endpoint } = this;
    const what = `${name}${file === undefined ? '' : `/${file}`} at revision "${revision}"`;
    if (status === 401 || status === 403) {
      const next = this.token
        ? `the token has no access to it. Accept the model's terms at ${endpoint}/${name}, or use another token.`
        : `it is private, gated, or does not exist. Check the name; for a gated model accept its terms at ${endpoint}/${name} and set HF_TOKEN.`;
      return new KvError('io', `hub: ${what} is refused (${status}): ${next}${hint}`);
    }
    return status === 404
      ? new KvError('usage', `hub: there is no ${what}. Check owner, name and revision.${hint}`)
      : new KvError('io', `hub: ${what} is answered with ${status}. Try again later.`);
  }

  /** @param attempt counted from 1 */
  backoffMs(attempt: number): number {
    return (this.options.retryDelayMs ?? 500) * 2 ** (attempt - 1);
  }

  async wait(ms: number): Promise<void> {
    const { signal } = this.options;
    await pause(ms, undefined, signal && { signal }).catch(() => this.throwIfAborted());
  }

  throwIfAborted(): void {
    const { signal } = this.options;
    if (!signal?.aborted) return;
    throw new KvError('aborted', 'hub: the signal was aborted. Run it again to go on.', {
      cause: signal.reason,
    });
  }
}

/** @param header seconds, or a date; undefined if it is neither */
function retryAfterMs(header: string): number | undefined {
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}
