"""Checkpoints on disk: written in one file or in shards, read back, compared."""

import json

import torch

from stat_repro.models.tensor_files import (
    INDEX_FILE,
)

LAYOUTS = {"one file": "1GB", "several shards": "10KB"}


def saved(model, folder, layout="one file"):
    model.save_pretrained(folder, max_shard_size=LAYOUTS[layout])
    assert (folder / INDEX_FILE).is_file() == (layout == "several shards")
    return folder


def as_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def same_weights(model, other):
    first, second = model.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(a.dtype == second[key].dtype for key, a in first.items())
    assert all(torch.equal(a, second[key]) for key, a in first.items())
