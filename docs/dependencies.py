"""Writes docs/dependencies.md: what requirements.lock installs, with the licence of each.

`python docs/dependencies.py`, in the environment that `make` installs. The licences are those that
the packages state in their own metadata.
"""

import argparse
from importlib.metadata import PackageMetadata, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "dependencies.md"
INTRODUCTION = """# Dependencies

This table has what `make` installs, with the licence that each package states in its metadata.
`pyproject.toml` says which of these packages stat_repro uses, and from which version on. `python
docs/dependencies.py` writes this page from `requirements.lock`.

This command lists known vulnerabilities of these versions:

```sh
pipx run pip-audit -r requirements.lock --no-deps --disable-pip
```

It asks the package index for its advisories (with `-s osv` it asks OSV instead), so it needs a
network.

No version was compared with any list of known vulnerabilities, since neither source could be
reached where this page was written. So run the command before you let this software read files of
strangers. In any case models, records and tables are read without pickles, and without running code
of the folder (`model.trust_remote_code=false`). It was checked that pip-audit 2.10.1 reads all 162
lines of the lock (`--dry-run`), and that the licences below are those of what is installed. The
tests compare the lock with `pyproject.toml`.

<!-- checked by tests/test_project.py -->

| package | version | licence |
| --- | --- | --- |
"""


def licence(about: PackageMetadata) -> str:
    """The licence expression; where a package has none, its classifiers or its licence line."""
    stated = about.get("License-Expression")
    if stated is not None:
        return stated
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier") or ()
        if text.startswith("License :: ")
    ]
    lines = (about.get("License") or "").strip().splitlines()
    return ", ".join(classifiers) or (lines[0] if lines else "not stated")


def page() -> str:
    """The page: versions of the lock, licences of what is installed."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").split()
    packages = [line.split("==") for line in lock]
    rows = [f"| {name} | {version} | {licence(metadata(name))} |" for name, version in packages]
    return INTRODUCTION + "\n".join(rows) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
