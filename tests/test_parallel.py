"""Several processes on one run find what one process finds, and end together."""

import json
import math
import os
import sys
from subprocess import run as run_process

import pytest
import torch
from command_server import ENVIRONMENT, SCRIPT
from pico_models import pico_batches, pico_model
from pico_project import save_checkpoint, sentence_overrides
from ranks import command_in_ranks, run_ranks

import stat_repro
from stat_repro import parallel
from stat_repro.calibration.capture import collect_statistics
from stat_repro.methods import common
from stat_repro.models.adapter import adapter_for

CASES = {
    "stat on an encoder": ("bert", {}),
    "stat on a decoder": ("llama_grouped", {}),
    "flap, affine": ("opt", {"method": "flap", "correction": "affine"}),
    "stat layer by layer": ("llama_grouped", {"engine": "layers"}),
    "stat_plus": ("bert", {"method": "stat_plus", "sensitivity_tokens": 20}),
    "stat_plus with curvature": ("llama_grouped", {"method": "stat_plus", "curvature": "fisher"}),
    "fisher": ("bert", {"method": "fisher"}),
    "shortgpt": ("llama_grouped", {"method": "shortgpt", "ratio": 1 / 3}),
}
BATCHES = 5  # not a multiple of the processes


def compressed(name, options):
    """What a compression finds and does, as plain values."""
    model = pico_model(name)
    batches = pico_batches(model, count=BATCHES)
    if name == "bert":
        batches = [{**b, "labels": torch.arange(4) % 2} for b in batches]
    passes, folds = [], []
    model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    fold = common.fold_site

    def counted(model, site, *rest):
        folds.append((site.layer, site.kind))
        return fold(model, site, *rest)

    common.fold_site = counted
    try:
        result = stat_repro.compress(model, batches, **{"ratio": 0.4, **options})
    finally:
        common.fold_site = fold
    return {
        "plan": result.plan.to_dict(),
        "weights": result.model.state_dict(),
        "errors": [
            math.nan if error.relative_error is None else error.relative_error
            for error in result.report.site_errors
        ],
        "seen": (result.report.calibration_tokens, result.report.calibration_examples),
        "passes": len(passes),
        "folds": folds,
    }


def all_cases():
    return {label: compressed(*case) for label, case in CASES.items()}


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return all_cases()


@pytest.fixture(scope="module")
def in_two(tmp_path_factory):
    return run_ranks(all_cases, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("label", CASES)
def test_two_processes_find_what_one_finds(label, alone, in_two):
    one = alone[label]
    for two in (rank[label] for rank in in_two):
        assert two["plan"]["layers"] == one["plan"]["layers"]
        assert two["seen"] == one["seen"]
        assert two["errors"] == pytest.approx(one["errors"], rel=1e-6, abs=1e-7, nan_ok=True)
        assert two["weights"].keys() == one["weights"].keys()
        for key, weight in one["weights"].items():
            torch.testing.assert_close(two["weights"][key], weight)


@pytest.mark.parametrize("label", CASES)
def test_both_processes_have_the_same_bits(label, in_two):
    first, second = (rank[label] for rank in in_two)
    assert first["plan"] == second["plan"]
    for key, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][key])


def test_the_work_is_shared(alone, in_two):
    label = "stat on an encoder"
    assert alone[label]["passes"] == 2 * BATCHES
    assert [rank[label]["passes"] for rank in in_two] == [6, 4]
    for rank, folds in enumerate(rank[label]["folds"] for rank in in_two):
        assert {layer % 2 for layer, _ in folds} == {rank}
    both = in_two[0][label]["folds"] + in_two[1][label]["folds"]
    assert sorted(both) == sorted(alone[label]["folds"])


def unshared(statistics, count):
    """What several processes refuse."""
    model = pico_model("bert")
    batches = pico_batches(model, count=count)
    collect_statistics(model, adapter_for(model), batches, statistics=statistics)


@pytest.mark.parametrize(
    ("statistics", "count", "message"),
    [
        ("exact", 2, "expected statistics=gram; got exact"),
        ("sketch", 2, "expected statistics=gram; got sketch"),
        ("gram", 1, "expected a batch for each of 2 processes; got batches for 1"),
    ],
)
def test_what_cannot_be_shared_is_refused(statistics, count, message, tmp_path):
    for found in run_ranks(lambda: unshared(statistics, count), tmp_path):
        assert found.startswith("CalibrationError")
        assert message in found


def test_values_go_around(tmp_path):
    def work():
        own = list(parallel.own_share(range(7)))
        lazily = list(parallel.own_share(iter(range(7))))
        total = torch.full((2,), float(parallel.world().rank + 1), dtype=torch.float64)
        parallel.sum_over_ranks([total])
        squares = parallel.spread(range(5), lambda i: (i * i, parallel.world().rank), "squares")
        return own, lazily, parallel.in_turns([10 * i for i in own]), total.tolist(), squares

    found = run_ranks(work, tmp_path, size=3)
    for rank, (own, lazily, turns, total, squares) in enumerate(found):
        assert own == lazily == list(range(7))[rank::3]
        assert turns == [0, 10, 20, 30, 40, 50, 60]
        assert total == [6.0, 6.0]
        assert squares == [(0, 0), (1, 1), (4, 2), (9, 0), (16, 1)]


def test_one_process_needs_none_of_it():
    assert parallel.world() == parallel.World(0, 1)
    batches = [1, 2, 3]
    assert parallel.own_share(batches) is batches
    assert parallel.exchange("x") == ["x"]
    assert parallel.spread([1, 2], str, "texts") == ["1", "2"]
    with pytest.raises(KeyError), parallel.together():
        raise KeyError("as it is")


def test_an_error_ends_all_and_says_where_it_was(tmp_path):
    def work():
        with parallel.together():
            if parallel.world().rank == 1:
                raise ValueError("no such column")
            parallel.sum_over_ranks([torch.zeros(2)])

    first, second = run_ranks(work, tmp_path)
    assert first == "RankError: process 1 of the run: ValueError: no such column"
    assert second == "ValueError: no such column"


def test_an_error_after_the_others_have_finished_reaches_them(tmp_path):
    def work():
        with parallel.together():
            parallel.exchange(None)
            if parallel.world().rank == 0:
                raise OSError("disk full")

    first, second = run_ranks(work, tmp_path)
    assert first == "OSError: disk full"
    assert second == "RankError: process 0 of the run: OSError: disk full"


def test_a_process_that_is_gone_is_noticed(tmp_path):
    def work():
        if parallel.world().rank == 1:
            raise MemoryError
        parallel.exchange(None)

    first, _ = run_ranks(work, tmp_path)
    assert first.startswith("RankError")
    assert "cannot be reached" in first


def test_processes_that_would_compute_different_things_are_stopped(tmp_path):
    def work():
        parallel.same_everywhere("size", 3)
        parallel.same_everywhere("weights", "abc"[parallel.world().rank :])

    for found in run_ranks(work, tmp_path):
        assert found == (
            "RankError: weights: expected the same in every process of the run; "
            "got abc in process 0, bc in process 1"
        )


def records_in(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_a_sweep_in_two_processes_has_one_account(tmp_path):
    done = command_in_ranks(["-m", "ratio=0.3,1.5,0.5", *sentence_overrides(tmp_path)], tmp_path)
    assert [rank.returncode for rank in done] == [1, 1], done
    assert "1 of 3 points failed" in done[0].stdout
    assert done[1].stdout + done[1].stderr == ""
    records = records_in(tmp_path / "results" / "local")
    assert [record["ratio"] for record in records] == [0.3, 0.5]
    assert records[0]["provenance"]["device"] == "cpu, 2 processes"
    again = command_in_ranks(["ratio=0.3", *sentence_overrides(tmp_path)], tmp_path)
    assert [rank.returncode for rank in again] == [0, 0]
    assert "already stored" in again[0].stdout
    assert len(records_in(tmp_path / "results" / "local")) == 2


def test_a_failure_of_one_process_is_recorded_once_and_ends_both(tmp_path):
    """The second process cannot use its cache; the first one says so and goes on with the sweep."""
    overrides = sentence_overrides(tmp_path)
    bare = save_checkpoint(tmp_path / "bare", "bert", head="Model")
    overrides = [*overrides, f"model.path={bare}", "finetune=short", "finetune.epochs=1"]
    (tmp_path / "no_folder").write_text("")
    caches = {0: {"STAT_REPRO_CACHE": str(tmp_path / "cache")}}
    caches[1] = {"STAT_REPRO_CACHE": str(tmp_path / "no_folder")}
    done = command_in_ranks(["-m", "ratio=0.3,0.5", *overrides], tmp_path, caches)
    assert [rank.returncode for rank in done] == [1, 1], done
    assert "2 of 2 points failed" in done[0].stdout
    assert "process 1 of the run: AssetError" in done[0].stdout
    failed = records_in(tmp_path / "results" / "local" / "failed")
    assert [record["error"]["type"] for record in failed] == ["RankError"] * 2
    assert records_in(tmp_path / "results" / "local") == []


def test_torchrun_stores_the_record_of_one_process(tmp_path):
    """The command as it is typed."""
    overrides = ["ratio=0.4", *sentence_overrides(tmp_path), f"save_to={tmp_path / 'models'}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = run_process(
        [*launcher, str(SCRIPT), *overrides],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (shared,) = records_in(tmp_path / "results" / "local")
    alone = [f"results={tmp_path / 'alone'}", "save_to=null"]
    (done,) = command_in_ranks([*overrides, *alone], tmp_path, size=1)
    assert done.returncode == 0, done.stdout + done.stderr
    (single,) = records_in(tmp_path / "alone" / "local")
    assert shared["run_id"] == single["run_id"]
    assert shared["plan"]["layers"] == single["plan"]["layers"]
    assert shared["metrics"]["pruned"] == pytest.approx(single["metrics"]["pruned"])
    assert shared["metrics"]["dense"] == single["metrics"]["dense"]
    assert (tmp_path / "models" / shared["run_id"] / "model.safetensors").is_file()
