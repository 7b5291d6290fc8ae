"""The README is short and true: its code runs, and the stored tables are those of the records."""

import ast
import re
from pathlib import Path

import pytest
from pico_data import WORDS
from pico_project import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_it_takes_three_minutes():
    lines = README.splitlines()
    assert len(lines) <= 130
    assert sum(line.startswith("![") for line in lines) == 1
    assert max(i for i, line in enumerate(lines) if line.startswith("![")) < 20


def test_code_prunes_saves_and_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "my-model", "bert")
    names = {"chunks": [[" ".join(WORDS[i : i + 6]) for i in range(k, k + 8)] for k in range(4)]}
    prune, load = python_blocks()
    assert len(ast.parse(prune).body) == 2 + 5  # two imports, and five lines
    exec(prune, names)
    dense, pruned = names["model"], names["result"].model
    assert pruned.num_parameters() < dense.num_parameters()
    names = {}
    exec(load, names)
    assert type(names["model"]) is type(pruned)
    assert names["model"].num_parameters() == pruned.num_parameters()


STORED = ROOT / "paper_figures" / "out"
STUDIES = sorted({path.parent.name for path in (ROOT / "results").glob("*/*")} - {"local"})


def drawn(figure, stem, records):
    """The files of a figure, empty: it is laid out, but neither PDF nor PNG is written."""
    figure.draw_without_rendering()
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in ("pdf", "png")]
    for file in files:
        file.touch()
    return files


@pytest.mark.parametrize("study", STUDIES)
def test_stored_tables_and_figures_are_those_of_the_records(study, tmp_path, build, monkeypatch):
    """Rebuilding gives the committed tables byte for byte (figures depend on font versions)."""
    monkeypatch.setattr("stat_repro.reporting.outputs.save", drawn)
    assert build.main(["--study", study, "--out", str(tmp_path)]) == 0
    tables = [path for path in (STORED / study).iterdir() if path.name.startswith("table")]
    assert {"table.md", "table.tex", "table.csv"} <= {path.name for path in tables}
    for path in tables:
        assert (tmp_path / study / path.name).read_bytes() == path.read_bytes()
    built = {path.name for path in (tmp_path / study).iterdir()}
    assert {name for name in built if not name.endswith(".pdf")} == {
        path.name for path in (STORED / study).iterdir() if path.suffix != ".pdf"
    }
    pictures = {name[:-4] for name in built if name.endswith(".png")}
    assert {name[:-4] for name in built if name.endswith(".pdf")} == pictures
