"""The documents are true: their code runs, commands compose, options and links are there."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pico_config import compose_run
from pico_data import WORDS
from pico_project import save_checkpoint

from stat_repro import bench, sharded
from stat_repro.config import METHODS
from stat_repro.export import __main__ as export
from stat_repro.run import commands as program

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands():
    """Every command of the code blocks without a language, with lines put together again."""
    for name, text in TEXTS.items():
        for language, block in CODE.findall(text):
            lines = block.replace("\\\n", " ").splitlines() if language == "" else []
            found = [shlex.split(line, comments=True) for line in lines]
            yield from ((name, " ".join(words)) for words in found if words)


def test_code_of_the_pages_for_users_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "my-model", "bert")
    sentences = [[" ".join(WORDS[i : i + 6]) for i in range(k, k + 8)] for k in range(4)]
    for page in ("python.md", "records.md"):
        names = {"chunks": sentences}
        blocks = [code for language, code in CODE.findall(TEXTS[page]) if language == "python"]
        assert blocks
        for code in blocks:
            exec(compile(code, page, "exec"), names)


def is_run(words):
    return "run.py" in words or (words[0] == "stat-repro" and not program.chosen(words[1:]))


@pytest.mark.parametrize(("page", "command"), [c for c in commands() if is_run(shlex.split(c[1]))])
def test_runs_compose(page, command):
    words = shlex.split(command)
    start = words.index("run.py") + 1 if "run.py" in words else 1
    words = [word for word in words[start:] if word != "-m"]
    if words == ["--cfg", "job"] or page == "extending.md":  # that one runs in a test of its own
        return
    sweep = [word for word in words if word.startswith("sweep=")]
    for word in sweep:
        assert (ROOT / "experiments" / "sweep" / f"{word[6:]}.yaml").is_file()
    # One value of each swept key is enough: what may be combined is tested elsewhere.
    first = [re.sub(r"=([^\[,]*),.*", r"=\1", word) for word in words if word not in sweep]
    compose_run(*[word for word in first if not word.startswith("hydra.")])
    for key, values in (word.split("=", 1) for word in words if "," in word and "[" not in word):
        for value in values.split(","):
            compose_run(*first, f"{key}={value}")


def test_other_commands_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    modules = {f"stat_repro.{module.__name__.split('.')[1]}" for module in (bench, sharded)}
    for page, command in commands():
        words = [word for word in shlex.split(command) if "_NUM_THREADS=" not in word]
        if words[0] == "make":
            assert words[1] in targets, (page, command)
        elif words[:2] == ["python", "-m"]:
            assert words[2] in modules, (page, command)
        elif words[0] == "python" and words[1] != "run.py":
            assert (ROOT / words[1]).is_file(), (page, command)


def test_commands_without_hydra_are_those_that_it_reads():
    lines = [shlex.split(c) for _, c in commands() if c.startswith("stat-repro ")]
    lines = [words[1:] for words in lines if program.chosen(words[1:])]
    assert {words[0] for words in lines} >= set(program.COMMANDS)
    for words in lines:
        read = export._parse if words[0] == "export" else program.parser().parse_args
        assert read(words[1:] if words[0] == "export" else words)


def test_the_command_for_large_checkpoints_is_one_that_it_reads():
    from stat_repro.sharded.__main__ import _parse

    (command,) = (c for _, c in commands() if c.startswith("python -m stat_repro.sharded"))
    options = _parse(shlex.split(command)[3:])
    assert (options.ratio, options.examples, options.window) == (0.3, 128, 2048)


def test_listed_options_are_those_of_the_groups():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXTS["sweeps.md"], flags=re.MULTILINE)
    groups = {group: re.sub(r"\([^)]*\)", "", text) for group, text in rows}
    for folder in sorted((ROOT / "conf").iterdir()):
        if folder.is_dir():
            listed = set(re.findall(r"`(\w+)`", groups[folder.name]))
            assert listed == {path.stem for path in folder.glob("*.yaml")}, folder.name


def test_listed_methods_are_those_of_the_table():
    words = re.search(r"^`method` is one of (.*?);", TEXTS["python.md"], re.DOTALL | re.MULTILINE)
    assert re.findall(r"`(\w+)`", words[1]) == list(METHODS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_and_named_files_exist(page):
    text = CODE.sub("", TEXTS[page.name])
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for name in re.findall(r"`((?:stat_repro|tests|conf|experiments|docs)/[\w/.]*)`", text):
        assert (ROOT / name).exists() or name.startswith("docs/_build"), name


def test_every_page_is_in_the_contents():
    trees = "".join(re.findall(r"^```{toctree}\n(.*?)^```$", TEXTS["index.md"], re.DOTALL | re.M))
    others = {Path(name).stem for name in TEXTS} - {"index"}
    listed = re.findall(r"^(?:.*\.\./)?(\w+)>?$", trees, re.MULTILINE)
    assert sorted(listed) == sorted(others)
    assert set(re.findall(r"\]\((?:\.\./)?(\w+)\.md\)", TEXTS["index.md"])) == others


def test_rooms_are_described_by_their_docstrings():
    expected = ""
    for path in sorted((ROOT / "stat_repro").glob("*/__init__.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        purpose = docstring.partition("May use:")[0].strip().split("\n\n")[0]
        expected += f"| `{path.parent.name}` | {' '.join(purpose.split())} |\n"
    assert expected in TEXTS["how_it_works.md"], f"expected this table:\n{expected}"


def test_the_site_has_no_broken_link_or_name(tmp_path):
    """As `make docs`, without writing pages; takes some 20 seconds."""
    options = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    options += ["--builder", "dummy", "--conf-dir", "docs", ".", str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
