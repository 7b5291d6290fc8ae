"""Values per example beside their records."""

from __future__ import annotations

import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from made_up_records import make_record

from stat_repro import results
from stat_repro.results import RecordError, RunRecord, example_files, writing


def with_examples(values: list[float], **changes: object) -> tuple[RunRecord, bytes]:
    data = example_files.encode_examples({"kl": np.array(values, dtype=np.float32)})
    named = {"examples": example_files.describe_examples(data)}
    return make_record(provenance=named, **changes), data


def test_examples_are_stored_beside_their_record(tmp_path: Path) -> None:
    stored = [with_examples([0.5, math.inf]), with_examples([0.25, 1.0])]
    paths = [results.save_record(record, tmp_path, data) for record, data in stored]
    assert paths[1].name == f"{stored[0][0].run_id}.repeat-1.json"
    for path, (record, data) in zip(paths, stored, strict=True):
        beside = example_files.examples_path(path)
        assert beside.name == path.name.removesuffix(".json") + ".examples.safetensors"
        assert beside.read_bytes() == data
        found = results.read_examples(results.read_record(path), path)
        assert found is not None
        assert found["kl"].tolist() == results.read_examples(record, path)["kl"].tolist()
    assert results.read_examples(stored[0][0], paths[0])["kl"].tolist() == [0.5, math.inf]
    assert len(list((tmp_path / "made_up").iterdir())) == 4
    assert results.load_records(tmp_path, "made_up", repeats=True) == [r for r, _ in stored]


def test_a_record_without_examples_has_none(tmp_path: Path) -> None:
    record = make_record()
    assert results.read_examples(record, results.save_record(record, tmp_path)) is None
    switched_off = make_record(provenance={"examples": None})
    assert results.read_examples(switched_off, results.save_record(switched_off, tmp_path)) is None


def test_example_files_are_the_same_every_time() -> None:
    values = {
        "kl": np.arange(3, dtype=np.float32),
        "correct": np.array([1, 0, 1], dtype=np.uint8),
        "agree": np.array([1, 1, 1], dtype=np.uint8),
    }
    data = example_files.encode_examples(values)
    assert data == example_files.encode_examples(dict(reversed(values.items())))
    assert example_files.describe_examples(data) == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "values": ["agree", "correct", "kl"],
        "count": 3,
    }


@pytest.mark.parametrize(
    "values", [{}, {"kl": np.zeros(2), "correct": np.zeros(3)}, {"kl": np.zeros((2, 2))}]
)
def test_values_of_different_examples_are_refused(values: dict[str, np.ndarray]) -> None:
    with pytest.raises(RecordError, match="flat values of the same examples"):
        example_files.encode_examples(values)


def test_examples_that_the_record_does_not_name_are_refused(tmp_path: Path) -> None:
    record, data = with_examples([1.0])
    other = with_examples([2.0])[1]
    for pair in ((record, None), (record, other), (make_record(), data)):
        with pytest.raises(RecordError, match="expected a file with sha256"):
            results.save_record(pair[0], tmp_path, pair[1])
    assert list(tmp_path.iterdir()) == []
    path = results.save_record(record, tmp_path, data)
    example_files.examples_path(path).write_bytes(other)
    with pytest.raises(RecordError, match=r"examples\.safetensors.*expected a file with sha256"):
        results.read_examples(record, path)
    example_files.examples_path(path).unlink()
    with pytest.raises(RecordError, match=r"examples\.safetensors.*No such file"):
        results.read_examples(record, path)


def test_interrupted_write_leaves_neither_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, data = with_examples([1.0])
    publish, calls = writing._publish, []

    def fail_second(temporary: Path, path: Path) -> bool:
        calls.append(path.name)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return publish(temporary, path)

    monkeypatch.setattr(writing, "_publish", fail_second)
    with pytest.raises(OSError, match="No space"):
        results.save_record(record, tmp_path, data)
    assert calls == [f"{record.run_id}.examples.safetensors", f"{record.run_id}.json"]
    assert list((tmp_path / "made_up").iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_ctrl_c_when_the_record_has_just_got_its_name_leaves_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    record, data = with_examples([1.0])
    name = "link" if links else "replace"
    real = getattr(os, name)

    def interrupted(source: Path, target: Path) -> None:
        real(source, target)
        if str(target).endswith(".json"):
            raise KeyboardInterrupt

    if not links:
        monkeypatch.setattr(os, "link", Mock(side_effect=PermissionError(1, "no hard links here")))
    monkeypatch.setattr(os, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.save_record(record, tmp_path, data)
    path = results.find_record(tmp_path, record.study, record.run_id)
    assert results.read_examples(record, path)["kl"].tolist() == [1.0]
    assert len(list((tmp_path / "made_up").iterdir())) == 2


def test_values_without_a_record_are_replaced(tmp_path: Path) -> None:
    """Under the lock they are nobody's: whoever wrote them was killed before the record."""
    record, data = with_examples([1.0])
    (tmp_path / "made_up").mkdir()
    orphan = tmp_path / "made_up" / f"{record.run_id}.examples.safetensors"
    orphan.write_bytes(b"cut off")
    path = results.save_record(record, tmp_path, data)
    assert path.name == f"{record.run_id}.json"
    assert results.read_examples(record, path)["kl"].tolist() == [1.0]
    path.unlink()
    without = make_record()
    assert results.read_examples(without, results.save_record(without, tmp_path)) is None
    assert not orphan.exists()


def test_race_keeps_every_record_with_its_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    made = [
        with_examples([float(i)], timings={"compress_s": float(i)})
        if i % 3
        else (make_record(timings={"compress_s": float(i)}), None)
        for i in range(12)
    ]
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda pair: results.save_record(pair[0], tmp_path, pair[1]), made))
    assert len(set(paths)) == len(made)
    for i, path in enumerate(paths):
        found = results.read_examples(results.read_record(path), path)
        assert (None if found is None else found["kl"].tolist()) == ([i] if i % 3 else None)
    assert len(list((tmp_path / "made_up").iterdir())) == 12 + 8
