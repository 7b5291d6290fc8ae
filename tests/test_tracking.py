from __future__ import annotations

import logging
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from made_up_records import cost_entry, make_failure, make_record, measured_record

from stat_repro.config import TRACKING_MODES, TrackingConfig
from stat_repro.run import tracking

ROOT = Path(__file__).parents[1]

OFFLINE_RUN = """
import sys
from pathlib import Path
import logging
logging.basicConfig(level=logging.WARNING)
from made_up_records import make_record
from stat_repro.config import TrackingConfig
from stat_repro.run import tracking
tracking.project_root = lambda: Path(sys.argv[1])
import os
before = dict(os.environ)
for ratio in (0.3, 0.5):
    tracking.mirror(make_record(ratio=ratio), TrackingConfig())
assert dict(os.environ) == before, "the environment was left changed"
"""


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for wandb; `init` notes its arguments and the environment."""
    fake = SimpleNamespace(calls=[], environments=[], finished=[], summary={})

    def init(**arguments: Any) -> SimpleNamespace:
        fake.calls.append(arguments)
        fake.environments.append(dict(os.environ))
        return SimpleNamespace(
            summary=fake.summary, finish=lambda exit_code: fake.finished.append(exit_code)
        )

    fake.init, fake.Settings = init, SimpleNamespace
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tracking, "project_root", lambda: tmp_path / "runs")
    return tmp_path / "cache"


def records_of(path: Path) -> Iterator[Any]:
    """Records of a .wandb file: LevelDB's log framing around protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, partial = path.read_bytes(), 7, b""
    block = 32768
    while place + 7 <= len(data):
        if block - place % block < 7:  # no room for a header: the rest of the block is padding
            place += block - place % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        partial += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield Record.FromString(partial)
            partial = b""


def test_offline_run_holds_the_record_and_touches_nothing_else(tmp_path: Path, cache: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "XDG_"))}
    environment |= {
        "HOME": str(home),
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
        "STAT_REPRO_LIGHT": "1",
    }
    command = [sys.executable, "-c", OFFLINE_RUN, str(project)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} == {"home", "project", "cache"}
    assert [p.name for p in project.iterdir()] == ["wandb"]
    runs = sorted((project / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    found: dict[str, dict[str, str]] = {}
    for path in runs:
        values: dict[str, str] = {}
        assert str(tmp_path).encode() not in path.read_bytes()
        for record in records_of(path):
            assert record.run.host == ""
            updates = [*record.run.config.update, *record.config.update, *record.summary.update]
            values |= {u.key or "/".join(u.nested_key): u.value_json for u in updates}
            values |= {"name": record.run.display_name} if record.run.display_name else {}
        found[values["name"]] = values
    for ratio in (0.3, 0.5):
        expected = make_record(ratio=ratio)
        values = found[expected.run_id]
        assert values["run_id"] == f'"{expected.run_id}"'
        assert f'"ratio":{ratio}' in values["config"].replace(" ", "")
        assert float(values["pruned/accuracy"]) == 0.8
        assert float(values["mac_kept_fraction"]) == pytest.approx(1 - ratio - 0.01)
        assert float(values["costs/prunable_macs/dense"]) == 100


def test_disabled_does_not_import_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise, and be told
    tracking.mirror(make_record(), TrackingConfig(mode="disabled"))
    assert caplog.text == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["import", "init", "summary", "folder"])
def test_failure_is_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fake_wandb: SimpleNamespace,
    broken: str,
) -> None:
    folder = tmp_path / "runs"
    if broken == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
    elif broken == "init":

        def refuse(**_: object) -> None:
            raise RuntimeError("no API key\nconfigured")

        fake_wandb.init = refuse
    elif broken == "summary":
        fake_wandb.summary = None
    else:
        folder.write_text("a file where a folder should be")
    before = dict(os.environ)
    record = make_record()
    tracking.mirror(record, TrackingConfig())
    (entry,) = caplog.records
    assert entry.levelno == logging.WARNING
    message = entry.getMessage()
    assert record.run_id in message
    assert "record is stored" in message
    assert "\n" not in message
    if broken == "init":
        assert "RuntimeError: no API key configured" in message
    assert dict(os.environ) == before


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_arguments_and_environment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    fake_wandb: SimpleNamespace,
    mode: str,
) -> None:
    monkeypatch.setenv("WANDB_DIR", "mine")
    monkeypatch.delenv("WANDB_CONFIG_DIR", raising=False)
    record = make_record()
    tracking.mirror(record, TrackingConfig(mode=mode, project="p", entity="e"))
    (call,), (inside,) = fake_wandb.calls, fake_wandb.environments
    assert (call["mode"], call["project"], call["entity"]) == (mode, "p", "e")
    assert (call["name"], call["group"]) == (record.run_id, "made_up")
    tracking.mirror(record, TrackingConfig(mode=mode))
    assert call["id"] != fake_wandb.calls[1]["id"]  # not WANDB_RUN_ID, which all points share
    assert call["dir"] == inside["WANDB_DIR"] == str(tmp_path / "runs")
    assert inside["WANDB_MODE"] == mode
    assert inside["WANDB_ERROR_REPORTING"] == "false"
    for key in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        assert inside[key].startswith(str(cache / "wandb"))
    # Online, the login of the user must be found where the user keeps it.
    assert ("WANDB_CONFIG_DIR" in inside) == (mode == "offline")
    assert os.environ["WANDB_DIR"] == "mine"
    assert call["config"]["kept_neurons"] == [2]
    assert fake_wandb.summary["pruned/accuracy"] == 0.8
    assert fake_wandb.finished == [0, 0]


def test_failed_run_is_mirrored_as_failed(tmp_path: Path, fake_wandb: SimpleNamespace) -> None:
    tracking.mirror(make_failure(), TrackingConfig())
    assert fake_wandb.finished == [1]
    assert fake_wandb.summary["error"] == "ValueError: it broke\nhere"
    assert "mac_kept_fraction" not in fake_wandb.summary


def test_summary_keeps_infinity_and_drops_nothing_measured() -> None:
    record = make_record({"perplexity": math.inf}, {"perplexity": 50.0}, memory={"peak": 7})
    assert tracking.mirrored_summary(record) == {
        "mac_kept_fraction": 0.49,
        "param_kept_fraction": 0.5,
        "dense/perplexity": 50.0,
        "pruned/perplexity": math.inf,
        "fidelity/kl": 0.02,
        "fidelity/agreement": 0.95,
        "timings/compress_s": 12.5,
        "costs/prunable_macs/dense": 100,
        "costs/prunable_macs/pruned": 49,
        "costs/sequence_length": 128,
        "memory/peak": 7,
    }


def test_summary_has_measured_costs_by_batch() -> None:
    entries = (cost_entry(0.5, 2.0), cost_entry(0.5, 1.5, batch=8))
    summary = tracking.mirrored_summary(measured_record(*entries))
    prefix, ending = "costs/measured/batch_", "/speedup/median"
    assert {key: summary[f"{prefix}{key}{ending}"] for key in (1, 8)} == {1: 2.0, 8: 1.5}


@pytest.mark.parametrize("mode", TRACKING_MODES)
def test_every_mode_has_a_config_file(mode: str) -> None:
    text = (ROOT / "conf" / "tracking" / f"{mode}.yaml").read_text()
    assert text.startswith("# ")
    assert TrackingConfig(**yaml.safe_load(text)).mode == mode
