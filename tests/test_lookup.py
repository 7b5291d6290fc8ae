"""`stat-repro runs` and `show`: stored runs on the terminal, and the command that repeats one."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from made_up_records import PLAN, make_config, make_failure, make_record, sweep

from stat_repro.config import CalibrationConfig, CostConfig, from_dict, from_hydra, run_id
from stat_repro.config.pruning import PruningConfig
from stat_repro.paths import config_dir, results_dir
from stat_repro.results import StudyError, load_records, save_record
from stat_repro.run import commands
from stat_repro.run.compose import compose_run, overrides_of
from stat_repro.run.lookup import find_file, find_run, runs, show

ROOT = Path(__file__).resolve().parents[1]
# Of these stored studies one run each: what differs from the usual settings is of every kind.
STUDIES = (
    "ablation_ridge_minilm",
    "calibration_text_wikitext2",
    "cost_smollm2",
    "sketch_minilm",
    "squad_dev_minilm",
)


@pytest.mark.parametrize("study", STUDIES)
def test_the_command_of_a_record_is_that_of_the_same_run(study):
    record = load_records(results_dir(), study)[-1]
    config = from_dict(record.config)
    words = shlex.split(shlex.join(overrides_of(config)))
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        again = from_hydra(hydra.compose("config", words))
    assert run_id(again) == run_id(config)
    assert again.study == study
    assert len(words) < 20


@pytest.mark.parametrize(
    ("train", "test", "column"),
    [("a 'b', [c]=d.csv", "null", "\u017f"), ("dév.json", "[x].csv", "größe")],
)
def test_any_text_is_spelled_so_that_hydra_reads_it(train, test, column):
    values = {"dataset.train": train, "dataset.test": test, "dataset.text_column": column}
    labels = ["1", "no way", "größe 'x'", "a\\"]
    groups = {"model": "hf", "dataset": "table_file"}
    config = compose_run(groups, {**values, "model.path": "~/x@1 y", "model.labels": labels})
    words = overrides_of(config)
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        assert from_hydra(hydra.compose("config", words)) == config


@pytest.fixture
def stored(tmp_path):
    """Six runs in two studies, and one that failed."""
    records = sweep({0.3: [0.9, 0.8], 0.5: [0.7]})
    records += sweep({0.5: [0.6, 0.5]}, pruning=PruningConfig("flap", correction="bias"))
    records += [make_record(config=make_config(study="other"), seed=7), make_failure(seed=9)]
    for record in records:
        save_record(record, tmp_path)
    return tmp_path


def test_runs_are_listed_filtered_and_compared(stored):
    assert len(runs(stored, None, (), ()).splitlines()) == 2 + 7
    assert len(runs(stored, "other", (), ()).splitlines()) == 2 + 1
    flap = runs(stored, None, ("method=flap", "ratio=0.5"), ())
    assert [line.split()[-2] for line in flap.splitlines()[2:]] == ["60.00", "50.00"]
    assert flap == runs(stored, None, ("pruning.correction=bias",), ())
    assert "failed" in runs(stored, None, ("seed=9",), ())
    assert runs(stored, None, ("seed=10",), ()) == "no stored run meets these conditions"
    with pytest.raises(StudyError, match=r"--where sed=1: expected key=value .*; got 'sed'"):
        runs(stored, None, ("sed=1",), ())
    assert flap == runs(stored, None, ("method=flap", "ratio=.50"), ())
    with pytest.raises(StudyError, match=r"--where ratio: expected key=value .*; got 'ratio'$"):
        runs(stored, None, ("ratio",), ())
    seeds = runs(stored, None, ("seed=1",), ()).splitlines()[2:]
    assert len(seeds) == 2
    assert all("-s1-" in line for line in seeds)  # and no others with finetune.seed=1
    assert len(runs(stored, None, ("finetune.seed=0",), ()).splitlines()) == 2 + 7
    assert "no stored" in runs(stored, None, ("pruning.authors_compat=true",), ())
    assert flap in runs(stored, None, ("method=flap", "authors_compat=false"), ())
    with pytest.raises(StudyError, match=r"got 'name'; choose one of config.model.name, config.d"):
        runs(stored, None, ("name=pico",), ())
    names = [line.split()[0] for line in flap.splitlines()[2:]]
    lines = runs(stored, None, (), names).splitlines()[2:]
    assert {line.split()[0] for line in lines} == {
        "run_id", "seed", "metrics.pruned.accuracy", "config.seed",
    }  # fmt: skip


def test_a_run_is_listed_by_the_first_metric_of_its_benchmark(tmp_path):
    values = {"accuracy": 0.7, "matthews": 0.25}
    protocol = {"benchmark_metrics": ["matthews"]}
    save_record(make_record(values, values, protocol=protocol), tmp_path)
    (line,) = runs(tmp_path, None, (), ()).splitlines()[2:]
    assert line.split()[-5:-1] == ["Matthews", "correlation", "0.250", "0.250"]


def test_what_few_runs_have_is_typed_as_it_is_shown(tmp_path):
    """In a column with gaps nulls and whole numbers are floats; old records lack settings."""
    sketch = CalibrationConfig(statistics="sketch", sketch="gaussian", sketch_size=6144)
    old = make_record(seed=1)
    for key in ("budget", "curvature"):
        del old.config["pruning"][key]
    costs = {"params": {"dense": 22_713_216, "pruned": 11_356_608}}
    records = [make_record(config=make_config(calibration=sketch)), old, make_failure(seed=2)]
    for record in [*records, make_record(seed=3, costs=costs)]:
        save_record(record, tmp_path)
    for condition, seeds in {
        "sketch_size=6144": "0",
        "sketch_size=null": "132",
        "calibration.sketch=null": "132",
        "budget=macs": "0132",
        "budget=null": "",
        "costs.params.dense=22713216": "3",
        "error.type=null": "013",
    }.items():
        listed = runs(tmp_path, None, (condition,), ())
        assert "".join(re.findall(r"-s(\d)-", listed)) == seeds, condition


def test_texts_that_read_as_numbers_are_conditions(tmp_path):
    names = ("2026_11_27", "007", "7", "1e3", "infinity", "nan", "true")
    for seed, name in enumerate(names):
        save_record(make_record(config=make_config(study=name), seed=seed), tmp_path)
    for seed, name in enumerate(names):
        (line,) = runs(tmp_path, None, (f"study={name}",), ()).splitlines()[2:]
        assert line.startswith(f"{name}/")
        assert f"-s{seed}-" in line
    assert "no stored" in runs(tmp_path, None, ("study=null", "study=7"), ())
    assert runs(tmp_path, None, ("seed=03",), ()) == runs(tmp_path, None, ("study=1e3",), ())


@pytest.mark.parametrize("typed", ["[1,8]", "[1, 8]"])
def test_lists_are_conditions_as_run_py_takes_them(tmp_path, typed):
    for seed, sizes in enumerate(([1, 8], [1, 32])):
        config = make_config(cost=CostConfig(batch_sizes=sizes))
        save_record(make_record(config=config, seed=seed), tmp_path)
    (line,) = runs(tmp_path, None, (f"cost.batch_sizes={typed}",), ()).splitlines()[2:]
    assert "-s0-" in line


def test_what_one_of_two_runs_lacks_is_no_number(tmp_path):
    costs = {"params": {"dense": 22_713_216, "pruned": 11_356_608}}
    sketch = CalibrationConfig(statistics="sketch", sketch_size=6144)
    save_record(make_record(costs=costs), tmp_path)
    save_record(make_record(config=make_config(calibration=sketch, study="other")), tmp_path)
    lines = runs(tmp_path, None, (), ["made_up/pico", "other/pico"]).splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines}
    assert table["costs.params.dense"] == ["22713216", "-"]
    assert table["costs.sequence_length"] == ["-", "128"]
    assert table["config.calibration.sketch_size"] == ["null", "6144"]


def test_a_folder_without_runs_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert runs(folder, None, (), ()) == f"no run is stored under {folder}"
        with pytest.raises(StudyError, match="study ''"):  # of a variable that is not set
            runs(folder, "", (), ())


def test_values_that_differ_in_any_digit_and_plans_are_compared(tmp_path):
    other = {**PLAN["layers"][0], "kept_neurons": [1, 2]}
    plans = [PLAN, {**PLAN, "layers": [other]}]
    for number, plan in enumerate(plans):
        accuracy = {"accuracy": 0.8 + 1e-12 * number}
        config = make_config(study=f"study{number}")
        save_record(make_record(accuracy, config=config, plan=plan), tmp_path)
    lines = runs(tmp_path, None, (), ["study0/pico", "study1/pico"]).splitlines()
    assert "0.800000000001" in lines[2]
    assert lines[-1].split() == ["plan:", "kept", "neurons", "2", "1", "are", "others"]


def test_a_line_break_in_a_setting_breaks_no_line(tmp_path):
    for number, join in enumerate(("\n", " ")):
        config = make_config("language_modeling", study=f"study{number}")
        config.dataset.join = join
        protocol = {"task": "language_modeling", "join": join}
        save_record(make_record(config=config, protocol=protocol), tmp_path)
    lines = runs(tmp_path, None, (), ["study0/pico", "study1/pico"]).splitlines()
    (row,) = [line for line in lines if line.startswith("config.dataset.join")]
    assert row.split()[1] == '"\\n"'
    assert row.endswith('" "')
    assert '  join: "\\n"' in show("study0/pico", tmp_path).splitlines()


def test_documented_commands_that_read_records_do(capsys):
    """What is written for the terminal, as it is typed."""
    pages = [path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    lines = re.findall(r"^stat-repro ((?:runs|show|verify) .*)$", "\n".join(pages), re.MULTILINE)
    typed = [shlex.split(line, comments=True) for line in lines]
    assert {words[0] for words in typed} == {"runs", "show", "verify"}
    for words in typed:
        dry = ["--dry-run"] if words[0] == "verify" and "--dry-run" not in words else []
        assert commands.main([*words, *dry]) == 0, capsys.readouterr().err
        assert len(capsys.readouterr().out.splitlines()) >= 3
    condition = ["--where", "method=stat", "--where", "ratio=0.5"]
    assert commands.main(["runs", "--study", "methods_minilm", *condition]) == 0
    shown = capsys.readouterr().out.split("\n\n")[0].splitlines()[2:]
    assert len(shown) == 3
    assert all("-stat-r0.5-" in line for line in shown)


def test_outside_a_clone_the_command_is_that_of_the_installed_program(stored, monkeypatch):
    monkeypatch.setattr("stat_repro.run.lookup.is_clone", lambda: False)
    assert "\n  stat-repro model=hf dataset=table_file" in show("-s9-", stored)


def test_a_run_is_shown_by_its_id_a_part_of_it_its_file_or_its_study(stored):
    record = load_records(stored, "other")[0]
    path = stored / "other" / f"{record.run_id}.json"
    for name in (record.run_id, record.run_id[-10:], f"other/{record.run_id[:4]}", str(path)):
        assert find_run(name, stored) == (path, record)
    text = show(record.run_id, stored)
    for part in (record.run_id, "accuracy (%)", "90.00", "1 of 2", "2 of 4", "commit: c0ffee"):
        assert part in text
    assert "python run.py model=hf dataset=table_file pruning=stat" in text
    assert f"  stat-repro verify other --point {record.run_id} --results {stored}\n" in text
    usual = show(f"cost_minilm/{(name := _one_of('cost_minilm').partition('/')[2])}", results_dir())
    assert f"  stat-repro verify cost_minilm --point {name}\n" in usual
    assert "Protocol:\n\n  task: classification\n  split: test" in text
    assert "ValueError: it broke" in show("-s9-", stored)
    for record in (make_failure(seed=9), load_records(stored, "other")[0]):
        save_record(record, stored)  # again
    listed = [line.split()[0] for line in runs(stored, None, (), ()).splitlines()[2:]]
    assert len(set(listed)) == 9
    for name in listed:
        assert find_file(name, stored) == stored / f"{name}.json"
    with pytest.raises(StudyError, match="expected one run; got 7, such as made_up/"):
        find_run("made_up/pico-reviews", stored)
    (stored.parent / "outside").mkdir(exist_ok=True)
    (stored.parent / "outside" / "x.json").write_text("{}")
    for name in ("nope", "", "made_up/", "../no such run", "../outside/x"):
        with pytest.raises(StudyError, match="expected a run stored under"):
            find_run(name, stored)


def test_commands_that_read_records_need_no_torch():
    """`stat-repro` as it is installed: its own name is the only word that says so."""
    code = """
import sys
helps = (["--help"], ["export", "--help"])
for words in (*helps, ["runs", "--study", "cost_minilm"], ["show", "cost_minilm/minilm"]):
    sys.argv = ["/any/bin/stat-repro", *words]
    from stat_repro.run.cli import main
    try:
        main()
    except SystemExit as end:
        print(end.code)
print({"torch", "transformers"} & set(sys.modules))
"""
    environment = {k: v for k, v in os.environ.items() if k != "STAT_REPRO_LIGHT"}
    done = subprocess.run(
        [sys.executable, "-c", code.replace("cost_minilm/minilm", _one_of("cost_minilm"))],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line for line in done.stdout.splitlines() if line in ("0", "1", "2")] == ["0"] * 4
    assert done.stdout.splitlines()[-1] == "set()"


def _one_of(study):
    return f"{study}/{load_records(results_dir(), study)[0].run_id}"


def test_words_that_are_no_command_belong_to_hydra():
    for words in (["runs"], ["show", "x"], ["--help"], ["-h"]):
        assert commands.chosen(words)
    for words in ([], ["ratio=0.5"], ["-m"], ["--help", "ratio=0.5"], ["--cfg", "job"]):
        assert not commands.chosen(words)
