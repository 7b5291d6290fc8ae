"""What the files of the project say about each other: version, licence, requirements, checks."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import stat_repro

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# In an environment of its own, as pyproject.toml says; `make report` installs its one package.
NOT_LOCKED = {"ray", "clients", "report"}


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def recipe(target):
    """The commands of a target of the Makefile."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, flags=re.MULTILINE)
    return [line.replace("$(BIN)", ".venv/bin") for line in lines.replace("\t", "").splitlines()]


@pytest.mark.parametrize(
    "script",
    [
        *("docs/claims.py", "docs/dependencies.py", "docs/serving.py", "docs/trust.py"),
        *("experiments/gpu.py", "experiments/half_precision.py", "experiments/served.py"),
        *("paper_figures/build.py", "paper_figures/results_page.py"),
    ],
)
def test_scripts_refuse_what_they_do_not_know(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.path", [str(ROOT / "docs"), *sys.path])
    monkeypatch.setenv("STAT_REPRO_LIGHT", "1")
    for given, status in (("--help", 0), ("--hepl", 2)):
        monkeypatch.setattr("sys.argv", [script, given])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert end.value.code == status
    printed = capsys.readouterr()
    assert "usage: " in printed.out
    assert "unrecognized arguments: --hepl" in printed.err


def test_one_version_everywhere():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?(\w[\w.]*)\]?", changes, flags=re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert {
        stat_repro.__version__,
        PROJECT["version"],
        read_yaml("CITATION.cff")["version"],
        versions[1],
    } == {stat_repro.__version__}


def test_one_licence_everywhere():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 the stat_repro authors\n")
    assert PROJECT["license"] == read_yaml("CITATION.cff")["license"] == "MIT"
    assert PROJECT["license-files"] == ["LICENSE"]


def test_citation_names_the_software_and_the_paper():
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert {"type", "title", "authors", "year"} <= set(paper)
    assert paper["url"].endswith("/2406.00061")


def test_pre_commit_runs_the_commands_of_make_lint():
    hooks = [
        hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]
    ]
    entries = [hook["entry"] for hook in hooks]
    assert entries[: len(recipe("lint"))] == recipe("lint")
    assert not [entry for entry in entries if "|| true" in entry]
    assert {hook["language"] for hook in hooks} == {"system"}


def test_the_workflow_runs_make_test_on_every_python_that_is_supported():
    (job,) = read_yaml(".github/workflows/test.yml")["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make test PYTHON=python"]
    pythons = SpecifierSet(PROJECT["requires-python"])
    supported = [f"3.{minor}" for minor in range(9, 20) if f"3.{minor}" in pythons]
    assert job["strategy"]["matrix"]["python"] == supported
    assert f"expected Python {supported[0]} to {supported[-1]}" in MAKEFILE


def test_make_help_names_every_target():
    (targets,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    told = set(re.findall(r'@echo "make (\w+) ', MAKEFILE))
    assert told == set(targets.split()) - {"help"}


def test_lock_lines_are_exact_and_name_no_index():
    names = []
    for line in LOCK:
        name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()
        assert Requirement(line).specifier.contains(version, prereleases=True)
        names.append(canonicalize_name(name))
    assert len(names) == len(set(names))


def direct_requirements():
    extras = PROJECT["optional-dependencies"]
    parts = [
        PROJECT["dependencies"],
        *(extras[name] for name in sorted(extras.keys() - NOT_LOCKED)),
    ]
    return [Requirement(line) for part in parts for line in part]


@pytest.mark.parametrize("requirement", direct_requirements(), ids=lambda r: r.name)
def test_the_lock_has_what_the_project_requires(requirement):
    locked = {canonicalize_name(name): v for name, v in (line.split("==") for line in LOCK)}
    version = locked[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("requirement", direct_requirements(), ids=lambda r: r.name)
def test_every_requirement_has_a_lower_bound(requirement):
    assert {">=", "=="} & {part.operator for part in requirement.specifier}


def test_saved_folders_need_the_transformers_that_the_package_needs(monkeypatch):
    (needed,) = (r for r in direct_requirements() if r.name == "transformers")
    code = (ROOT / "stat_repro" / "models" / "configuration_stat.py").read_text(encoding="utf-8")
    (given,) = re.findall(r'require_version\("(.*)", ', code)
    assert set(Requirement(given).specifier) < set(needed.specifier)
    said = "needs only torch and " + given.replace(">=", " ") + " or later"
    for page in ("README.md", "docs/python.md"):
        assert said in (ROOT / page).read_text(encoding="utf-8")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.16.1")
    with pytest.raises(ImportError, match=r"transformers>=5.17 is required.*found.*==5.16.1"):
        runpy.run_path(str(ROOT / "stat_repro" / "models" / "configuration_stat.py"))


def test_the_page_of_dependencies_is_that_of_the_lock():
    written = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "docs" / "dependencies.py"))["page"]() == written
