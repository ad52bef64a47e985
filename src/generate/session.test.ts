import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Model } from '../model/model.ts';
import { forgeModel } from '../../test/forged.ts';
import { Session } from './session.ts';

let model: Model;
beforeAll(async () => {
  model = await forgeModel();
});
afterAll(() => model.dispose());

async function run(session: Session, maxTokens: number): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of session.generate({ maxTokens })) ids.push(id);
  return ids;
}

/** A session that was given these tokens and nothing else. */
async function fresh(tokens: readonly number[], cache: string): Promise<Session> {
  const session = await Session.create(model, { cache });
  session.tokens.push(...tokens);
  return session;
}

describe.each(['f16', 'h1b:b=64'])('session with %s', (cache) => {
  test.each([0, 1, 30, 150])('truncated to %i and continued equals a fresh one', async (length) => {
    const session = await Session.create(model, { cache });
    session.append('the man on the hill '.repeat(12));
    await run(session, 10);
    session.truncate(length);
    expect(session.tokens.length).toBe(length);
    session.append('saw it');
    const twin = await fresh(session.tokens, cache);
    expect(await run(session, 12)).toEqual(await run(twin, 12));
    expect(session.tokens).toEqual(twin.tokens);
    expect(session.bytes().total).toBe(twin.bytes().total);
    for (const held of [session, twin]) held.dispose();
  });

  test('truncated without anything appended it says the same again', async () => {
    const session = await Session.create(model, { cache });
    session.append('the man on the hill');
    const length = session.tokens.length;
    const first = await run(session, 8);
    session.truncate(length);
    expect(await run(session, 8)).toEqual(first);
    session.dispose();
  });

  test('a fork and its origin each equal a fresh session', async () => {
    const origin = await Session.create(model, { cache });
    origin.append('the man on the hill '.repeat(9));
    await run(origin, 5);
    const fork = origin.fork();
    origin.append('went left');
    fork.append('went right');
    const twins = [await fresh(origin.tokens, cache), await fresh(fork.tokens, cache)];
    expect(await run(origin, 9)).toEqual(await run(twins[0], 9));
    origin.dispose();
    expect(await run(fork, 9)).toEqual(await run(twins[1], 9));
    for (const held of [fork, ...twins]) held.dispose();
  });
});

test('sessions of one model do not disturb each other', async () => {
  const [left, right, twin] = await Promise.all([
    Session.create(model, { cache: 'f16' }),
    Session.create(model, { cache: 'h1b:b=64' }),
    Session.create(model, { cache: 'f16' }),
  ]);
  for (const session of [left, twin]) session.append('the man on the hill');
  right.append('another story');
  const [together] = await Promise.all([run(left, 10), run(right, 10)]);
  expect(together).toEqual(await run(twin, 10));
  for (const held of [left, right, twin]) held.dispose();
});

test.each([-1, 1.5, NaN])('truncating to %s is refused and changes nothing', async (length) => {
  const session = await Session.create(model, { cache: 'f16' });
  session.append('the man');
  const before = [...session.tokens];
  const truncate = () => session.truncate(length);
  expect(truncate).toThrow(expect.objectContaining({ code: 'usage' }));
  expect(session.tokens).toEqual(before);
  session.dispose();
});

test('dispose gives back the memory of the cache', async () => {
  const before = model.kernels.allocatedBytes;
  const session = await Session.create(model, { cache: 'h1b' });
  session.append('the man');
  await run(session, 2);
  const fork = session.fork();
  session.dispose();
  fork.dispose();
  // The model keeps its scratch, which the first run may have made.
  const scratch = model.kernels.allocatedBytes - before;
  const again = await Session.create(model, { cache: 'h1b' });
  again.append('the man');
  await run(again, 2);
  again.dispose();
  expect(model.kernels.allocatedBytes - before).toBe(scratch);
});
