import type { Skill } from './skill.ts';

export interface SkillRow {
  readonly load: () => Promise<Skill>;
  /** share of the training exercises, relative to the others */
  readonly weight: number;
}

/** Every skill. To add one: one file that exports `skill`, one row. */
export const skills: Readonly<Record<string, SkillRow>> = {
  passkey: { load: async () => (await import('./passkey.ts')).skill, weight: 2 },
  needle: { load: async () => (await import('./needle.ts')).skill, weight: 3 },
  'kv-recall': { load: async () => (await import('./kv-recall.ts')).skill, weight: 3 },
  'var-track': { load: async () => (await import('./var-track.ts')).skill, weight: 2 },
  copy: { load: async () => (await import('./copy.ts')).skill, weight: 2 },
  'tiny-gsm': { load: async () => (await import('./tiny-gsm.ts')).skill, weight: 8 },
  'tiny-mmlu': { load: async () => (await import('./tiny-mmlu.ts')).skill, weight: 10 },
  'tiny-world': { load: async () => (await import('./tiny-world.ts')).skill, weight: 8 },
  'tiny-humaneval': { load: async () => (await import('./tiny-humaneval.ts')).skill, weight: 3 },
  chat: { load: async () => (await import('./chat.ts')).skill, weight: 1 },
};
