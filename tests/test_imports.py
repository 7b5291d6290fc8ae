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
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(name):
    path = PACKAGE / name
    return sorted(path.rglob("*.py")) if path.is_dir() else [PACKAGE / f"{name}.py"]


# What each part may use of the package; everything not listed here may use what it likes.
ALLOWED = {
    "linalg": {"linalg"},
    "plan": set(),
    "paths": set(),
    "progress": set(),
    "config": {"config"},
    "modeling_stat": set(),
    "models/layouts": set(),
    "models/adapter": {"models", "plan"},
    "parallel": {"progress"},
    "calibration": {"calibration", "linalg", "models", "parallel", "plan", "progress"},
    "allocation": {"allocation", "models", "plan"},
    "cost": {"cost", "allocation", "config", "measure", "models", "progress"},
    "pruned_form": {"modeling_stat", "models", "plan"},
    "surgery": {"modeling_stat", "models", "plan", "pruned_form"},
    "data": {"data", "config", "assets", "paths"},
    "metrics": {"metrics", "data", "paths"},
    "evaluation": {"evaluation", "metrics", "models", "progress"},
    "results": {"results", "config", "paths"},
    "reporting": {"reporting", "results", "config", "paths"},
    "tracking": {"results", "config", "paths"},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_parts_use_only_what_is_below_them(name):
    files = part(name)
    assert files
    for path in files:
        for module in imports_of(path):
            if module == "stat_repro" or not module.startswith("stat_repro."):
                continue
            assert module.split(".")[1] in ALLOWED[name], f"{path.name} imports {module}"


@pytest.mark.parametrize("name", ["results", "reporting", "tracking", "plan", "config", "paths"])
def test_records_tables_and_figures_need_no_torch(name):
    for path in part(name):
        heavy = {m.split(".")[0] for m in imports_of(path)} & {"torch", "transformers"}
        assert not heavy, f"{path.name} imports {heavy}"


def test_only_the_command_line_knows_the_pipeline():
    users = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if any(m.startswith("stat_repro.pipeline") for m in imports_of(path))
    }
    assert users == {"cli.py"}


def test_no_pickle_in_the_package():
    for path in PACKAGE.rglob("*.py"):
        assert not {m.split(".")[0] for m in imports_of(path)} & {"pickle", "dill", "joblib"}
        assert "torch.load(" not in path.read_text(encoding="utf-8")


def test_files_and_functions_stay_short():
    allowed_longer = {"modeling_stat.py"}  # one self-contained file
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name not in allowed_longer:
            assert len(text.splitlines()) <= 300, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                length = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
                assert length <= 60, f"{path.name}: {node.name} has {length} lines"
