"""How quantities and variants look, the same in every table and figure.

A look belongs to the thing itself, never to the order in which things were drawn: the same method
keeps its colour when another one joins the study.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from stat_repro.config import METHODS

# The metric that stands for a task in the summary and the main figure.
HEADLINE = {
    "classification": "accuracy",
    "regression": "pearson",
    "similarity": "spearman",
    "question_answering": "f1",
    "language_modeling": "perplexity",
}


@dataclass(frozen=True)
class QuantityStyle:
    """How a measured number is shown.

    Attributes:
        label: Words on axes and in tables, with the unit.
        scale: Factor from the record's value to the shown one.
        decimals: Decimal places shown.
        log: Whether its axis is logarithmic.
        fraction: Whether the record's value must be at most 1.
    """

    label: str
    scale: float = 1.0
    decimals: int = 3
    log: bool = False
    fraction: bool = False


# In the order of the tables.
QUANTITIES = {
    "accuracy": QuantityStyle("accuracy (%)", 100, 2, fraction=True),
    "pearson": QuantityStyle("Pearson correlation", fraction=True),
    "perplexity": QuantityStyle("token perplexity", decimals=2, log=True),
    "zero_shot_mean": QuantityStyle("mean zero-shot accuracy (%)", 100, 2, fraction=True),
    "exact_match": QuantityStyle("exact match (%)", 100, 2, fraction=True),
    "f1": QuantityStyle("F1 (%)", 100, 2, fraction=True),
    "matthews": QuantityStyle("Matthews correlation", fraction=True),
    "spearman": QuantityStyle("Spearman correlation", fraction=True),
    "nll": QuantityStyle("negative log-likelihood (nats per token)"),
    "squared_error": QuantityStyle("squared error", decimals=4),
    "agreement": QuantityStyle("agreement with dense (%)", 100, 2, fraction=True),
    "kl": QuantityStyle("KL from dense (nats)", decimals=4, log=True),
    "mse_to_dense": QuantityStyle("mean squared difference to dense", decimals=4, log=True),
    "mac_kept_fraction": QuantityStyle("MACs kept (%)", 100, 2, fraction=True),
    "param_kept_fraction": QuantityStyle("parameters kept (%)", 100, 2, fraction=True),
    "compress_s": QuantityStyle("time to compress (s)", decimals=1),
}
# Metrics of zero-shot tasks are called `<task>_<metric>`; these are fractions whatever the task.
_TASK_METRICS = {"_acc": "accuracy", "_acc_norm": "normalised accuracy"}

CORRECTION_LABELS = {
    "lstsq": "least squares",
    "none": "no correction",
    "bias": "bias compensation",
    "affine": "affine",
    "scale": "mask tuning",
}


# Names of models and data sets as a title says them; others are shown as they are.
_WORDS = {
    **{"minilm": "MiniLM", "distilminilm": "MiniLM as DistilBERT", "smollm2": "SmolLM2"},
    **{"mpnet_base": "MPNet", "bert_base": "BERT-base", "distilbert": "DistilBERT"},
    **{"movie_reviews": "movie reviews", "nyt_editorials": "NYT editorials", "c4": "C4"},
    **{"wikitext2": "WikiText-2", "squad_dev": "SQuAD (dev)", "squad": "SQuAD"},
    **{"mrpc": "MRPC", "rte": "RTE", "cola": "CoLA", "sst2": "SST-2", "stsb": "STS-B"},
    **{"qnli": "QNLI", "qqp": "QQP", "mnli": "MNLI", "stsb_similarity": "STS-B, by cosine"},
}


def in_words(name: str) -> str:
    """A model or data set as a title says it: `glue_mrpc` is MRPC."""
    return _WORDS.get(name, _WORDS.get(name.removeprefix("glue_"), name.replace("_", " ")))


def words_of(names: Iterable[str]) -> dict[str, str]:
    """`in_words` of models or data sets shown together; as they are where words collide."""
    words = {name: in_words(name) for name in names}
    shared = Counter(words.values())
    return {name: text if shared[text] == 1 else name for name, text in words.items()}


def in_line(text: str) -> str:
    """A text in a table: as JSON where it is not seen, as line breaks and outer spaces."""
    return text if text.isprintable() and text == text.strip() else json.dumps(text)


@dataclass(frozen=True)
class VariantStyle:
    """Look of a series: colour (hex), marker and line style of matplotlib, place in the legend."""

    colour: str
    marker: str
    line: str
    order: int


# The dense model, in every figure.
DENSE = VariantStyle("#444444", "", "--", -1)


# Forms of STAT with a colour each, by method, allocation, correction and authors_compat. Colours:
# Okabe and Ito, which colour-blind readers can tell apart.
_KNOWN = {
    ("stat", "global", "lstsq", False): VariantStyle("#0072B2", "o", "-", 0),
    ("stat", "uniform", "lstsq", False): VariantStyle("#009E73", "s", "-", 1),
    ("stat", "global", "lstsq", True): VariantStyle("#D55E00", "D", "-", 2),
    ("stat", "global", "none", False): VariantStyle("#E69F00", "^", "-", 3),
    ("stat", "uniform", "none", False): VariantStyle("#CC79A7", "v", "-", 4),
}
# Line and marker of a method's other forms.
_ALLOCATION_LINES = {"global": "-", "uniform": "--", "stat": ":"}
_CORRECTION_MARKERS = {"none": "v", "lstsq": "^", "bias": "<", "affine": ">", "scale": "h"}
_OTHER_MARKERS = ("P", "X", "*", "<", ">", "p")
_OTHER_LINES = ("--", ":", "-.")
_NUMBERED = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
# Points of cividis, which colour-blind readers see as others do.
_GRADED = ((0, 34, 78), (75, 84, 108), (124, 123, 120), (180, 168, 111), (240, 220, 80))


def quantity_style(name: str) -> QuantityStyle:
    """Look of a quantity; one that is not listed is shown under its own name."""
    for ending, words in _TASK_METRICS.items():
        if name.endswith(ending):
            label = f"{name.removesuffix(ending)} {words} (%)"
            return QuantityStyle(label, 100, 2, fraction=True)
    return QUANTITIES.get(name, QuantityStyle(name, decimals=4))


def quantity_order(name: str) -> tuple[int, str]:
    """Sort key of quantities: the listed order, then by name; fidelity and costs come last."""
    names = list(QUANTITIES)
    # What is not listed is a metric, so it belongs before the fidelity to the dense model.
    place = names.index(name) if name in QUANTITIES else names.index("agreement") - 0.5
    return int(2 * place), name


def variant_style(
    method: str, allocation: str, correction: str, authors_compat: bool, extras: Collection[str]
) -> VariantStyle:
    """Look of a variant.

    Args:
        method: Name in the registry.
        allocation: Name of the allocation.
        correction: Name of the correction.
        authors_compat: Whether the authors' slips are repeated.
        extras: Further settings that differ from the schema's defaults, as `key=value`.
    """
    known = _KNOWN.get((method, allocation, correction, authors_compat))
    base = known or _method_style(method, allocation, correction)
    if not extras:
        return base
    # The same method with another setting: same colour, another line and marker. Python's own hash
    # differs from process to process.
    digest = hashlib.sha256(", ".join(sorted(extras)).encode()).digest()
    number = int.from_bytes(digest[:6])
    return replace(
        base,
        line=_OTHER_LINES[number % len(_OTHER_LINES)],
        marker=_OTHER_MARKERS[number // len(_OTHER_LINES) % len(_OTHER_MARKERS)],
    )


def numbered_style(number: int, marker: str = "o", line: str = "-") -> VariantStyle:
    """Look of what is no variant, by its place in the legend."""
    colour = _NUMBERED[number % len(_NUMBERED)]
    return VariantStyle(colour, marker, line, number)


def graded_style(share: float) -> VariantStyle:
    """Look of one of many in an order, by its place among them from 0 to 1: from blue to yellow."""
    place = share * (len(_GRADED) - 1)
    start = min(int(place), len(_GRADED) - 2)
    low, high = _GRADED[start], _GRADED[start + 1]
    mixed = (round(a + (b - a) * (place - start)) for a, b in zip(low, high, strict=True))
    return VariantStyle("#" + "".join(f"{part:02x}" for part in mixed), "o", "-", start)


def _method_style(method: str, allocation: str, correction: str) -> VariantStyle:
    """The method's colour; its marker in the form of its paper, else what tells the form."""
    entry = METHODS[method]
    marker, line = entry.marker, "-"
    defaults = (entry.defaults.get("allocation"), entry.defaults.get("correction"))
    if (allocation, correction) != defaults:
        marker, line = _CORRECTION_MARKERS[correction], _ALLOCATION_LINES[allocation]
    places = (list(METHODS), list(_ALLOCATION_LINES), list(_CORRECTION_MARKERS))
    order = 0
    for place, name in zip(places, (method, allocation, correction), strict=True):
        order = order * 10 + place.index(name)
    return VariantStyle(entry.colour, marker, line, len(_KNOWN) + order)
