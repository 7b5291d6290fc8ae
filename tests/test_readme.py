"""The README is short and true: its code runs, and the stored tables are those of the records."""

import ast
import os
import re
from pathlib import Path

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
    names = {
        "chunks_of_sentences": [
            [" ".join(WORDS[i : i + 6]) for i in range(k, k + 8)] for k in range(4)
        ]
    }
    prune, load = python_blocks()
    assert len(ast.parse(prune).body) == 2 + 5  # two imports, and five lines
    exec(prune, names)
    dense, pruned = names["model"], names["result"].model
    assert pruned.num_parameters() < dense.num_parameters()
    names = {}
    exec(load, names)
    assert type(names["model"]) is type(pruned)
    assert names["model"].num_parameters() == pruned.num_parameters()


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
        paired = [path.name for path in (stored / study).glob("table_comparison.*")]
        for name in ("table.md", "table.tex", "table.csv", *paired):
            assert (tmp_path / study / name).read_bytes() == (stored / study / name).read_bytes()
        built = {path.name for path in (tmp_path / study).iterdir()}
        assert {name for name in built if not name.endswith(".pdf")} == {
            path.name for path in (stored / study).iterdir() if path.suffix != ".pdf"
        }
        pictures = {name[:-4] for name in built if name.endswith(".png")}
        assert {name[:-4] for name in built if name.endswith(".pdf")} == pictures
