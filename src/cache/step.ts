import { ensure } from '../errors/errors.ts';

/** @throws KvError "usage" unless a step of n positions can begin. @param pending positions of the step under way */
export function expectBegin(disposed: boolean, pending: number, n: number): void {
  ensure(!disposed, 'usage', () => 'cache: it was disposed. Create a new one.');
  ensure(pending === 0, 'usage', () => 'cache: a step is under way. Commit it or roll back.');
  ensure(
    Number.isInteger(n) && n > 0,
    'usage',
    () => `cache: a step of ${n} positions; it must be a whole number above 0.`,
  );
}
