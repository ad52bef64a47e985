#!/usr/bin/env python3
"""
Trains the embedded model and writes it as GGUF. Runs unchanged on one CUDA GPU and on a CPU; a run
that is stopped, by a limit or by a kill, goes on from its last checkpoint. See README.md.
"""

import argparse
import json
import math
import pathlib
import signal
import time

import numpy as np
import torch
import torch.nn.functional as F

import checkpoint
from data import CLUES, GIVEN, GIVEN_SHARE, PROSE, WEIGHTS, Batches, Books, Exercises, copy_sources
from gguf import read_gguf, write_gguf
from model import Model, Shape
from muon import Muon
from tokenizer import Tokenizer

# Heads that are told where to look while --lessons is above 0: (layer, head) and how many positions
# back, "copy", or one of CLUES. Without this, a small model finds out how to look things up only after tens of
# millions of tokens.
LESSONS = {
    **{(0, 0): 1, (0, 2): 2, (1, 0): 1, (1, 2): 3, (3, 0): "copy", (3, 2): "copy", (4, 0): "copy"},
    **{(2, 1): "subject", (4, 1): "stated", (4, 2): "fact", (5, 3): "option"},
    **{(2, 0): "first units", (2, 2): "second units", (3, 1): "first tens", (3, 3): "second tens"},
}

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def arguments():
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--name", required=True, help="general.name of the model")
    add("--books", required=True, help="folder of .txt files")
    add("--exercises", help="file that exercises.mjs wrote; without it, books alone")
    add("--out", required=True, help="folder for checkpoint, log and model; a run there goes on")
    add("--start", help="F32 GGUF of the same shape and vocabulary to start from")
    add("--vocabulary", default=here / "vocabulary.json")
    add("--tokens", type=float, default=20e6, help="tokens in all")
    add("--stop-after", type=float, default=math.inf, help="minutes of this call")
    add("--batch", type=int, default=8192, help="tokens per step")
    add("--lengths", default="1024,4096", help="tokens of a sequence, by phase")
    add("--phases", default="0.85,0.15", help="share of all tokens that each phase takes")
    add("--prose", default="0.5", help="share of sequences that are book text alone, by phase")
    add("--repeats", default="0.04", help="share of sequences that repeat random tokens, by phase")
    add("--lessons", default="0", help="weight of the attention losses of LESSONS, by phase")
    add("--muon-lr", type=float, default=0.02)
    add("--adam-lr", type=float, default=0.003)
    add("--decay", type=float, default=0.3, help="last share of the run, over which rates fall to 0")
    add("--checkpoint-every", type=float, default=5, help="minutes")
    add("--no-compile", action="store_true", help="on a GPU: do without torch.compile")
    add("--seed", type=int, default=1)
    for field, default in vars(Shape()).items():
        add(f"--{field.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def fast_bfloat16(device):
    """Whether products of bfloat16 matrices are faster than those of float32 here: on GPUs, and on CPUs with AMX."""
    cpu = pathlib.Path("/proc/cpuinfo")
    return device == "cuda" or (cpu.exists() and "amx_bf16" in cpu.read_text())


class Phases:
    """What changes from phase to phase; a list that is shorter than the phases goes on as it ends."""

    def __init__(self, args):
        numbers = lambda text: [float(x) for x in text.split(",")]
        self.ends = np.cumsum(numbers(args.phases))
        self.lists = [numbers(x) for x in (args.lengths, args.prose, args.repeats, args.lessons)]

    def at(self, progress):
        """(length, prose, repeats, lessons) where `progress` of the run is done, 0 to 1."""
        phase = int(np.searchsorted(self.ends, progress, "right"))
        return [values[min(phase, len(values) - 1)] for values in self.lists]


def write_model(path, model, name, tokenizer):
    """The model as an F32 GGUF that llama.cpp and h1bkv read."""
    control = [tokenizer.id(token) for token in tokenizer.control]
    header = {
        **model.shape.header(name),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokenizer.tokens,
        "tokenizer.ggml.token_type": [3 if i in control else 1 for i in range(len(tokenizer.tokens))],
        "tokenizer.ggml.merges": tokenizer.merges,
        "tokenizer.ggml.bos_token_id": tokenizer.id("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokenizer.id("<|endoftext|>"),
        "tokenizer.ggml.eot_token_id": tokenizer.id("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": tokenizer.id("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    weights = {k: v.detach().float().cpu().numpy() for k, v in model.state_dict().items()}
    write_gguf(path, header, weights)


def lessons_of(ids, clues, shape, device):
    """
    What LESSONS ask of a batch, as `Model.forward` takes it; those for heads that a small model does not
    have are left out. ids [batch, length + 1]; clues [batch, len(CLUES), length]
    """
    length = ids.shape[1] - 1
    copies = torch.from_numpy(np.stack([copy_sources(row) for row in ids])).to(device)
    facts = torch.from_numpy(clues[:, CLUES.index("fact")].copy()).to(device)
    lessons = {}
    for (layer, head), back in LESSONS.items():
        if layer >= shape.layers or head >= shape.heads:
            continue
        if back == "copy":
            targets = torch.where(facts < 0, copies, facts)
        elif back in CLUES:
            targets = torch.from_numpy(clues[:, CLUES.index(back)].copy()).to(device)
        else:
            targets = torch.arange(length, device=device).sub(back).clamp(min=-1).expand(len(ids), -1)
        lessons.setdefault(layer, []).append((head, targets))
    return lessons


def loss_of(model, shape, batch, device, skills, lesson_weight):
    """
    Weighted cross-entropy of a batch, for the gradient, and sums for the log: {prose: (nats, tokens),
    skill: (right answers' tokens, tokens)}.
    """
    *arrays, clues = batch
    lessons = lessons_of(arrays[0], clues, shape, device) if lesson_weight > 0 else {}
    ids, kinds, skill, positions = (torch.from_numpy(x).to(device) for x in arrays)
    hidden, attention = model(ids[:, :-1], positions, lessons)
    # Given text counts little: one token in so many stands for the others.
    chosen = (kinds != GIVEN) | (torch.rand(kinds.shape, device=device) < GIVEN_SHARE)
    kinds, skill, targets = kinds[chosen], skill[chosen], ids[:, 1:][chosen]
    weights = torch.from_numpy(WEIGHTS).to(device)[kinds]
    logits = model.logits(hidden[chosen]).float()
    nats = F.cross_entropy(logits, targets, reduction="none")
    with torch.no_grad():
        right = (logits.argmax(-1) == targets).float()
        sums = {"prose": (nats[kinds == PROSE].sum().item(), (kinds == PROSE).sum().item())}
        for i, name in enumerate(skills):
            mine = skill == i
            sums[name] = (right[mine].sum().item(), mine.sum().item())
        if lessons:
            sums["attention loss"] = (float(attention), len(LESSONS))
    return (nats * weights).sum() / weights.sum() + lesson_weight * attention / len(LESSONS), sums


@torch.no_grad()
def validation_perplexity(model, books, device, length, count):
    """Perplexity of prose that was held back, in windows of `length`."""
    total = 0.0
    for i in range(count):
        at = i * (len(books.validation) - length - 1) // max(1, count - 1)
        ids = torch.from_numpy(books.validation[at : at + length + 1].astype(np.int64)).to(device)[None]
        hidden, _ = model(ids[:, :-1], torch.arange(length, device=device)[None])
        total += F.cross_entropy(model.logits(hidden)[0].float(), ids[0, 1:]).item()
    return math.exp(total / count)


def main():
    args = arguments()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer.load(args.vocabulary)
    books = Books(args.books, tokenizer, out / "books.npy")
    shape = Shape(**{field: getattr(args, field) for field in vars(Shape())})
    model = Model(shape)
    if args.start:
        _, weights = read_gguf(args.start)
        model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()})
    model.to(device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blk")]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and n.startswith("blk"))]
    is_fast = fast_bfloat16(device)
    muon = Muon(matrices, args.muon_lr, torch.bfloat16 if is_fast else torch.float32)
    adam = torch.optim.AdamW(others, args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)

    done = {"tokens": 0, "exercise": 0, "seconds": 0.0, "step": 0}
    stored = checkpoint.load(out / "checkpoint")
    if stored:
        tensors, done = stored
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for p, (i, _) in zip(matrices, enumerate(matrices)):
            muon.state[p]["momentum"] = tensors[f"muon.{i}"].to(device).float()
        for i, p in enumerate(others):
            adam.state[p] = {
                "step": torch.tensor(float(done["step"])),
                "exp_avg": tensors[f"adam.{i}.exp_avg"].to(device).float(),
                "exp_avg_sq": tensors[f"adam.{i}.exp_avg_sq"].to(device).float(),
            }

    exercises = Exercises(args.exercises, done["exercise"]) if args.exercises else None
    seed = args.seed + done["step"]
    batches = Batches(books, exercises, tokenizer, shape.context, seed)
    phases = Phases(args)
    forward = torch.compile(model) if device == "cuda" and not args.no_compile else model

    def save():
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        for i, p in enumerate(matrices):
            tensors[f"muon.{i}"] = muon.state[p]["momentum"].bfloat16()
        for i, p in enumerate(others):
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"adam.{i}.{key}"] = adam.state[p][key].bfloat16()
        done["exercise"] = exercises.next if exercises else 0
        checkpoint.save(out / "checkpoint", tensors, done)
        write_model(out / "model.gguf", model, args.name, tokenizer)

    began = last_saved = time.monotonic()
    earlier = done["seconds"]
    sums = {}
    stop = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.append(True))
    while done["tokens"] < args.tokens and time.monotonic() - began < args.stop_after * 60 and not stop:
        progress = done["tokens"] / args.tokens
        length, prose, repeats, lessons = phases.at(progress)
        batch = batches.batch(max(1, int(args.batch / length)), int(length), prose, repeats)
        rate = min(1.0, (done["step"] + 1) / 100, max(0.02, (1 - progress) / args.decay))
        muon.param_groups[0]["lr"] = args.muon_lr * rate
        adam.param_groups[0]["lr"] = args.adam_lr * rate
        with torch.autocast(device, torch.bfloat16, enabled=is_fast):
            loss, new = loss_of(forward, shape, batch, device, batches.skills, lessons)
        muon.zero_grad()
        adam.zero_grad()
        loss.backward()
        muon.step()
        adam.step()
        for name, pair in new.items():
            sums[name] = tuple(map(sum, zip(sums.get(name, (0, 0)), pair)))
        done["step"] += 1
        done["tokens"] += batch[1].size
        done["seconds"] = earlier + time.monotonic() - began
        if done["step"] % 50 == 0:
            log(out, done, sums, model, books, device)
            sums = {}
        if time.monotonic() - last_saved > args.checkpoint_every * 60:
            save()
            last_saved = time.monotonic()
    if done["step"]:
        save()


def log(out, done, sums, model, books, device):
    """One line for people on stdout and one for curve.py in log.jsonl."""
    row = {"step": done["step"], "tokens": done["tokens"], "seconds": round(done["seconds"])}
    nats, count = sums.pop("prose")
    row["prose"] = round(nats / max(1, count), 4)
    row["skills"] = {name: round(a / n, 3) for name, (a, n) in sums.items() if n}
    if done["step"] % 200 == 0:
        row["validation"] = round(validation_perplexity(model, books, device, 1024, 8), 2)
    with open(out / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
