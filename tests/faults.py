"""What was done to the commands besides bad input, and what becomes of them; see docs/trust.md.

Every row is a test: the one of this name in the file that it names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kill:
    """A work that is killed before, or in the middle of, each of its changes of files.

    Attributes:
        name: Of the work.
        does: What it does.
        points: About how many points there are.
        default: How many of them `make test` takes.
        test: The file with its test.
    """

    name: str
    does: str
    points: int
    default: int = 2
    test: str = "test_kills_of_models.py"


_STORE = "test_kills_of_the_store.py"
KILLS = (
    Kill("record", "stores a run", 18, test=_STORE),
    Kill("record and values", "stores a run and its values per example", 24, test=_STORE),
    Kill("record and values, no hard links", "stores both", 24, test=_STORE),
    Kill("record for a damaged one", "sets a damaged record aside and stores", 24, test=_STORE),
    Kill("record for a damaged one, no hard links", "the same", 24, test=_STORE),
    Kill("record beside values of another", "replaces values without a record", 22, test=_STORE),
    Kill("sweep", "stores two runs and their models", 48, test="test_points.py"),
    Kill("asset", "fetches, unpacks and converts", 62),
    Kill("asset, damaged", "makes an entry of the cache again", 24),
    Kill("asset, of an earlier version", "writes the list of an entry's files", 6),
    Kill("fine-tuning", "trains a head and keeps it in the cache", 30),
    Kill("sharded", "prunes a checkpoint layer by layer", 99),
    Kill("spill", "keeps activations in files", 65),
    Kill("saving", "saves a pruned model", 26),
    Kill("table", "replaces a table", 6),
)
