"""The packaged texts: one snippet per line with the mean sentiment rating of human raters.

C.J. Hutto and Eric Gilbert, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text, ICWSM 2014.
"""

from dataclasses import dataclass
from pathlib import Path

from stat_repro.data.errors import DataError


@dataclass(frozen=True)
class RatedSnippet:
    """One line of a packaged text.

    Attributes:
        id: Number of the line, or `<document>_<number>` where snippets belong to documents.
        rating: Mean rating, -4 (negative) to 4 (positive).
        text: The snippet.
    """

    id: str
    rating: float
    text: str


def read_ratings(path: Path) -> list[RatedSnippet]:
    """Read a file of id, rating and text, separated by tabs.

    Args:
        path: The file, UTF-8, any line ends.

    Returns:
        One entry per line, in the file's order.

    Raises:
        DataError: A line has another form.
    """
    snippets = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            identifier, rating, text = line.split("\t")
            snippets.append(RatedSnippet(identifier, float(rating), text))
        except ValueError:
            raise DataError(
                f"{path.name}, line {number}: expected id, rating and text separated by tabs; "
                f"got {line[:80]!r}"
            ) from None
    return snippets
