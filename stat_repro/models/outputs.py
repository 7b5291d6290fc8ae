"""Which output of a classifier stands for which class of a data set.

Checkpoints and data sets often number the same classes differently (MNLI!), and a score computed
over two different orders looks like that of a bad model. So outputs are matched by name; the model
itself is not changed.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from stat_repro.config import ConfigError
from stat_repro.config.model import class_name, placeholders
from stat_repro.entry import listed

log = logging.getLogger("stat_repro")

_IN_ORDER = "%s, which are taken in this order; if it is another, choose %s"


@dataclass(frozen=True)
class OutputOrder:
    """The order in which a model's outputs are read.

    Attributes:
        columns: For every class of the data set the model's output; None if the orders agree.
        note: For the protocol; None if names and order are the same.
    """

    columns: tuple[int, ...] | None = None
    note: str | None = None

    def arrange(self, logits: Tensor) -> Tensor:
        """Logits (N, C) in the order of the data set's classes."""
        return logits if self.columns is None else logits[:, list(self.columns)]

    def targets(self, labels: Tensor) -> Tensor:
        """Labels (N,) of the data set as numbers of the model's outputs."""
        return labels if self.columns is None else torch.tensor(self.columns)[labels]


def output_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """Names of a checkpoint's outputs in order; one without, or with a number, gets a text."""
    names = config.id2label
    return tuple(str(names.get(i, f"LABEL_{i}")) for i in range(config.num_labels))


def match_outputs(
    outputs: Sequence[str],
    classes: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    names_needed: bool = False,
    checkpoint: str,
    data: str,
) -> OutputOrder:
    """Match the outputs of a checkpoint with the classes of a data set by name.

    Case and separators do not count ("NOT_ENTAILMENT" is "not entailment"), nor how a number is
    written ("01" is "1.0"). A checkpoint without names (LABEL_0, LABEL_1, ...) is taken in the data
    set's order, and class numbers of a data set without names as numbers of the outputs, with a
    warning if the other side has names.

    Args:
        outputs: Names of the checkpoint's outputs, in order.
        classes: Names of the data set's classes, in order.
        labels: Names to use instead of the checkpoint's (`model.labels`).
        names_needed: Refuse a checkpoint without names.
        checkpoint: What to call the checkpoint in messages.
        data: What to call the data set in messages.

    Raises:
        ConfigError: Another number of outputs, other names, or no names where they are needed;
            shows both sides.
    """
    if labels is not None and len(labels) != len(outputs):
        raise ConfigError(
            f"model.labels: expected {len(outputs)} names, one for each output of {checkpoint} "
            f"({_listed(outputs)}); got {_listed(labels)}"
        )
    names = tuple(outputs if labels is None else labels)
    both = f"{checkpoint} has the outputs {_listed(names)}, {data} the classes {_listed(classes)}"
    if len(names) != len(classes):
        choose = ""
        if len(names) > len(classes):
            choose = (
                ". stat-repro eval takes a file without rows of every class, with outputs that are "
                f"named as its labels are: {_override(names)}"
            )
        raise ConfigError(f"{both}: expected the same number of them{choose}")
    override = "" if labels is None else "outputs named by model.labels, "
    numbered = all(name.lstrip("-").isdigit() for name in classes)
    columns = _positions(names, classes)
    if columns is None and _unnamed(names):
        if names_needed:
            raise ConfigError(
                f"{both}. Checkpoints disagree on this order and this one has no names; "
                f"its model card may. Give it: {_override(classes)}"
            )
        if not numbered or names[0] == "0":  # other numbers than the data's
            log.warning(_IN_ORDER, both, _override(classes))
        return OutputOrder(note=f"outputs have no names, taken as {', '.join(classes)}")
    if columns is None:
        if numbered:
            log.warning(_IN_ORDER, both, _override(classes))
            return OutputOrder(note=f"class numbers taken as the outputs {', '.join(names)}")
        raise ConfigError(
            f"{both}: expected the same names, in any order. If they mean the same, give the data "
            f"set's names in the order of the outputs: {_override(classes)}"
        )
    if columns == tuple(range(len(columns))):
        return OutputOrder(note=f"{override}in the data set's order" if override else None)
    return OutputOrder(
        columns, f"{override}matched by name: {', '.join(names)} read as {', '.join(classes)}"
    )


def _listed(names: Sequence[str]) -> str:
    return f"[{listed(names)}]"


def _override(classes: Sequence[str]) -> str:
    """How to name the outputs, with placeholders, because their order is not known."""
    given = placeholders(len(classes))
    return f"{given} (stat-repro prune or eval: --set '{given}')"


def _unnamed(names: Sequence[str]) -> bool:
    numbers = range(len(names))
    return tuple(names) in (tuple(f"LABEL_{i}" for i in numbers), tuple(str(i) for i in numbers))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", class_name(name.strip()).casefold())


def _positions(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...] | None:
    """Where each class is among the names; None if the two do not hold the same names."""
    # Exact names first: two classes of a table may differ only in case.
    for form in (str, _plain):
        have, want = [form(name) for name in names], [form(name) for name in classes]
        if len(set(have)) == len(have) and sorted(have) == sorted(want):
            return tuple(have.index(name) for name in want)
    return None
