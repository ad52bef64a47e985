"""Checkpoints in shards of at most 15 MB, so that they pass through places that limit file sizes."""

import json
import os
import pathlib
import shutil

import torch

_SHARD_BYTES = 15_000_000


def save(folder, tensors, state):
    """
    tensors: {name: tensor}; state: what json can hold. The folder is replaced as a whole: a run
    that is killed while it saves leaves the last checkpoint as it was.
    """
    folder = pathlib.Path(folder)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shard, size, count = {}, 0, 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().clone()
        bytes_ = tensor.numel() * tensor.element_size()
        if shard and size + bytes_ > _SHARD_BYTES:
            torch.save(shard, part / f"{count:03}.pt")
            shard, size, count = {}, 0, count + 1
        shard[name] = tensor
        size += bytes_
    torch.save(shard, part / f"{count:03}.pt")
    (part / "state.json").write_text(json.dumps(state))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder):
    """Returns (tensors, state), or None where there is no checkpoint yet."""
    folder = pathlib.Path(folder)
    if not folder.exists():
        folder = folder.with_name(folder.name + ".old")
    if not folder.exists():
        return None
    tensors = {}
    for shard in sorted(folder.glob("*.pt")):
        tensors.update(torch.load(shard, map_location="cpu"))
    return tensors, json.loads((folder / "state.json").read_text())
