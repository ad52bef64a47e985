import type { KvCache } from '../cache/cache.ts';

/** Lets somebody look on: the same cache, which tells of each `append` and `attend` before it does it. */
export function watch(cache: KvCache, watcher: Pick<KvCache, 'append' | 'attend'>): KvCache {
  const [append, attend] = [cache.append.bind(cache), cache.attend.bind(cache)];
  return Object.assign(cache, {
    append: (...args: Parameters<KvCache['append']>) => {
      watcher.append(...args);
      append(...args);
    },
    attend: (...args: Parameters<KvCache['attend']>) => {
      watcher.attend(...args);
      attend(...args);
    },
  });
}
