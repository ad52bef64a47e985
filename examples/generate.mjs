import { loadModel, Session } from 'h1b-kv';

const model = await loadModel('models/books-skills-5m-q8_0.gguf');
const session = await Session.create(model, { cache: 'bitplane' });
session.append('The ship had been three days at sea when');
for await (const { text } of session.generate({ maxTokens: 40 })) process.stdout.write(text);
console.log(`\n\n${session.cache.length} positions in ${session.bytes().total} bytes`);
session.dispose();
model.dispose();
