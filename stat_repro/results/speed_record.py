"""Records of the speed benchmark: a schema and a study of their own, beside the runs.

<root>/speed/<shape>-n<examples>x<length>-d<layers>.json              a measurement
<root>/speed/<shape>-n<examples>x<length>-d<layers>.repeat-<k>.json   the same again, k = 1, 2, ...
<root>/speed/<shape>-...-<dtype>-<card>.json                          a measurement on a GPU
"""

import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stat_repro.config import SPEED_STUDY
from stat_repro.results import strict_json
from stat_repro.results.store import StudyError
from stat_repro.results.strict_json import RecordError
from stat_repro.results.writing import repeat_names, write_first_free

SCHEMA = "stat_repro.speed/1"


@dataclass(frozen=True, kw_only=True)
class SpeedRecord:
    """One measurement. The attributes are the top-level keys of the JSON document.

    Attributes:
        schema: `SCHEMA`.
        shape: Name of the shape.
        protocol: Sizes of model and data, ratio, repeats, threads, data type, device.
        seconds: Per stage, one value per turn; values with the same index are of one turn.
        ratios: Per quotient of stages `median`, `q25`, `q75` and `min` over the turns.
        memory: Bytes: `parameters`, `statistics` (predicted), and per stage the largest peak of
            resident memory above what was there before the stage; null where it is unknown. On a
            GPU also `..._device` peaks: all that the allocator had handed out at once.
        provenance: As in a run's record.
        run_id: Stem of the file that it was read from; no key of the document.
    """

    schema: str = SCHEMA
    shape: str
    protocol: dict[str, Any]
    seconds: dict[str, list[float]]
    ratios: dict[str, dict[str, float]]
    memory: dict[str, int | None]
    provenance: dict[str, Any]
    run_id: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Stem of its file."""
        sizes, gpu = self.protocol, self.provenance.get("gpu")
        stem = f"{self.shape}-n{sizes['examples']}x{sizes['length']}-d{sizes['layers']}"
        return stem if gpu is None else f"{stem}-{sizes['dtype']}-{_slug(gpu['name'])}"


_KEYS = {field.name for field in fields(SpeedRecord)} - {"run_id"}


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


def save_speed(record: SpeedRecord, root: Path) -> Path:
    """Store a measurement under a name of its own; none is replaced.

    Raises:
        ValueError: A value that is not finite.
        OSError: The file cannot be written; nothing is left behind.
    """
    folder = root / SPEED_STUDY
    document = {key: value for key, value in asdict(record).items() if key in _KEYS}
    text = strict_json.to_text(strict_json.stamped(document))
    return write_first_free(folder, repeat_names(folder, record.name), text.encode())


def load_speed(root: Path) -> list[SpeedRecord]:
    """All measurements, sorted by file name.

    Raises:
        StudyError: There is none.
        RecordError: A file that is no measurement, which is named.
    """
    paths = sorted((root / SPEED_STUDY).glob("*.json"))
    if not paths:
        raise StudyError(f"no speed record under {root / SPEED_STUDY}: python -m stat_repro.bench")
    return [read_speed(path) for path in paths]


def read_speed(path: Path) -> SpeedRecord:
    """The measurement in a file.

    Raises:
        RecordError: It is no measurement, or was changed since it was written.
    """
    try:
        data = strict_json.from_text(path.read_text(encoding="utf-8"))
        keys = set(data) - {strict_json.CONTENT} if isinstance(data, dict) else {}
        if keys != _KEYS or data["schema"] != SCHEMA:
            got = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise RecordError(
                f"expected schema {SCHEMA} with the keys {', '.join(sorted(_KEYS))}; got {got!r}"
            )
        strict_json.check_stamp(data)
    except (RecordError, UnicodeDecodeError) as err:
        raise RecordError(f"{path}: {err}") from err
    data.pop(strict_json.CONTENT, None)
    return SpeedRecord(**data, run_id=path.stem)
