"""Records that were edited by hand: refused by name, wherever they are read."""

import json
from pathlib import Path

import pytest
from made_up_records import make_config, make_failure, make_record

from stat_repro import results
from stat_repro.config import DatasetConfig, ModelConfig, run_id
from stat_repro.reporting.variants import ReportError, with_variants
from stat_repro.results import RecordError
from stat_repro.results.speed_record import SpeedRecord, save_speed
from stat_repro.results.store import StudyError, claimed
from stat_repro.results.strict_json import CONTENT, check_stamp
from stat_repro.run import own_model
from stat_repro.run.lookup import find_run, runs

COUNTS = {
    "prunable_macs_per_token": {"dense": 100.0, "pruned": 49.0},
    "params": {"dense": 200, "pruned": 100},
}
GOOD = {
    "costs": COUNTS,
    "site_errors": [
        {"layer": 0, "kind": "attention", "kept": 1},
        {"layer": 0, "kind": "ffn", "kept": 2},
    ],
}


def edited(path, key, value):
    """Replace the value that a dotted name leads to; the old document."""
    text = path.read_text()
    document = json.loads(text)
    *parts, last = key.split(".")
    inner = document
    for part in parts:
        inner = inner[int(part) if isinstance(inner, list) else part]
    assert inner[last] != value
    inner[last] = value
    path.write_text(json.dumps(document))
    return document


EDITS = [
    ("metrics.pruned.accuracy", 0.99),
    ("ratio", 0.3),
    ("config.ratio", 0.3),
    ("seed", 7),
    ("method", "flap"),
    ("model", "other"),
    ("dataset", "other"),
    ("plan.layers", []),
    ("plan.layers.0.kept_neurons", [1]),
    ("plan.method", "flap"),
    ("mac_kept_fraction", 0.7),
    ("param_kept_fraction", 0.7),
    ("config.calibration.examples", 64),
    ("config.pruning.ridge", 0.5),
    ("config.pruning.allocation", "best"),
    ("provenance.model_hash", "0" * 64),
    ("timings.compress_s", 0.1),
    ("run_id", "pico-reviews-stat-r0.5-s0-0123456789"),
]


@pytest.mark.parametrize(("key", "value"), EDITS)
def test_an_edited_record_is_refused_by_name_and_measured_again(key, value, tmp_path):
    record = make_record(provenance={"model_hash": "1" * 64}, **GOOD)
    path = results.save_record(record, tmp_path)
    edited(path, key, value)
    with pytest.raises(RecordError, match=path.name):
        results.load_records(tmp_path, "made_up")
    with claimed(tmp_path, "made_up", record.run_id) as stored:
        assert stored is None
    assert [file.name for file in path.parent.iterdir()] == [f"{path.name}.damaged-1"]


# What no other value of the record could tell.
FREE = ("metrics.pruned.accuracy", "provenance.model_hash", "timings.compress_s")


@pytest.mark.parametrize(("key", "value"), [edit for edit in EDITS if edit[0] not in FREE])
def test_records_of_before_have_no_stamp_but_must_agree_with_themselves(key, value, tmp_path):
    path = results.save_record(make_record(**GOOD), tmp_path)
    document = json.loads(path.read_text())
    del document["content"]
    path.write_text(json.dumps(document))
    assert results.load_records(tmp_path, "made_up") == [make_record(**GOOD)]
    edited(path, key, value)
    with pytest.raises(RecordError, match=path.name):
        results.load_records(tmp_path, "made_up")


def test_the_stamp_names_what_is_wrong(tmp_path):
    path = results.save_record(make_record(), tmp_path)
    edited(path, "metrics.pruned.accuracy", 0.99)
    with pytest.raises(RecordError, match=r"content: expected sha256:\w+, as when it was written"):
        results.read_record(path)


def test_every_stored_record_has_a_stamp():
    root = Path(__file__).parents[1] / "results"
    files = sorted(root.glob("*/**/*.json"))
    assert len(files) >= 1000
    unstamped = [f.name for f in files if '\n "content": "sha256:' not in f.read_text("utf-8")]
    assert unstamped == []
    assert [file.name for file in root.glob("*.json")] == ["served.json"]
    for study in json.loads((root / "served.json").read_text("utf-8")).values():
        assert CONTENT in study
        check_stamp(study)


def test_ids_of_local_files_are_theirs(tmp_path):
    """The content of a model's folder is in the record, that of data files is not."""
    config = make_config(model=ModelConfig("pico", "folder"))
    named = make_config(model=ModelConfig("pico", f"sha256:{'2' * 64}"))
    hashes = {"base_model_hash": "2" * 64}
    good = make_record(config=config, run_id=run_id(named), provenance=hashes)
    assert results.read_record(results.save_record(good, tmp_path)) == good
    other = make_record(config=config, run_id=run_id(named), provenance={}, seed=1)
    with pytest.raises(RecordError, match=r"run_id: expected pico-reviews-stat-r0\.5-s1"):
        results.read_record(results.save_record(other, tmp_path))
    files = make_config(dataset=DatasetConfig("reviews", "classification", "table", train="a.csv"))
    for make in (make_record, make_failure):
        record = make(config=files, run_id="pico-reviews-stat-r0.5-s0-0123456789")
        assert results.read_record(results.save_record(record, tmp_path)) == record


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "[" * 100_000, '{"schema_version": 1}', "\udcff", "null"]
)
def test_what_is_no_record_is_named_and_set_aside(text, tmp_path):
    record = make_record()
    path = results.save_record(record, tmp_path)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError, match=path.name):
        results.read_record(path)
    with claimed(tmp_path, "made_up", record.run_id) as stored:
        assert stored is None
        assert results.save_record(record, tmp_path) == path
    assert results.find_record(tmp_path, "made_up", record.run_id) == path
    assert path.with_name(f"{path.name}.damaged-1").exists()


def test_tables_refuse_ratios_that_they_would_show_as_one():
    frame = results.to_frame([make_record(ratio=0.3), make_record(ratio=0.1 + 0.2)])
    with pytest.raises(ReportError, match=r"got 0\.3 and 0\.30000000000000004"):
        with_variants(frame)


def test_an_edited_measurement_of_speed_is_refused_by_name(tmp_path):
    sizes = {"examples": 8, "length": 16, "layers": 2}
    record = SpeedRecord(
        shape="pico", protocol=sizes, seconds={}, ratios={}, memory={}, provenance={}
    )
    paths = [save_speed(record, tmp_path) for _ in range(2)]
    assert [path.stem for path in paths] == ["pico-n8x16-d2", "pico-n8x16-d2.repeat-1"]
    assert results.load_speed(tmp_path) == [record, record]
    edited(paths[1], "protocol.layers", 3)
    with pytest.raises(RecordError, match=r"repeat-1\.json: content: expected sha256"):
        results.load_speed(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", bytes(range(256)), b'{"config": 1}'])
def test_the_damaged_record_of_a_saved_model_is_named(tmp_path, content):
    file = tmp_path / "record.json"
    file.write_bytes(content)
    for read in (lambda: find_run(str(tmp_path), tmp_path), lambda: own_model._made(tmp_path)):
        with pytest.raises(RecordError, match=rf"^{file}: "):
            read()
    file.unlink()
    assert own_model._made(tmp_path) == {}


def test_a_measurement_of_speed_is_not_compared_with_runs(tmp_path):
    sizes = {"examples": 1, "length": 2, "layers": 3}
    speed = SpeedRecord(
        shape="one", protocol=sizes, seconds={}, ratios={}, memory={}, provenance={}
    )
    path = save_speed(speed, tmp_path)
    with pytest.raises(StudyError, match=r"expected a run; got .*one.*, a measurement of speed"):
        runs(tmp_path, None, (), [str(path), str(path)])
