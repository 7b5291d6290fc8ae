"""The README is true: its code runs, its options exist, its numbers are those of the records."""

import os
import re
from pathlib import Path

import pytest
from pico_data import WORDS
from pico_project import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_code_prunes_saves_and_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "my-model", "bert")
    names = {
        "chunks_of_sentences": [
            [" ".join(WORDS[i : i + 6]) for i in range(k, k + 8)] for k in range(4)
        ]
    }
    prune, load = python_blocks()
    assert sum(bool(line.strip()) for line in prune.splitlines()) < 10
    exec(prune, names)
    dense, pruned = names["model"], names["result"].model
    assert pruned.num_parameters() < dense.num_parameters()
    names = {}
    exec(load, names)
    assert type(names["model"]) is type(pruned)
    assert names["model"].num_parameters() == pruned.num_parameters()


def test_listed_options_are_those_of_the_groups():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", README, flags=re.MULTILINE)
    groups = {group: re.sub(r"\([^)]*\)", "", text) for group, text in rows}
    for folder in sorted((ROOT / "conf").iterdir()):
        if folder.is_dir():
            listed = set(re.findall(r"`(\w+)`", groups[folder.name]))
            assert listed == {path.stem for path in folder.glob("*.yaml")}, folder.name


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def table_row(label):
    (row,) = re.findall(rf"^\| {re.escape(label)} \| (.*) \|$", README, flags=re.MULTILINE)
    return [float(cell) for cell in row.split("|")]


@pytest.mark.parametrize(
    ("label", "compat", "column"),
    [
        ("test accuracy, STAT", False, "metrics.pruned.accuracy"),
        ("test accuracy, the authors' script repeated", True, "metrics.pruned.accuracy"),
        ("agreement with the dense model, STAT", False, "metrics.fidelity.agreement"),
    ],
)
def test_numbers_are_those_of_the_records(label, compat, column):
    from stat_repro.results.store import load_records, to_frame

    frame = to_frame(load_records(ROOT / "results", "movie_reviews_minilm"))
    chosen = frame[frame["config.pruning.authors_compat"] == compat]
    means = 100 * chosen.groupby("ratio")[column].mean()
    assert table_row(label) == [round(float(value), 2) for value in means]


def test_stored_tables_and_figures_are_those_of_the_records(tmp_path, monkeypatch):
    """Rebuilding gives the committed tables byte for byte (figures depend on font versions)."""
    import importlib.util

    monkeypatch.setitem(os.environ, "STAT_REPRO_LIGHT", "1")
    spec = importlib.util.spec_from_file_location("build", ROOT / "paper_figures" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    stored = ROOT / "paper_figures" / "out"
    sweeps = (ROOT / "experiments" / "sweep").glob("*.yaml")
    studies = sorted(path.stem for path in sweeps if (ROOT / "results" / path.stem).is_dir())
    assert studies
    assert build.main(["--study", *studies, "--out", str(tmp_path)]) == 0
    for study in studies:
        for name in ("table.md", "table.tex", "table.csv"):
            assert (tmp_path / study / name).read_bytes() == (stored / study / name).read_bytes()
        assert {p.name for p in (tmp_path / study).iterdir()} == {
            p.name for p in (stored / study).iterdir()
        }
