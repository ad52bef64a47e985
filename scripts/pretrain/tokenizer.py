"""Byte-level BPE (Sennrich et al. 2016; the byte alphabet and the split pattern are GPT-2's)."""

import json
import re

# llama.cpp's pre-tokenizer "gpt-2"; [^\W\d_] stands for \p{L} and \d for \p{N}.
_WORDS = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
)


def _byte_alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


BYTE_CHARS = _byte_alphabet()


def split_words(text):
    """The words that BPE works within."""
    return _WORDS.findall(text)


class Tokenizer:
    """
    tokens: pieces in the byte alphabet, their index is their id; the last ones are control tokens.
    merges: "left right", best first.
    """

    def __init__(self, tokens, merges, control):
        self.tokens, self.merges, self.control = tokens, merges, control
        self._ids = {token: i for i, token in enumerate(tokens)}
        self._rank = {tuple(merge.split(" ")): i for i, merge in enumerate(merges)}
        self._words = {}
        self._controls = re.compile("(" + "|".join(map(re.escape, control)) + ")")

    @classmethod
    def load(cls, path):
        with open(path, encoding="utf-8") as file:
            stored = json.load(file)
        return cls(stored["tokens"], stored["merges"], stored["control"])

    def id(self, token):
        return self._ids[token]

    def encode(self, text, control=False):
        """Ids of a text. With control=True, the names of control tokens are read as such."""
        return [i for _, ids in self.words(text, control) for i in ids]

    def words(self, text, control=False):
        """Yields (offset in the text, ids) of each word; words are encoded one by one."""
        if not control:
            for match in _WORDS.finditer(text):
                word = match.group()
                yield match.start(), self._words.get(word) or self._encode_word(word)
            return
        offset = 0
        for i, part in enumerate(self._controls.split(text)):
            if i % 2:
                yield offset, [self._ids[part]]
            else:
                for start, ids in self.words(part):
                    yield offset + start, ids
            offset += len(part)

    def _encode_word(self, word):
        pieces = [BYTE_CHARS[b] for b in word.encode("utf-8")]
        while len(pieces) > 1:
            ranks = [self._rank.get(pair, len(self._rank)) for pair in zip(pieces, pieces[1:])]
            best = min(ranks)
            if best == len(self._rank):
                break
            at = ranks.index(best)
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        ids = self._words[word] = [self._ids[piece] for piece in pieces]
        return ids
