"""Every measured number in README and docs/ is that of the records (see `doc_numbers`)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_numbers import COMMENT, NO_MEASUREMENT, NUMBER, Source, agrees, pairs

ROOT = Path(__file__).resolve().parents[1]
# docs/results.md is generated, and compared byte for byte elsewhere.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name != "results.md"]
MARKED = re.compile(rf"({NUMBER.pattern})\s?(%|s|GB)?\s*<!--\s*(from\s.*?)\s*-->", re.DOTALL)
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*\w)")
TABLE = re.compile(r"(?:^<!--[^|]*?-->\n\n?)?(?:^\|.*\n)+", re.MULTILINE)


def without_code(text: str) -> str:
    """The prose: no code blocks, no inline code, no targets of links."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "code", re.sub(r"\]\([^)]*\)", "]", text))


def sections(text: str) -> Iterator[tuple[int, str]]:
    """The text between two headings, with the level of the heading above it."""
    for section in re.split(r"^(?=#+ )", without_code(text), flags=re.MULTILINE):
        yield len(section) - len(section.lstrip("#")), section


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def plain(cell: str) -> str:
    """A cell without its comments and emphasis."""
    return COMMENT.sub("", cell).replace("*", "").strip()


def is_number(cell: str) -> bool:
    return re.fullmatch(rf"{NUMBER.pattern}( ?(%|s|GB))?", plain(cell)) is not None


def merged(mark: str, *more: str) -> Source:
    """The source of a cell: the table's mark, with what its column and its row add or replace."""
    head, words = mark.split(": ", 1)[0], mark.split(": ", 1)[1]
    value, *keys = shlex.split(words)
    for text in more:
        if text.startswith("from "):
            head, words = text.split(": ", 1)
            value, *added = shlex.split(words)
        else:
            added = shlex.split(text)
        keys += added
    chosen = {key: text for key, text in pairs(keys).items() if key != "by"}
    return Source.parse(f"{head}: '{value}' " + " ".join(f"'{k}={v}'" for k, v in chosen.items()))


def column_words(header: str, mark: str) -> str:
    """What a column adds to the mark: its own comment, or its header as the value of `by`."""
    found = COMMENT.search(header)
    if found:
        return found[1]
    by = pairs(shlex.split(mark)[3:]).get("by")
    if by is None:
        return ""
    number = NUMBER.search(plain(header))
    assert number, f"{header}: expected a number for by={by}, or a comment with key=value"
    value = float(number[0].replace(",", "")) / (100 if "%" in header else 1)
    return f"{by}={value:g}"


def table_problems(table: str) -> Iterator[str]:
    """What is wrong in a table that has a mark."""
    found = COMMENT.match(table)
    assert found
    mark, lines = " ".join(found[1].split()), table[found.end() :].strip().splitlines()
    headers, rows = cells_of(lines[0]), [cells_of(line) for line in lines[2:]]
    columns = [column_words(header, mark) for header in headers[1:]]
    for row in rows:
        own = COMMENT.search(row[0])
        for words, cell in zip(columns, row[1:], strict=True):
            if not is_number(cell):
                continue
            number = NUMBER.search(plain(cell))
            assert number
            source = merged(mark, words, own[1] if own else "")
            value = source.number()
            if not agrees(number[0], value):
                yield f"{plain(row[0])}, {words}: {plain(cell)}, but the records have {value:.6g}"


def prose_problems(text: str) -> Iterator[str]:
    """Marked numbers that differ, and decimal numbers and numeric cells without a mark."""
    for number, unit, mark in MARKED.findall(text):
        source = Source.parse(mark)
        value = source.number() * (100 if source.divisor and unit == "%" else 1)
        if not agrees(number, value):
            yield f"{number} ({mark}): the records have {value:.6g}"
    rest = MARKED.sub("", text)
    bare = COMMENT.sub("", NO_MEASUREMENT.sub("", rest))
    for number in DECIMAL.findall(bare):
        yield f"{number}: no mark says where it is from"
    lines = rest.splitlines()
    for line, below in zip(lines, [*lines, ""][1:], strict=True):
        if line.startswith("|") and not below.startswith("| ---"):
            yield from (f"cell {c}: no mark" for c in cells_of(line)[1:] if is_number(c))


def problems(page: Path) -> list[str]:
    found: list[str] = []
    checked_from = 7  # below the level of any heading
    for level, section in sections(page.read_text(encoding="utf-8")):
        if level > checked_from:
            continue
        checked = re.search(r"^<!-- checked by (tests/\w+\.py) -->$", section, re.MULTILINE)
        checked_from = level if checked else 7
        if checked:
            assert page.name in (ROOT / checked[1]).read_text(encoding="utf-8"), checked[1]
            continue
        for table in TABLE.findall(section):
            if table.startswith("<!-- from "):
                found += table_problems(table)
                section = section.replace(table, "")
        found += prose_problems(section)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_numbers_are_those_of_the_records(page):
    assert not problems(page), "\n".join(problems(page))


GOOD = "84.63 %<!-- from movie_reviews_minilm: accuracy authors_compat=false ratio=0.5 --> left"
TIMES = """It takes 3.75<!-- from compression_time_smollm2: compress_s method=stat_plus
/ method=stat --> times as long."""
GOOD_TABLE = """<!-- from methods_minilm: kl by=ratio -->
| removed | 50 % | 70 % |
| --- | --- | --- |
| STAT <!-- method=stat --> | 0.0262 | 0.0782 |
| accuracy <!-- from methods_minilm: accuracy method=stat --> | 84.63 | 82.18 |
"""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (GOOD, 0),
        (GOOD.replace("84.63", "84.64"), 1),
        (TIMES, 0),
        (TIMES.replace("3.75", "3.65"), 1),
        ("some 84.63 points", 1),
        ("SQuAD 1.1 with Python 3.11, `0.55` and [x](a-0.5.md)", 0),
        (GOOD_TABLE, 0),
        (GOOD_TABLE.replace("0.0262", "0.0263"), 1),
        (GOOD_TABLE.replace("70 %", "60 %"), 2),
        (GOOD_TABLE.partition("\n")[2], 4 + 4),  # decimals and numeric cells without a mark
        ("| a | b |\n| --- | --- |\n| x | 17 |\n", 1),
        ("## a\n<!-- checked by tests/test_docs_numbers.py -->\n0.5\n### b\n0.5\n## c\n0.5\n", 1),
    ],
)
def test_what_is_wrong_is_seen(text, count, tmp_path):
    page = tmp_path / "page.md"  # this name is in this file, as `checked by` asks for
    page.write_text(text + "\n")
    assert len(problems(page)) == count, problems(page)


def test_a_number_of_several_variants_is_refused():
    with pytest.raises(AssertionError, match="expected one variant"):
        Source.parse("from movie_reviews_minilm: accuracy ratio=0.5").number()
    with pytest.raises(AssertionError, match="no method=none_such"):
        Source.parse("from methods_minilm: kl method=none_such").number()
