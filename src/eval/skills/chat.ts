/** Short dialogues in ChatML: small talk, the closed world, sums, and what the user said before. */
import { phrases } from './people-and-things.ts';
import { answer, checkSetting, text } from './pieces.ts';
import type { Draw, Exercise, Piece, Settings, Skill } from './skill.ts';
import { topics } from './world.ts';

/** What the user says and what the assistant replies; the reply follows from the dialogue alone. */
interface Turn {
  readonly user: string;
  readonly assistant: string;
}

/** Something that a user can tell about himself and ask for later. */
interface Memory {
  value(draw: Draw): string;
  readonly tellings: readonly ((value: string) => string)[];
  told(value: string): string;
  readonly questions: readonly string[];
  recalled(value: string): string;
}

const memories: readonly Memory[] = [
  {
    value: phrases.fullName,
    tellings: [(v) => `My name is ${v}.`, (v) => `I am ${v}.`, (v) => `Hello, I am ${v}.`],
    told: (v) => `Nice to meet you, ${v}.`,
    questions: ['What is my name?', 'Who am I?', 'Do you know my name?'],
    recalled: (v) => `Your name is ${v}.`,
  },
  {
    value: phrases.address,
    tellings: [(v) => `I live at ${v}.`, (v) => `My house is at ${v}.`],
    told: () => 'That sounds like a good place to live.',
    questions: ['Where do I live?', 'Where is my house?'],
    recalled: (v) => `You live at ${v}.`,
  },
  {
    value: phrases.animal,
    tellings: [(v) => `I keep ${v}.`, (v) => `I have ${v} at home.`],
    told: () => 'Animals are good company.',
    questions: ['What animal do I keep?', 'What animal do I have at home?'],
    recalled: (v) => `You keep ${v}.`,
  },
  {
    value: phrases.meal,
    tellings: [(v) => `I like to eat ${v}.`, (v) => `My favourite meal is ${v}.`],
    told: () => 'That is a good meal.',
    questions: ['What do I like to eat?', 'What is my favourite meal?'],
    recalled: (v) => `You like to eat ${v}.`,
  },
  {
    value: phrases.journey,
    tellings: [(v) => `I will go ${v}.`, (v) => `I am going ${v}.`],
    told: () => 'I wish you a good journey.',
    questions: ['Where and when will I go?', 'Where am I going, and when?'],
    recalled: (v) => `You will go ${v}.`,
  },
  {
    value: phrases.birth,
    tellings: [(v) => `I was born ${v}.`, (v) => `My life began ${v}.`],
    told: () => 'Thank you for telling me.',
    questions: ['When was I born?', 'When did my life begin?'],
    recalled: (v) => `You were born ${v}.`,
  },
  {
    value: phrases.twoPeople,
    tellings: [(v) => `My friends are ${v}.`, (v) => `I have two friends, ${v}.`],
    told: () => 'It is good to have friends.',
    questions: ['Who are my friends?', 'What are the names of my friends?'],
    recalled: (v) => `Your friends are ${v}.`,
  },
];

/** Turns without values: nothing in them could be held out. */
const smallTalk: readonly Turn[] = [
  ...['Hello!', 'Hello.', 'Hi!', 'Hi there.', 'Good morning!', 'Good day.'].map((user) => ({
    user,
    assistant: 'Hello! How can I help you?',
  })),
  ...['Thank you!', 'Thank you.', 'Thanks!', 'Thank you very much.'].map((user) => ({
    user,
    assistant: 'You are welcome!',
  })),
  ...['How are you?', 'Are you well?', 'How do you do?'].map((user) => ({
    user,
    assistant: 'I am well, thank you. How can I help you?',
  })),
  ...['Who are you?', 'What are you?', 'What is your name?'].map((user) => ({
    user,
    assistant: 'I am a small language model made for h1b-kv.',
  })),
  ...['What can you do?', 'How can you help me?'].map((user) => ({
    user,
    assistant: 'I can remember what you tell me, add small numbers and answer simple questions.',
  })),
  ...['Goodbye!', 'Good night.', 'See you soon.'].map((user) => ({
    user,
    assistant: 'Goodbye!',
  })),
];

/** A question of the closed world with the answer in a sentence. */
function worldTurn(draw: Draw): Turn {
  const topic = draw.pick(topics);
  const [subject, value] = draw.pick(topic.facts);
  return {
    user: draw.pick(topic.questions)(subject),
    assistant: `${topic.statements[0](subject)} ${value}.`,
  };
}

function sumTurn(draw: Draw): Turn {
  const [a, b] = [draw.int(2, 20), draw.int(2, 12)];
  const sum = draw.pick([
    `${a} plus ${b} is ${a + b}`,
    `${a + b} minus ${b} is ${a}`,
    `${a} times ${b} is ${a * b}`,
  ]);
  const [asked] = sum.split(' is ');
  return {
    user: draw.pick([`What is ${asked}?`, `How much is ${asked}?`, `Tell me ${asked}.`]),
    assistant: `${sum}.`,
  };
}

/** A turn that tells nothing to remember. */
function otherTurn(draw: Draw): Turn {
  const kind = draw.int(0, 2);
  if (kind === 0) return draw.pick(smallTalk);
  return draw.fresh(
    () => (kind === 1 ? worldTurn(draw) : sumTurn(draw)),
    ({ user }) => `chat ${user}`,
  );
}

function make(draw: Draw, chosen: Settings): Exercise {
  const { turns, told, asked } = { ...settings, ...chosen };
  checkSetting('chat', 'told', told, 0, memories.length);
  checkSetting('chat', 'asked', asked, 0, told);
  checkSetting('chat', 'turns', turns, Math.max(1, told + asked), 1000);
  const known = draw.sample(memories, told).map((memory) => {
    const value = draw.fresh(
      () => memory.value(draw),
      (one) => `chat ${memory.recalled(one)}`,
    );
    return { memory, value };
  });
  const telling = known.map(({ memory, value }) => ({
    user: draw.pick(memory.tellings)(value),
    assistant: memory.told(value),
  }));
  const others = Array.from({ length: turns - told - asked }, () => otherTurn(draw));
  const asking = draw.sample(known, asked).map(({ memory, value }) => ({
    user: draw.pick(memory.questions),
    assistant: memory.recalled(value),
  }));
  const dialogue = [...draw.shuffle([...telling, ...others]), ...asking];
  const pieces = dialogue.flatMap(({ user, assistant }): Piece[] => [
    text(`<|im_start|>user\n${user}<|im_end|>\n<|im_start|>assistant\n`),
    answer(`${assistant}<|im_end|>\n`),
  ]);
  // The kinds of values have 210 members or more, most of them over 500.
  return { pieces, judge: { kind: 'exact', stop: '<|im_end|>' }, chance: asked > 0 ? 0.002 : 0 };
}

/**
 * - `turns` of the dialogue, each a message and a reply
 * - `told`: in so many turns the user tells something about himself
 * - `asked`: in so many turns at the end the user asks for what he told
 */
const settings = { turns: 4, told: 2, asked: 1 };

export const skill: Skill = {
  summary: 'short dialogues in ChatML that ask for what the user told before',
  settings,
  vary: (draw) => {
    const told = draw.int(0, 3);
    const asked = draw.int(0, Math.min(told, 2));
    return { turns: Math.max(1, told + asked, draw.int(1, 5)), told, asked };
  },
  make,
};
