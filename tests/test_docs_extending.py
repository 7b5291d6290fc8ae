"""docs/extending.md works as it stands: its blocks go into a copy of the package, and run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pico_data import WORDS
from pico_project import common_overrides, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
# The first line of a block: a new file, or a place in a file that there is.
PLACE = re.compile(r'# ([\w/.]+\.(?:py|yaml))(?:, (above|below) "(.+)")?\n')


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def put(code, root):
    """Put a block where its first line says; False if it says nothing."""
    place = PLACE.match(code)
    if place is None:
        return False
    path, where, line = root / place[1], place[2], place[3]
    code = code[place.end() :]
    if where is None:
        assert not path.exists(), f"{place[1]}: exists already; say above or below which line"
        path.write_text(code, encoding="utf-8")
        return True
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (index,) = (i for i, text in enumerate(lines) if text.startswith(line))
    at = index if where == "above" else index + 1
    path.write_text("".join([*lines[:at], code, *lines[at:]]), encoding="utf-8")
    return True


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package with all blocks of the page in their places."""
    root = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("stat_repro", "conf", "experiments"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    shutil.copy(ROOT / "run.py", root)
    for code in (*blocks("yaml"), *blocks("python")):
        put(code, root)
    return root


def run_in(copy, folder, *words):
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(copy), "STAT_REPRO_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_code_after_the_changes_runs(copy, tmp_path):
    checks = [code for code in blocks("python") if not PLACE.match(code)]
    assert checks
    run_in(copy, tmp_path, "-c", "\n".join(checks))


def write_reviews(root):
    for part, count in (("train", 20), ("test", 6)):
        for name in ("neg", "pos"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                text = " ".join(WORDS[(i + k) % 40] for k in range(3 + i % 5))
                (folder / f"{i}.txt").write_text(text, encoding="utf-8")


def test_the_new_data_set_is_an_option_that_runs(copy, tmp_path):
    (command,) = (c for c in blocks("") if c.startswith("python run.py"))
    labels = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}
    save_checkpoint(tmp_path / "my-model", "bert", **labels)
    write_reviews(tmp_path / "aclImdb")
    words = shlex.split(command)[2:]
    small = ["dataset.max_length=16", "calibration.examples=30", *common_overrides(tmp_path)]
    run_in(copy, tmp_path, str(copy / "run.py"), *words, *small)
    assert len(list((tmp_path / "results" / "local").glob("mine-imdb-stat-r0.5-*.json"))) == 1
