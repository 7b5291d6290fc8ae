"""The packaged texts: one snippet per line with the mean sentiment rating of human raters.

C.J. Hutto and Eric Gilbert, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text, ICWSM 2014.
"""

from dataclasses import dataclass
from pathlib import Path


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
        path: The file, UTF-8, any line ends; its content is pinned by the package's hash.

    Returns:
        One entry per line, in the file's order.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [line.split("\t") for line in lines if line.strip()]
    return [RatedSnippet(identifier, float(rating), text) for identifier, rating, text in rows]
