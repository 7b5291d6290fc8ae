"""Provenance of records, and what reading them imports."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_records import make_record

from stat_repro import results
from stat_repro.results import RunRecord, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_of_a_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert provenance.git_state(tmp_path)["commit"] is None  # no commit yet
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False, "git_note": None}
    assert provenance.git_state(tmp_path) == clean
    (tmp_path / "results" / "study").mkdir(parents=True)
    (tmp_path / "results" / "study" / "new.json").write_text("{}")
    assert provenance.git_state(tmp_path) == clean
    (tmp_path / "method.py").write_text("y = 2\n")
    assert provenance.git_state(tmp_path) == {**clean, "dirty": True}
    (tmp_path / "method.py").unlink()
    (tmp_path / "code.py").write_text("x = 3\n")
    assert provenance.git_state(tmp_path) == {**clean, "dirty": True}
    # A folder inside a checkout is not that checkout.
    assert provenance.git_state(tmp_path / "results")["commit"] is None


def test_records_name_the_code_that_runs(tmp_path: Path) -> None:
    """A checkout that changes while points run: the commit stays, and the rest is said."""

    def commit(message: str) -> str:
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", message)
        return git(tmp_path, "rev-parse", "HEAD")

    def collected() -> dict[str, Any]:
        return provenance.code_state(tmp_path)

    git(tmp_path, "init", "-q")
    first = commit("first")
    assert collected() == {"commit": first, "dirty": False, "git_note": None}
    commit("second")
    note = "the checkout was changed while this process ran"
    assert collected() == {"commit": first, "dirty": True, "git_note": note}
    git(tmp_path, "checkout", "-q", first)
    assert collected() == {"commit": first, "dirty": False, "git_note": None}


def test_git_state_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    state = provenance.git_state(tmp_path)
    assert (state["commit"], state["dirty"]) == (None, None)
    assert "not a git repository" in state["git_note"]
    monkeypatch.setenv("PATH", "")
    assert "git could not be run" in provenance.git_state(tmp_path)["git_note"]


def test_collected_provenance_fits_a_record(tmp_path: Path) -> None:
    found = results.collect(
        device="cpu", dtypes={"model": "float32"}, data_hashes={"test": "ab"}, model_hash="cd"
    )
    again = RunRecord.from_json(make_record(provenance=found).to_json()).provenance
    assert again == found
    assert found["packages"]["numpy"] == np.__version__
    assert found["date"].endswith("+00:00")
    assert found["python"] == ".".join(str(n) for n in sys.version_info[:3])
    assert provenance.package_versions(("no-such-package",)) == {"no-such-package": None}


def test_hash_of_a_model_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    expected = hashlib.sha256(b"config.json\x002\x00{}model.safetensors\x007\x00weights")
    first = provenance.hash_files(tmp_path)
    assert first == expected.hexdigest()
    (tmp_path / "README.md").write_text("about")
    assert provenance.hash_files(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert provenance.hash_files(tmp_path) != first
    with pytest.raises(provenance.ProvenanceError, match="no folder"):
        provenance.hash_files(tmp_path / "missing")


HEAVY = """
import sys
assert "pandas" in sys.modules, "the statement did not import what it should"
print(sorted({"torch", "transformers", "wandb"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("statement", "light"),
    [
        ("import stat_repro.results, stat_repro.reporting.outputs, stat_repro.run.tracking", True),
        *(
            (f"import runpy, sys; sys.path += ['docs']; runpy.run_path('{program}')", False)
            for program in (
                "paper_figures/build.py",
                "paper_figures/results_page.py",
                "docs/claims.py",
            )
        ),
    ],
)
def test_no_torch(statement: str, light: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "STAT_REPRO_LIGHT"}
    if light:  # the programs of `make paper` ask for it themselves
        environment["STAT_REPRO_LIGHT"] = "1"
    command = [sys.executable, "-c", statement + HEAVY]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
