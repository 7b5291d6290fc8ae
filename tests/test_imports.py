"""The arrows of the design: which part may import which."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "stat_repro"


def imports_of(path):
    """Modules that a file imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # Files that are copied into model folders name each other by their place there.
            copied = path.parent.name == "models" and path.stem.endswith("_stat")
            assert node.level <= copied, f"{path}: relative import"
            if node.level:
                continue
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(name):
    path = PACKAGE / name
    return sorted(path.rglob("*.py")) if path.is_dir() else [PACKAGE / f"{name}.py"]


# What the modules at the root may use; every room says it in its first docstring.
ROOT = {
    "api": {
        "allocation",
        "calibration",
        "config",
        "cost",
        "measure",
        "methods",
        "models",
        "parallel",
        "plan",
        "report",
        "surgery",
    },
    "entry": set(),
    "measure": set(),
    "parallel": {"progress"},
    "paths": set(),
    "plan": set(),
    "progress": set(),
    "report": {"allocation", "methods", "plan"},
    "scratch": set(),
}
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def allowed(name):
    """What a part may use: the words after `May use:` in the docstring of a room."""
    if name in ROOT:
        return ROOT[name]
    docstring = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text()))
    purpose, found, uses = docstring.partition("May use: ")
    assert found, f"{name}: its docstring does not say what it may use"
    assert len(purpose.split()) >= 5, f"{name}: its docstring does not say what it is for"
    words = {word.strip() for word in uses.rstrip(".").replace("\n", " ").split(",")}
    return words - {"nothing"}


def test_the_root_has_few_modules():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(ROOT)
    assert len(modules) <= 9


@pytest.mark.parametrize("name", [*ROOT, *ROOMS])
def test_parts_use_what_they_say_and_nothing_else(name):
    files = part(name)
    assert files
    used = set()
    for path in files:
        for module in imports_of(path):
            if module.startswith("stat_repro."):
                used.add(module.split(".")[1])
    assert used - {name} == allowed(name)


def test_no_part_uses_one_that_uses_it():
    below = {name: allowed(name) for name in [*ROOT, *ROOMS]}
    assert set().union(*below.values()) <= set(below)
    while below:
        ground = {name for name, uses in below.items() if not uses}
        assert ground, f"these use each other in a circle: {', '.join(below)}"
        below = {n: uses - ground for n, uses in below.items() if n not in ground}


@pytest.mark.parametrize(
    "name", ["results", "reporting", "run/tracking", "plan", "config", "paths"]
)
def test_records_tables_and_figures_need_no_torch(name):
    for path in part(name):
        heavy = {m.split(".")[0] for m in imports_of(path)} & {"torch", "transformers"}
        assert not heavy, f"{path.name} imports {heavy}"


def test_only_the_command_line_knows_the_pipeline():
    users = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if any(m.startswith("stat_repro.run.pipeline") for m in imports_of(path))
    }
    assert users == {"points.py"}


def test_no_pickle_in_the_package():
    for path in PACKAGE.rglob("*.py"):
        assert not {m.split(".")[0] for m in imports_of(path)} & {"pickle", "dill", "joblib"}
        assert "torch.load(" not in path.read_text(encoding="utf-8")


def test_files_and_functions_stay_short():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                length = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
                assert length <= 60, f"{path.name}: {node.name} has {length} lines"


TESTS = sorted(Path(__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_test_files_stay_short_and_apart(path):
    """What several test modules need is in a helper module or a fixture."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    assert not {name for name in imports_of(path) if name.split(".")[0].startswith("test_")}
