#!/usr/bin/env python3
"""
Makes a byte-level BPE vocabulary from texts: vocabulary.py --size 4096 --out vocabulary.json text...
Digits are never merged with digits, so that numbers are read digit by digit.
"""

import argparse
import collections
import json
import pathlib

from tokenizer import BYTE_CHARS, split_words

CONTROL = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]


def learn_merges(counts, merge_count):
    """
    counts: {word in the byte alphabet: how often}. Returns up to `merge_count` (left, right), most
    frequent pair first; of equal ones the first in the order of their text.
    """
    words = [[list(word), count] for word, count in counts.items()]
    pairs = collections.Counter()
    where = collections.defaultdict(set)
    for i, (pieces, count) in enumerate(words):
        for pair in zip(pieces, pieces[1:]):
            pairs[pair] += count
            where[pair].add(i)
    merges = []
    while pairs and len(merges) < merge_count:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if sum(char.isdigit() for char in "".join(best)) > 1:
            del pairs[best]
            continue
        merges.append(best)
        for i in where.pop(best):
            pieces, count = words[i]
            for pair in zip(pieces, pieces[1:]):
                if pair in pairs:
                    pairs[pair] -= count
            at = 0
            while at + 1 < len(pieces):
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = ["".join(best)]
                at += 1
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += count
                where[pair].add(i)
        del pairs[best]
    return merges


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--out", required=True)
    parser.add_argument("texts", nargs="+", help="files, or folders of .txt files")
    args = parser.parse_args()
    counts = collections.Counter()
    for root in map(pathlib.Path, args.texts):
        for path in sorted(root.glob("**/*.txt")) if root.is_dir() else [root]:
            counts.update(split_words(path.read_text("utf-8")))
    spelt = {"".join(BYTE_CHARS[b] for b in word.encode()): n for word, n in counts.items()}
    merges = learn_merges(spelt, args.size - len(BYTE_CHARS) - len(CONTROL))
    tokens = [BYTE_CHARS[b] for b in range(256)] + ["".join(merge) for merge in merges] + CONTROL
    stored = {"tokens": tokens, "merges": [" ".join(merge) for merge in merges], "control": CONTROL}
    with open(args.out, "w", encoding="utf-8") as file:
        json.dump(stored, file, ensure_ascii=False, indent=0)


if __name__ == "__main__":
    main()
