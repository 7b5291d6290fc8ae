"""The packaged running text: articles, some to calibrate on and some to evaluate."""

from itertools import groupby

from stat_repro.assets import packages
from stat_repro.data.ratings import RatedSnippet, read_ratings

TEXT_ASSETS = ("nyt_editorials",)
EVALUATION_SHARE = 0.2
# Between articles that calibrate for another data set, as in conf/dataset/nyt_editorials.yaml.
PACKAGED_JOIN = " "


def packaged_parts(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Articles of a packaged text: those that calibrate, and those that are evaluated.

    The first articles, up to a fifth of the characters, are evaluated; an article is its snippets
    joined by one space.

    Raises:
        stat_repro.assets.cache.AssetError: The text cannot be fetched.
    """
    articles = articles_of(read_ratings(packages.text_file(name)))
    evaluation, calibration = split_documents(articles, EVALUATION_SHARE)
    return calibration, evaluation


def articles_of(snippets: list[RatedSnippet]) -> tuple[str, ...]:
    """Whole articles from their snippets, in the file's order.

    Args:
        snippets: Snippets with ids `<article>_<number>`, those of one article together.
    """
    groups = groupby(snippets, key=lambda snippet: snippet.id.partition("_")[0])
    return tuple(" ".join(snippet.text for snippet in group) for _, group in groups)


def split_documents(
    documents: tuple[str, ...], share: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cut between documents, so that the first part holds at most a share of the characters.

    Args:
        documents: At least two documents.
        share: Share of the first part, between 0 and 1.

    Returns:
        The first documents (at least one) and the rest (at least one).
    """
    limit = share * sum(len(document) for document in documents)
    first, length = 1, len(documents[0])
    while first < len(documents) - 1 and length + len(documents[first]) <= limit:
        length += len(documents[first])
        first += 1
    return documents[:first], documents[first:]
