"""The GLUE benchmark: the properties of its tasks in one table, its data from the hub or files.

Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding,
ICLR 2019 (arXiv 1804.07461).
"""

from dataclasses import dataclass, replace

from stat_repro.config import DatasetConfig
from stat_repro.data.errors import DataError
from stat_repro.data.hub import from_hub, local_copy
from stat_repro.data.labels import fixed_indices, hidden, targets
from stat_repro.data.local_parts import local_form, part_files, read_part, table_of
from stat_repro.data.table_files import Columns, texts
from stat_repro.entry import listed

_KEY = "dataset.path"
_SCORES = (0.0, 5.0)
_HIDDEN = "GLUE keeps the labels of its test part to itself; evaluation.split=validation has labels"


@dataclass(frozen=True)
class GlueTask:
    """What the benchmark fixes for one task.

    Where there are several column names, the first is the hub's and the other that of the official
    release's files.

    Attributes:
        subset: Name on the hub.
        folder: Folder of the official release.
        first: Column of the (first) sentence.
        rows: Examples of the training and of the validation part on the hub.
        second: Column of the second sentence; empty for single sentences.
        classes: Class names by index, in the hub's order; None for a score from 0 to 5.
        label: Column of the label.
        metrics: What the benchmark reports, by the names of the record.
        genres: MNLI: end of the names of the evaluated parts.
        headerless: Columns of csv and tsv files without a header line, where those are in use.
        copy: Beginning of the names of such files in a widespread copy.
        disputed_order: Whether published checkpoints disagree on the order of the classes.
    """

    subset: str
    folder: str
    first: tuple[str, ...]
    rows: tuple[int, int]
    second: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    label: tuple[str, ...] = ("label",)
    metrics: tuple[str, ...] = ("accuracy",)
    genres: str = ""
    headerless: tuple[str, ...] = ()
    copy: str = ""
    disputed_order: bool = False

    @property
    def task(self) -> str:
        """`classification` or `regression`."""
        return "regression" if self.classes is None else "classification"

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Names of the hub's split, and of files, for every part."""
        names = {
            "train": ("train",),
            "validation": (f"validation{self.genres}", f"dev{self.genres}"),
            "test": (f"test{self.genres}",),
        }
        if self.copy:
            names = {part: (*stems, self.copy + stems[-1]) for part, stems in names.items()}
        return names

    @property
    def subfolders(self) -> tuple[str, str]:
        """Subfolders of a local copy that may hold the task's files."""
        return self.subset, self.folder

    def deviation(self, train: int, validation: int) -> str | None:
        """In words how the sizes of a copy differ from the benchmark's; None if they do not."""
        if (train, validation) == self.rows:
            return None
        return (
            f"{train:,} training and {validation:,} validation examples, GLUE has "
            f"{self.rows[0]:,} and {self.rows[1]:,}"
        )


_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = GlueTask("mnli", "MNLI", ("premise", "sentence1"), (392_702, 9_815),
                 ("hypothesis", "sentence2"), ("entailment", "neutral", "contradiction"),
                 label=("label", "gold_label"), genres="_matched", disputed_order=True)  # fmt: skip
# On the hub and in the release, first sentence, examples, second sentence, classes, the rest.
GLUE_TASKS: dict[str, GlueTask] = {
    "mnli": _MNLI,
    "mnli_mismatched": replace(_MNLI, rows=(392_702, 9_832), genres="_mismatched"),
    "qqp": GlueTask("qqp", "QQP", ("question1",), (363_846, 40_430), ("question2",),
                    ("not_duplicate", "duplicate"), label=("label", "is_duplicate"),
                    metrics=("accuracy", "f1")),
    "qnli": GlueTask("qnli", "QNLI", ("question",), (104_743, 5_463), ("sentence",), _ENTAILMENT),
    "sst2": GlueTask("sst2", "SST-2", ("sentence",), (67_349, 872),
                     classes=("negative", "positive"), headerless=("sentence", "label")),
    "stsb": GlueTask("stsb", "STS-B", ("sentence1",), (5_749, 1_500), ("sentence2",),
                     label=("label", "score"), metrics=("pearson", "spearman"),
                     headerless=("sentence1", "sentence2", "label"), copy="stsb-en-"),
    "mrpc": GlueTask("mrpc", "MRPC", ("sentence1", "#1 String"), (3_668, 408),
                     ("sentence2", "#2 String"), ("not_equivalent", "equivalent"),
                     label=("label", "Quality"), metrics=("accuracy", "f1")),
    "cola": GlueTask("cola", "CoLA", ("sentence",), (8_551, 1_043),
                     classes=("unacceptable", "acceptable"), metrics=("matthews",),
                     headerless=("source", "label", "original judgement", "sentence")),
    "rte": GlueTask("rte", "RTE", ("sentence1",), (2_490, 277), ("sentence2",), _ENTAILMENT),
}  # fmt: skip


def glue_task(config: DatasetConfig) -> GlueTask:
    """The task that `source` (`glue:<task>`) names.

    Raises:
        DataError: An unknown task, or one of another kind than `config.task`.
    """
    name = config.source.removeprefix("glue:")
    if name not in GLUE_TASKS:
        valid = ", ".join(f"glue:{known}" for known in GLUE_TASKS)
        raise DataError(f"dataset.source: expected one of {valid}; got {config.source!r}")
    task = GLUE_TASKS[name]
    tasks = (task.task, "similarity") if task.task == "regression" else (task.task,)
    if config.task not in tasks:
        raise DataError(f"dataset.task: {name} is a {' or '.join(tasks)} task; got {config.task}")
    return task


def load_glue(config: DatasetConfig, task: GlueTask) -> tuple[dict[str, Columns], dict[str, str]]:
    """The parts of a GLUE task that have labels.

    Args:
        config: `path` is the benchmark on the hub, or a local folder (see
            `stat_repro.data.local_parts.part_files`).
        task: The task.

    Returns:
        Columns `text`, `text_pair` (sentence pairs) and `label` (class index or score) by part,
        and for every other part why it is not there.

    Raises:
        DataError: Data that cannot be had or is not the task's.
    """
    if config.path is None:
        raise DataError(f"{_KEY}: expected nyu-mll/glue or a local folder; got null")
    folder = local_copy(config.path, _KEY)
    if folder is None:
        return _from_hub(config.path, config.revision, task), {"test": _HIDDEN}
    parts: dict[str, Columns] = {}
    absent: dict[str, str] = {}
    files = part_files(folder, task.parts, task.subfolders)
    for part, names in task.parts.items():
        if part not in files:
            absent[part] = f"{folder} has no {' or '.join(names)} file"
            continue
        labels = None if task.classes is None else ("0", "1", *task.classes)
        table = read_part(files[part], task.headerless, labels)
        where = str(files[part][0])
        if part == "test" and _labels_hidden(table, task):
            absent[part] = f"{where} has no labels. {_HIDDEN}"
            continue
        parts[part] = _columns(table, task, where)
    return parts, absent


def _from_hub(name: str, revision: str | None, task: GlueTask) -> dict[str, Columns]:
    parts = {}
    for part in ("train", "validation"):
        split = task.parts[part][0]
        rows = from_hub(
            name,
            split=split,
            key=_KEY,
            local_form=local_form(task.parts, task.subfolders),
            subset=task.subset,
            revision=revision,
        )
        where = f"{name} ({task.subset}), split {split}"
        parts[part] = _columns(table_of(rows), task, where)
    return parts


def _labels_hidden(table: Columns, task: GlueTask) -> bool:
    present = [name for name in task.label if name in table]
    return not present or hidden(table[present[0]])


def _column_name(table: Columns, names: tuple[str, ...], task: GlueTask, where: str) -> str:
    present = [name for name in names if name in table]
    if len(present) != 1:
        form = ", ".join(task.headerless)
        kind = "a number" if task.classes is None else "0 or 1"
        hint = f"; without a header line the fields are {form}, label {kind}" if form else ""
        raise DataError(
            f"{where}: expected one column {' or '.join(map(repr, names))} (the hub's name, or the "
            f"official release's); the table has {listed(table)}{hint}"
        )
    return present[0]


def _columns(table: Columns, task: GlueTask, where: str) -> Columns:
    """Sentences and labels under the names of this package."""
    columns: Columns = {}
    for column, names in (("text", task.first), ("text_pair", task.second)):
        if names:
            name = _column_name(table, names, task, where)
            columns[column] = texts(table[name], where, name, empty_allowed=True)
    name = _column_name(table, task.label, task, where)
    what = f"{where}, column {name!r}"
    if task.classes is not None:
        columns["label"] = fixed_indices(table[name], task.classes, what)
        return columns
    columns["label"] = targets(table[name], what)
    for row, score in enumerate(columns["label"], start=1):
        if not _SCORES[0] <= score <= _SCORES[1]:
            raise DataError(f"{what}, row {row}: expected a score from 0 to 5; got {score:g}")
    return columns
