// Every path that package.json exports or installs exists after a build, and loads.
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const { exports, bin } = JSON.parse(readFileSync(`${root}package.json`, 'utf8'));
const targets = [
  ...Object.values(exports).flatMap((row) => Object.values(row)),
  ...Object.values(bin),
];
const missing = targets.filter((path) => !existsSync(root + path));
if (missing.length > 0) {
  console.error(`exports: ${missing.join(', ')} not there. Run npm run build first.`);
  process.exit(1);
}
const library = await import(pathToFileURL(root + exports['.'].default).href);
for (const name of ['loadModel', 'generate', 'Session', 'KvError']) {
  if (!(name in library)) {
    console.error(`exports: the package does not export ${name}.`);
    process.exit(1);
  }
}
