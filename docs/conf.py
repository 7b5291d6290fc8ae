"""The site that `make docs` builds. Its source folder is the clone, so README.md is a page of it.

Strict: a broken link, an unknown page and the name of an exception that does not exist fail.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Progress bars and notices of libraries have no place in the build's output.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

project = "stat_repro"
author = "the stat_repro authors"
copyright = author
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/**"]
include_patterns += ["paper_figures/out/*/*.md", "results/*/*.md"]
exclude_patterns = ["docs/_build", "docs/_templates", "paper_figures/out/local", "results/local"]
exclude_patterns += [".*", "conf", "experiments", "outputs", "stat_repro", "tests", "wandb"]
templates_path = [str(Path(__file__).parent / "_templates")]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = project
html_copy_source = False
myst_heading_anchors = 3
# Tables of studies are linked from docs/results.md; that docs/index.md lists all others is tested.
suppress_warnings = ["toc.not_included"]

# Pages of modules that are gone would stay.
shutil.rmtree(ROOT / "docs" / "_api", ignore_errors=True)

# Docstrings are Google style; single backticks are code.
default_role = "code"
autosummary_generate = True
autosummary_ignore_module_all = True
autodoc_default_options = {"ignore-module-all": True}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# Types are written for people ("float64 tensors of shape (n, F)"), not as names to look up.
# Names of exceptions are checked.
nitpick_ignore_regex = [("py:(class|obj)", r".*"), ("py:exc", r"(omegaconf|torch)\..*")]
napoleon_use_ivar = True
napoleon_use_rtype = False


def _plain_bars(
    app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """`|x|` in a docstring is an absolute value, `P_` a letter with an index: no markup."""
    lines[:] = [re.sub(r"\||_(?!\w)", r"\\\g<0>", line) for line in lines]


def setup(app: Any) -> None:
    """Sphinx calls this when it reads the file."""
    app.connect("autodoc-process-docstring", _plain_bars, priority=900)
