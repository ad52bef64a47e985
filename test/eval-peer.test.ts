/** Perplexity with f16 caches against llama.cpp's own probabilities of the same tokens. */
import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { Peer, peerMissing } from '../src/bench/peer-node.ts';
import { evaluate } from '../src/eval/evaluate.ts';
import { windowsOf } from '../src/eval/windows.ts';
import { loadModel } from '../src/model/load.ts';
import { embeddedModel, inShared, packageRoot, say, skipBecause } from './forged.ts';

const missing = peerMissing(packageRoot);
if (missing) say(`skipped: test/eval-peer.test.ts: ${missing}`);

const maxRelativeDifference = 1e-3;
const novel = inShared('data/books-eval/bram-stoker_dracula.txt');
/** Activations of 8 bits are noise of either sign, which more tokens average out. */
const windows = 24;
const settings = { methods: ['f16'], context: 256, limit: windows, seed: 1, set: {} };

test.skipIf(missing).for([embeddedModel, inShared('models/stories260K-f32.gguf')])(
  'of %s',
  async (path, { skip }) => {
    if (!existsSync(path)) skipBecause(skip, `perplexity of ${path}`, 'the file is not there');
    if (!existsSync(novel)) skipBecause(skip, `perplexity of ${path}`, 'the text is not there');
    const text = readFileSync(novel, 'utf8');
    const model = await loadModel(path);
    const peer = await Peer.open(packageRoot, path, { kv: 'F16', contextLength: 256, threads: 1 });
    try {
      const texts = [{ name: 'text', text }];
      const [ours] = await evaluate(['perplexity'], { model, texts, shuffled: false, settings });
      expect(ours).toMatchObject({ windows, tokens: windows * 255 });
      let [loss, tokens] = [0, 0];
      for (const { ids, from } of windowsOf(model, texts, settings)) {
        await peer.truncate(0);
        const rows = await peer.logits([...ids], model.vocabSize);
        for (let i = from; i + 1 < ids.length; i++) {
          loss += Math.log(rows[i].reduce((sum, x) => sum + Math.exp(x), 0)) - rows[i][ids[i + 1]];
          tokens++;
        }
      }
      const theirs = Math.exp(loss / tokens);
      const difference = (ours.perplexity ?? 0) / theirs - 1;
      say(
        `perplexity of ${model.name}: ours ${ours.perplexity?.toFixed(4)}, llama.cpp ${theirs.toFixed(4)}, relative difference ${difference.toExponential(1)}`,
      );
      expect(tokens).toBe(ours.tokens);
      expect(Math.abs(difference)).toBeLessThan(maxRelativeDifference);
    } finally {
      await peer.dispose();
      model.dispose();
    }
  },
);
