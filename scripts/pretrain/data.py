"""Training sequences: stretches of books, and exercises packed between them."""

import bisect
import json
import pathlib
import re

import numpy as np

PROSE, GIVEN, ANSWER = 0, 1, 2
# Given text is mostly random (names, numbers); little can be learned from predicting it, so this share of it counts.
GIVEN_SHARE = 0.1
WEIGHTS = np.array([1.0, 1.0, 3.0], np.float32)


class Books:
    """All texts under a folder but the last, as paragraphs and as one long run of ids; the last is for validation."""

    def __init__(self, folder, tokenizer, cache):
        paths = sorted(pathlib.Path(folder).glob("**/*.txt"))
        if len(paths) < 2:
            raise SystemExit(f"{folder} holds {len(paths)} .txt files; unpack two or more books there")
        *texts, last = (path.read_text("utf-8") for path in paths)
        self.paragraphs = [p for text in texts for p in text.split("\n\n") if p.strip()]
        cache = pathlib.Path(cache)
        if not cache.exists():
            end = [tokenizer.id("<|endoftext|>")]
            ids = [i for text in texts for i in tokenizer.encode(text) + end]
            part = cache.with_name("part.npy")
            np.save(part, np.array(ids, np.uint16))
            part.replace(cache)
        self.ids = np.load(cache)
        self.validation = np.array(tokenizer.encode(last), np.uint16)

    def stretch(self, random, length):
        start = random.integers(len(self.ids) - length)
        return self.ids[start : start + length].astype(np.int64)

    def filler(self, random, tokenizer, budget):
        """Neighbouring paragraphs of at most `budget` tokens together."""
        at, chosen = int(random.integers(len(self.paragraphs))), []
        while budget > 0 and at < len(self.paragraphs):
            budget -= len(tokenizer.encode(self.paragraphs[at])) + 2
            if budget >= 0:
                chosen.append(self.paragraphs[at])
            at += 1
        return "\n\n".join(chosen)


class Exercises:
    """The lines of a file that exercises.mjs wrote, each used once, then from the start again."""

    def __init__(self, path, start=0):
        with open(path, encoding="utf-8") as file:
            self.items = [json.loads(line) for line in file]
        self.next = start
        self.skills = sorted({item["skill"] for item in self.items})

    def take(self):
        item = self.items[self.next % len(self.items)]
        self.next += 1
        return item


# Where a reader who answers would look: the person or thing that a line or a question is about, the option that
# is right, the digits of both terms of a sum, the fact that answers a question word for word, and the end of the
# fact that an option or a question repeats.
CLUES = ["subject", "option", "first units", "second units", "first tens", "second tens", "fact", "stated"]
_VERBS = "keeps|wears|carries|likes to eat|lives at|will go|was born"
_FACT = re.compile(rf"^([A-Z][a-z]+) ({_VERBS}) (.*)\.$", re.M)
_QUESTION = re.compile(
    r"^Question: (\w+)(.*)\?\n(?:((?:[A-D]\. .*\n){4})Answer: ([A-D])|Answer: (.+)\n\n)", re.M
)
_STEPS = re.compile(
    r"^Question: .*\n((?:[A-D]\. .*\n){4})Answer: Let's think step by step\.\n((.+): ([A-D]))\n", re.M
)
_STATED = re.compile(rf"^([A-Z][a-z]+) ({_VERBS}) (.+)$")
_REVERSED = re.compile(rf"^The one who ({_VERBS}) (.+) is ([A-Z][a-z]+)$")
_NAME = re.compile(r"[A-Z]\w+(?: [A-Z]\w+)*")
_OPTION = re.compile(r"^([A-D])\. (.*)$", re.M)
_SUM = re.compile(r"(\d+) [-+*/] (\d+) = (\d+)")


def clues(text, offsets):
    """
    int64 [len(CLUES), tokens]: for the token at each position, the position that it should look at, or
    -1. offsets: where each token starts in the text
    """
    targets = np.full((len(CLUES), len(offsets)), -1)
    token_at = lambda char: bisect.bisect_right(offsets, char) - 1

    def look(clue, start, end, char):
        """Tokens of the characters [start, end) look at the token of `char`."""
        targets[CLUES.index(clue), token_at(start) : token_at(end - 1) + 1] = token_at(char)

    facts = list(_FACT.finditer(text))
    for fact in facts:
        look("subject", fact.end(1), fact.end() + 1, fact.end(1) - 1)
    for question in _QUESTION.finditer(text):
        word, rest, options, right, answer = question.groups()
        colon = question.start(4 if options else 5) - 2
        asks_who = word == "Who"
        name = None if asks_who else _NAME.search(text, question.start(2), question.end(2))
        fact = next((f for f in facts if asks_who and rest.endswith(f[3])), None)
        if name:
            look("subject", name.end(), question.end(2) + 1, name.end() - 1)
            look("subject", colon, question.end(5) if answer else colon + 1, name.end() - 1)
        if fact:
            look("subject", colon, colon + 1, question.end(2) - 1)
            look("stated", colon, colon + 1, fact.end(3) - 1)
        for option in _OPTION.finditer(text, *question.span(3)) if options else ():
            look("subject", option.start(2), option.end() + 1, option.start())
            if option[1] == right:
                look("option", colon, colon + 1, option.end() - 1)
            fact = next((f for f in facts if f[3] == option[2]), None)
            if fact:
                look("stated", option.end() - 1, option.end(), fact.end(3) - 1)
        fact = next((f for f in facts if answer and name and (f[1], f[3]) == (name[0], answer)), None)
        if fact:
            for token in range(token_at(colon), token_at(question.end(5) - 1)):
                read = fact.start(3) + offsets[token + 1] - question.start(5)
                targets[CLUES.index("fact"), token] = token_at(read)
    for steps in _STEPS.finditer(text):
        options = list(_OPTION.finditer(text, *steps.span(1)))
        for option in options:
            look("subject", option.start(2), option.end() + 1, option.start())
            if option[1] == steps[4]:
                look("option", steps.end(3), steps.end(3) + 1, option.end() - 1)
        start = steps.start(2)
        if stated := _STATED.match(steps[3]):
            fact = next((f for f in facts if (f[1], f[3]) == (stated[1], stated[3])), None)
            look("subject", start + stated.end(1), start + stated.end(), start + stated.end(1) - 1)
            for token in range(token_at(start + stated.start(3)), token_at(start + stated.end() - 1) + 1) if fact else ():
                read = fact.start(3) + offsets[token] - start - stated.start(3)
                targets[CLUES.index("fact"), token - 1] = token_at(read)
        if reversed := _REVERSED.match(steps[3]):
            fact = next((f for f in facts if f[3] == reversed[2]), None)
            if fact:
                look("stated", start + reversed.start(3) - 2, start + reversed.start(3) - 1, fact.end(3) - 1)
    for sum in _SUM.finditer(text):
        for i, term in ((1, "first"), (2, "second")):
            asks = sum.start(3) - 1, sum.end(3) - 1
            look(f"{term} units", *asks, sum.end(i) - 1)
            if sum.end(i) - sum.start(i) == 2:
                look(f"{term} tens", *asks, sum.start(i))
    return targets


def exercise_ids(item, room, random, tokenizer, books):
    """
    One exercise with its filler written out: (ids, kinds, clues) of at most `room` tokens, or None if
    it does not fit. It is encoded as one text, as it will be when the model is asked.
    """
    pieces = item["pieces"]
    fixed = sum(len(tokenizer.encode(text, True)) for kind, text in pieces if kind != "filler")
    budget = room - fixed - 8
    if budget < 0:
        return None
    budget *= random.uniform() ** 0.5
    text, starts, kinds = "", [], []
    for kind, content in pieces:
        starts.append(len(text))
        kinds.append({"filler": PROSE, "text": GIVEN, "answer": ANSWER}[kind])
        text += books.filler(random, tokenizer, budget * content) if kind == "filler" else content
    ids, ids_kinds, offsets = [], [], []
    for offset, word in tokenizer.words(text, True):
        kind = kinds[np.searchsorted(starts, offset, "right") - 1]
        for id in word:
            ids.append(id)
            offsets.append(offset)
            offset += len(tokenizer.tokens[id])
        ids_kinds += [kind] * len(word)
    if len(ids) >= room:
        return None
    end = np.full((len(CLUES), 1), -1)
    looks = np.concatenate([clues(text, offsets), end], 1)
    return ids + [tokenizer.id("<|endoftext|>")], ids_kinds + [GIVEN], looks


def positions_with_gaps(random, length, context):
    """
    Positions 0 to length - 1, for half of the sequences with up to three gaps (PoSE, Zhu et al.
    2023): short sequences then teach the distances of the whole context.
    """
    positions = np.arange(length)
    if context > length and random.uniform() < 0.5:
        gaps = np.diff(np.sort(random.integers(0, context - length + 1, 3)), prepend=0)
        for at, gap in zip(np.sort(random.integers(1, length, 3)), gaps):
            positions[at:] += gap
    return positions


def copy_sources(ids):
    """
    Where a reader who copies would look: for each position t, the position after the latest longest
    match of the text up to t, if what follows there is what follows t. Matches of one token do not
    count. ids [length + 1]; returns int64 [length], -1 where there is no such place.
    """
    length = len(ids) - 1
    sources = np.full(length, -1)
    matched = np.zeros(length, np.int64)  # matched[s]: tokens before and at s that equal those at t
    for t in range(length):
        matched[1:] = matched[:-1]
        matched[0] = 0
        matched = np.where(ids[:length] == ids[t], matched + 1, 0)
        if t == 0:
            continue
        best = matched[:t].max()
        if best >= 2:
            s = t - 1 - int(np.argmax(matched[:t][::-1] == best))
            if ids[s + 1] == ids[t + 1]:
                sources[t] = s + 1
    return sources


class Batches:
    """
    Draws sequences: with probability `prose` a stretch of a book, with probability `repeats` a run of
    random tokens over and over, which teaches to look back sooner than anything else, and else
    exercises packed one after another, the rest filled with prose.
    """

    def __init__(self, books, exercises, tokenizer, context, seed):
        self.books, self.exercises, self.tokenizer = books, exercises, tokenizer
        self.context = context
        self.skills = (exercises.skills if exercises else []) + ["repeat"]
        self.random = np.random.default_rng(seed)

    def batch(self, count, length, prose, repeats):
        """
        Returns ids [count, length + 1], kinds of the targets and their skill (-1: none), positions,
        clues [count, len(CLUES), length].
        """
        rows = [self._row(length + 1, prose, repeats) for _ in range(count)]
        ids, kinds, skills, looks = (np.stack(column) for column in zip(*rows))
        gaps = [positions_with_gaps(self.random, length, self.context) for _ in range(count)]
        return ids, kinds[:, 1:], skills[:, 1:], np.stack(gaps), looks[:, :, :-1]

    def _row(self, size, prose, repeats):
        ids, kinds, skills = [], [], []
        looks = np.full((len(CLUES), size), -1)
        lot = self.random.uniform()
        if lot < repeats:
            period = int(np.exp(self.random.uniform(np.log(6), np.log(size / 2))))
            ids = np.resize(self.random.choice(self.books.ids, period), size).astype(np.int64)
            is_first = np.arange(size) < period
            repeat = len(self.skills) - 1
            return ids, np.where(is_first, GIVEN, ANSWER), np.where(is_first, -1, repeat), looks
        if self.exercises is not None and lot >= repeats + prose:
            for _ in range(100):
                item = self.exercises.take()
                made = exercise_ids(item, size - len(ids), self.random, self.tokenizer, self.books)
                if made is None:
                    if ids:
                        self.exercises.next -= 1  # for the next row, which is empty
                        break
                    continue
                skill = self.skills.index(item["skill"])
                at = slice(len(ids), len(ids) + len(made[0]))
                looks[:, at] = np.where(made[2] < 0, -1, made[2] + len(ids))
                ids += made[0]
                kinds += made[1]
                skills += [skill if kind == ANSWER else -1 for kind in made[1]]
        rest = size - len(ids)
        ids = np.concatenate([np.array(ids, np.int64), self.books.stretch(self.random, rest)])
        return ids, np.array(kinds + [PROSE] * rest), np.array(skills + [-1] * rest), looks
