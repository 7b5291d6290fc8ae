"""Where files go: the clone, the cache, and the shipped configuration.

Nothing is written outside the project root (the clone, or the working directory of an installed
copy) and the cache folder; models asked for by hub name go to the Hugging Face library's own cache.
"""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any

CACHE_VARIABLE = "STAT_REPRO_CACHE"
RECORD_FILE = "record.json"  # in the folder of a pruned model

_PACKAGE = Path(__file__).resolve().parent
# The folders of an absolute path inside a text; what follows `https:` or a word is no such path.
_FOLDERS = re.compile(r"(?<![\w:/.])~?(?:/[^\s/'\":,;()]+)+/(?=[^\s/])")


def is_clone() -> bool:
    """Whether the package runs from a source tree (`conf/` beside the package)."""
    return (_PACKAGE.parent / "conf" / "config.yaml").is_file()


def project_root() -> Path:
    """Root of the clone; for an installed wheel, the working directory."""
    return _PACKAGE.parent if is_clone() else Path.cwd()


def config_dir() -> Path:
    """Folder of the Hydra groups: `conf/` of the clone, or its copy inside the wheel."""
    return _PACKAGE.parent / "conf" if is_clone() else _PACKAGE / "conf"


def experiments_dir() -> Path:
    """Folder of the sweep definitions: `experiments/` of the clone, or its copy in the wheel."""
    return _PACKAGE.parent / "experiments" if is_clone() else _PACKAGE / "experiments"


def results_dir() -> Path:
    """Folder of the stored records."""
    return project_root() / "results"


def cache_dir() -> Path:
    """`$STAT_REPRO_CACHE`, by default `stat_repro` in the user's cache folder.

    Raises:
        FileNotFoundError: The user has no home folder, as in some containers.
    """
    explicit = os.environ.get(CACHE_VARIABLE)
    if explicit:
        return Path(explicit).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "stat_repro"
    except RuntimeError:
        raise FileNotFoundError(
            f"{CACHE_VARIABLE}: expected a folder for the cache, because this user has no home "
            "folder; got none; choose a folder that can be written"
        ) from None


def without_paths(value: Any) -> Any:
    """A copy of JSON data in which absolute paths are cut to their last component."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return last_component(value) if isinstance(value, str) else value


def last_component(text: str) -> str:
    """The name at the end of an absolute path; other text as it is."""
    absolute = os.path.isabs(text) or text.startswith("~") or PureWindowsPath(text).is_absolute()
    return (PureWindowsPath(text).name or text) if absolute else text  # a text may be joined by /


def name_of(path: str) -> str:
    """The name of a file or folder, also of `.` and `..`."""
    return os.path.basename(os.path.abspath(path))


def text_without_paths(text: str) -> str:
    """A message or traceback in which the folders of absolute paths are left out.

    Of modules the part behind the entry of Python's search path stays.
    """
    entries = {*sys.path, str(_PACKAGE.parent)}
    with suppress(RuntimeError):  # a user without a home folder
        entries.add(str(Path.home()))
    for entry in sorted(entries, key=len, reverse=True):
        if len(entry) > 1:
            text = text.replace(f"{entry}{os.sep}", "")
    return _FOLDERS.sub("", text)
