"""WikiText-2, Penn Treebank and C4 as pruning papers use them.

What makes two "WikiText-2 perplexities" differ is mostly decided here: which rows there are, which
of them are read, and with what they are joined before tokenising.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stat_repro.config.data import PARTS
from stat_repro.data.errors import DataError


def wikitext_rows(text: str) -> list[str]:
    """Rows that the hub's data set makes of a release file: lines with their end, blank ones empty.

    Joined by two line ends, they give the text whose perplexity GPTQ, SparseGPT and later papers
    report; the file read as it is has fewer line ends and another perplexity.
    """
    # Not splitlines, which also ends lines at other characters than the line end.
    return [line if line.strip() else "" for line in io.StringIO(text)]


def stripped_rows(text: str) -> list[str]:
    """Lines without the white space around them, as the hub's Penn Treebank has them."""
    return [line.strip() for line in io.StringIO(text)]


@dataclass(frozen=True)
class Corpus:
    """A corpus and its protocol in the pruning literature.

    Attributes:
        hub: Name on the Hugging Face hub.
        subset: Configuration of the data set there.
        revision: Revision that has it in a form `datasets` reads; None for the default branch.
        files: Parts there are, and their file on the hub (None: the hub knows the part by name).
        text_column: Column of the text on the hub.
        join: String between documents before tokenising.
        release: Names of the release's own files, `{}` for the part as the release calls it.
        rows: How the lines of such a file become the rows of the hub.
        evaluated_documents: Only the first so many are evaluated; all if None.
        evaluated_windows: Only the first so many windows are evaluated; all if None.
        calibration_documents: Windows for calibration are drawn from the first so many.
    """

    hub: str
    subset: str | None
    files: Mapping[str, str | None]
    text_column: str
    join: str
    revision: str | None = None
    release: tuple[str, ...] = ()
    rows: Callable[[str], list[str]] = stripped_rows
    evaluated_documents: int | None = None
    evaluated_windows: int | None = None
    calibration_documents: int | None = None


CORPORA = {
    # wikitext-103 has the same test part; papers that mixed them up calibrated on another text.
    "wikitext2": Corpus(
        hub="Salesforce/wikitext",
        subset="wikitext-2-raw-v1",
        files=dict.fromkeys(PARTS),
        text_column="text",
        join="\n\n",
        release=("wiki.{}.tokens", "wiki.{}.raw"),
        rows=wikitext_rows,
    ),
    # The hub has it as a script, which `datasets` no longer runs; its own conversion is read. The
    # protocol is `ptb-new` of GPTQ (test part, joined by spaces), as in STAT's opt_eval.py.
    "ptb": Corpus(
        hub="ptb-text-only/ptb_text_only",
        subset=None,
        revision="refs/convert/parquet",
        files={part: f"penn_treebank/{part}/0000.parquet" for part in PARTS},
        text_column="sentence",
        join=" ",
        release=("ptb.{}.txt",),
    ),
    # `c4-new` of GPTQ, as in STAT's opt_eval.py: there is no test part. 5,000 documents are about
    # 2.4 million tokens, as many as WikiText-2's training part; the shard itself has 356,317.
    "c4": Corpus(
        hub="allenai/c4",
        subset=None,
        files={
            "train": "en/c4-train.00000-of-01024.json.gz",
            "validation": "en/c4-validation.00000-of-00008.json.gz",
        },
        text_column="text",
        join=" ",
        evaluated_documents=1100,
        evaluated_windows=256,
        calibration_documents=5000,
    ),
}


def corpus_of(name: str, key: str, others: tuple[str, ...] = ()) -> Corpus:
    """A corpus by name.

    Args:
        name: Its name.
        key: Where the name was given.
        others: What else could have been given there, for the message.

    Raises:
        DataError: No such corpus.
    """
    if name not in CORPORA:
        raise DataError(f"{key}: expected one of {', '.join((*CORPORA, *others))}; got {name!r}")
    return CORPORA[name]
