import type { CacheState } from '../cache/cache.ts';
import { KvError } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import type { ChatTurn } from './chat-turn.ts';
import { adapterHash } from './session-digest.ts';

/** A session, whole: what `Session.save` gives and a session file holds. */
export interface SessionState {
  readonly model: { readonly name: string; readonly hash: string };
  /** SHA-256 of the adapter that the model had, in hex; undefined if it had none */
  readonly adapter: string | undefined;
  /** spec of the cache, in full form */
  readonly spec: string;
  /** version of this package that saved it, for people */
  readonly engine: string;
  /** everything said so far */
  readonly tokens: Int32Array;
  /** holds a prefix of the tokens */
  readonly cache: CacheState;
  /** the conversation that the tokens come from, where they come from one */
  readonly messages?: readonly ChatTurn[];
}

/**
 * @throws KvError "format" if the state was saved with another model or adapter, or if its tokens are
 *   none of this model's
 */
export async function expectModel(state: SessionState, model: Model): Promise<void> {
  const { name, hash } = state.model;
  if (hash !== model.hash) {
    throw misfit(
      `model "${name}" (${short(hash)})`,
      `model is "${model.name}" (${short(model.hash)})`,
      `Load "${name}"`,
    );
  }
  const adapter = await adapterHash(model.adapter);
  if (state.adapter !== adapter) {
    throw misfit(
      state.adapter ? `adapter ${short(state.adapter)}` : 'no adapter',
      `model has ${adapter ? `adapter ${short(adapter)}` : 'none'}`,
      `Put the adapter file beside the model as it was then, or name it (--adapter)`,
    );
  }
  const stray = state.tokens.find((id) => !(id >= 0 && id < model.vocabSize));
  if (stray !== undefined) {
    throw new KvError(
      'format',
      `session: it holds token ${stray}; "${model.name}" has 0 to ${model.vocabSize - 1}. Begin a new session.`,
    );
  }
}

/** The first letters of a hash: enough to tell two apart. */
function short(hash: string): string {
  return hash.slice(0, 12);
}

function misfit(found: string, here: string, next: string): KvError {
  return new KvError(
    'format',
    `session: it was saved with ${found}; this ${here}. ${next}, or begin a new session.`,
  );
}
