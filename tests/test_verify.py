"""`stat-repro verify`: points of a stored study are measured again and compared."""

import os
import re
import shutil
from dataclasses import replace

import pytest
from made_up_records import make_config, make_failure, make_record
from pico_project import sentence_overrides
from pico_runs import compose_here

from stat_repro.paths import project_root
from stat_repro.plan import PruningPlan
from stat_repro.results import agreement, load_records, read_record, save_record
from stat_repro.results.record import RunRecord
from stat_repro.run import commands
from stat_repro.run.points import measured


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with model, data and the records of two points and a failed one."""
    folder = tmp_path_factory.mktemp("project")
    for ratio in (0.3, 0.5):
        experiment = measured(compose_here(sentence_overrides(folder), f"ratio={ratio}"))
        save_record(experiment.record, folder / "results", experiment.examples)
    return folder


@pytest.fixture
def verify(project, capsys, monkeypatch):
    """Run the command with the files of the project; exit status and what it printed."""
    monkeypatch.chdir(project)

    def run(*words, study="local"):
        status = commands.main(["verify", study, *words, "--results", "results"])
        return status, capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def edited(project):
    """Store a copy of a point with other values in a study, whose name it gives."""

    def edit(*changes, point=0):
        document = load_records(project / "results", "local")[point].to_dict()
        for change in changes:
            change(document)
        del document["content"]
        document["config"]["study"] = "edited"
        document["provenance"]["examples"] = None
        save_record(RunRecord.from_dict(document), project / "results")
        return "edited"

    yield edit
    shutil.rmtree(project / "results" / "edited", ignore_errors=True)


HERE = {"model_hash": "1", "finetuned": False, "data_hashes.calibration": "2"}


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_points_measured_again_are_the_same_and_nothing_is_written(project, verify):
    before = files_below(project)
    status, lines = verify("--all")
    assert status == 0
    names = [record.run_id for record in load_records(project / "results", "local")]
    assert lines[:2] == [f"{name}: same: same platform" for name in names]
    assert lines[2] == "2 points: 2 same"
    assert files_below(project) == before


def test_new_records_are_kept_elsewhere(project, verify, tmp_path):
    stored = load_records(project / "results", "local")[1]
    status, (line, _) = verify("--point", stored.run_id[-10:], "--keep", str(tmp_path / "new"))
    assert (status, line.partition(": ")[2]) == (0, "same: same platform")
    again = read_record(tmp_path / "new" / "local" / f"{stored.run_id}.json")
    assert again.metrics == stored.metrics


def test_a_dry_run_lists_points_commands_and_seconds(verify, monkeypatch):
    monkeypatch.setattr("stat_repro.run.verify.measured", None)
    status, lines = verify("--random", "1", "--seed", "3", "--dry-run")
    assert status == 0
    assert lines[0] == "points drawn with --seed 3"
    assert lines[1].startswith("pico-table_file-stat-r")
    assert lines[1].endswith(" s")
    assert lines[2].startswith("  python run.py model=hf dataset=table_file pruning=stat ")
    assert lines[3].startswith("1 point, about ")
    assert verify("--random", "1", "--seed", "3", "--dry-run")[1] == lines
    (drawn, *_) = verify("--random", "2", "--dry-run")[1]
    assert drawn.removeprefix("points drawn with --seed ").isdecimal()


def less_f1(document):
    document["metrics"]["pruned"]["f1"] -= 0.004


def other_platform(document):
    document["provenance"]["processor"] = "Pico 9"


def test_a_small_difference_is_tolerated_on_another_platform_only(edited, verify):
    study = edited(less_f1)
    status, (line, summary) = verify("--all", study=study)
    assert status == 1
    assert ": differs: same platform; pruned.f1 0." in line
    assert "pruned.f1 0." in line
    assert summary.endswith(": 1 differs")


def test_the_tolerances_of_another_platform(edited, verify):
    study = edited(less_f1, other_platform)
    status, (line, _) = verify("--all", study=study)
    assert status == 0
    assert ": within tolerance: another platform (processor Pico 9, here " in line
    assert "pruned.f1 0." in line


def exchange_a_neuron(document):
    """In layer 1 the first kept neuron and the first one that is not change places."""
    layers = list(PruningPlan.from_dict(document["plan"]).layers)
    kept = layers[1].kept_neurons
    free = next(i for i in range(layers[1].neurons) if i not in kept)
    layers[1] = replace(layers[1], kept_neurons=tuple(sorted([free, *kept[1:]])))
    document["plan"] = PruningPlan(tuple(layers), "stat").to_masks()


@pytest.mark.parametrize("platform", [(), (other_platform,)])
def test_another_plan_is_told_by_layer(platform, edited, verify):
    status, (line, _) = verify("--all", study=edited(exchange_a_neuron, *platform))
    assert status == 1  # of so few neurons one is more than the tolerance
    assert ": differs: " in line
    assert "kept neurons are others (1 in layer 1)" in line


def test_another_dense_model_is_told_apart(edited, verify):
    def change(document):
        document["provenance"]["model_hash"] = "0" * 64
        document["metrics"]["dense"]["accuracy"] = 0.25
        exchange_a_neuron(document)

    status, (line, summary) = verify("--all", study=edited(change))
    assert status == 1  # nothing was confirmed
    assert ": other dense weights: same platform; sha256 0000000000 -> " in line
    assert "kept neurons are others" in line
    assert "dense.accuracy 0.25 -> 0." in line
    assert "pruned.accuracy 0." in line
    assert summary.endswith(": 1 other dense weights")


def test_other_data_is_told_apart(edited, verify):
    def change(document):
        document["provenance"]["data_hashes"]["test"] = "0" * 64

    status, (line, _) = verify("--all", study=edited(change))
    assert status == 1  # nothing was confirmed
    assert ": other data: same platform; other test examples; dense.accuracy 0." in line


def test_missing_data_is_named_and_the_others_go_on(edited, verify):
    def change(document):
        document["config"]["dataset"]["train"] = "gone.csv@0123456789"

    edited(change)
    status, lines = verify("--all", study=edited(point=1))
    assert status == 0
    assert ': not here: "gone.csv@0123456789" (--files says below which folder)' in lines[0]
    assert ": same: " in lines[1]
    assert lines[2].endswith(": 1 not here, 1 same")
    status, lines = verify("--all", "--files", "bert")
    assert status == 1  # nothing was compared
    assert lines[2].endswith(": 2 not here")


def test_folders_that_cannot_be_read_are_passed_over(project, edited, verify, monkeypatch):
    """As those that another program removes while files are looked for."""

    def change(document):
        document["config"]["dataset"]["train"] = "gone.csv@0123456789"

    def scandir(place, of=os.scandir):
        if str(place).endswith("vanished"):
            raise FileNotFoundError(2, "No such file or directory", "vanished")
        return of(place)

    (project / "vanished").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        status, lines = verify("--all", study=edited(change))
    (project / "vanished").rmdir()
    assert status == 1
    assert ': not here: "gone.csv@0123456789" (--files says' in lines[0]
    assert lines[1] == "1 point: 1 not here"


def test_files_of_one_name_are_told_apart_by_their_content(project, verify, tmp_path):
    odd = """my "best" dåta's [1].csv"""
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        shutil.copy(project / f"{part}.csv", tmp_path / part / odd)
    shutil.copytree(project / "bert", tmp_path / "models" / "bert")
    typed = odd.replace("'", r"\'")
    files = [f"dataset.{part}='{tmp_path}/{part}/{typed}'" for part in ("train", "test")]
    files += ["study=parts", "evaluation.keep_examples=false"]
    record = measured(compose_here(sentence_overrides(project), *files)).record
    save_record(record, project / "results")
    found = ("--all", "--files", str(tmp_path))
    assert verify(*found, study="parts")[1][0].endswith(": same: same platform")
    (tmp_path / "test" / odd).write_text("text,label\nw1,up\n")
    line = verify(*found, study="parts")[1][0]
    name = record.config["dataset"]["test"]
    assert f': not here: "{name}" (--files says below which folder); ' in line
    assert f"; {tmp_path / 'test' / odd} has another content" in line
    shutil.rmtree(project / "results" / "parts")


def test_a_study_without_points_is_no_success(project, capsys):
    failed = make_failure(config=make_config(study="broken"))
    save_record(failed, project / "results")
    words = ["verify", "broken", "--all", "--results", str(project / "results")]
    assert commands.main(words) != 0
    assert "study broken: expected runs that ended well; got none" in capsys.readouterr().err


def test_what_cannot_be_measured_any_more_differs(verify, monkeypatch):
    def fail(config):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("stat_repro.run.verify.measured", fail)
    status, lines = verify("--all")
    assert status == 1
    assert lines[0].endswith("differs: it cannot be measured here: RuntimeError: out of luck")


@pytest.mark.parametrize(
    ("name", "near", "far"),
    [
        ("kl", 0.0103, 0.011),
        ("mse_to_dense", 0.01 + 9e-6, 0.011),
        ("perplexity", 0.01008, 0.0102),
        ("lambada_perplexity", 0.01008, 0.0102),
        ("accuracy", 0.0199, 0.021),
    ],
)
def test_tolerances_by_metric(name, near, far):
    def verdict(again):
        records = [
            make_record({name: value}, {name: 0.5}, provenance={**HERE, "processor": value})
            for value in (0.01, again)
        ]
        return agreement.judge(*records)[0]

    assert verdict(0.01) == agreement.SAME
    assert verdict(near) == agreement.WITHIN
    assert verdict(far) == verdict(None) == agreement.DIFFERS


def test_values_that_are_no_numbers_are_compared_too():
    values = (float("nan"), float("inf"), None)
    records = [make_record({"pearson": v}, {"pearson": 0.5}, provenance=HERE) for v in values]
    for one, record in enumerate(records):
        for other, again in enumerate(records):
            same = one == other
            assert agreement.judge(record, again)[0] == ("same" if same else "differs")


def test_the_page_for_reviewers_has_the_tolerances():
    page = (project_root() / "docs" / "check.md").read_text(encoding="utf-8")
    rows = re.findall(r"\(`(\w+)`\) \| ([\d.]+) \| ([\d.]+) % \|$", page, flags=re.MULTILINE)
    written = {name: (float(one), float(other) / 100) for name, one, other in rows}
    assert written == agreement.TOLERANCES
