"""Names and phrases that readers stumbled over stay out of the package."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "stat_repro"
# Every room, and the modules at the root as one more.
ROOMS = [*sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")), "."]

# Names that say nothing about the value, or that have another meaning here.
NAMES = {
    "found": "say what it is",
    "own": "say whose it is",
    "told": "say what it is",
    "block": "layer, columns of a unit, or panel",
    "blocks": "layers, columns of units, or panels",
}
# `refit` is what stat_plus does to the consumers, front to back; nothing else has this name.
REFIT = {
    *("config/methods.py", "config/pruning.py", "linalg/refit.py", "methods/stat_plus.py"),
    "methods/stream_refit.py",
}
PHRASES = (
    r"\b(?:is|are|be|was) told by\b",
    r"\bas it were\b",
    r"\b(?:no|a) question to an?\b",
    r"\bhas the size of anyway\b",
    r"\bothers measured again beside\b",
    r"\bneeds? no telling\b",
)


def files_of(room):
    return sorted(PACKAGE.glob("*.py") if room == "." else (PACKAGE / room).rglob("*.py"))


def names_and_texts(path):
    """Identifiers of a file, and its comments and strings without line ends."""
    names, texts = [], []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME:
            names.append((token.start[0], token.string))
        elif token.type in (tokenize.COMMENT, tokenize.STRING):
            texts.append((token.start[0], " ".join(token.string.split())))
    return names, texts


@pytest.mark.parametrize("room", ROOMS)
def test_names_say_what_they_stand_for(room):
    assert files_of(room)
    for path in files_of(room):
        place = path.relative_to(PACKAGE).as_posix()
        for line, name in names_and_texts(path)[0]:
            assert name not in NAMES, f"{place}:{line}: {name}: {NAMES[name]}"
            assert place in REFIT or "refit" not in name.split("_"), f"{place}:{line}: {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_sentences_are_those_that_one_would_say(room):
    for path in files_of(room):
        for line, text in names_and_texts(path)[1]:
            for phrase in PHRASES:
                where = f"{path.relative_to(PACKAGE)}:{line}"
                assert not re.search(phrase, text), f"{where}: {phrase}"


def test_configurations_and_sweeps_too():
    files = [*ROOT.glob("conf/**/*.yaml"), *ROOT.glob("experiments/**/*.yaml"), ROOT / "Makefile"]
    assert len(files) > 90
    for path in files:
        text = " ".join(path.read_text(encoding="utf-8").replace("\n#", "\n").split())
        for phrase in (*PHRASES, r"\bbeside other work\b", r"\bcompare no times\b"):
            assert not re.search(phrase, text), f"{path.relative_to(ROOT)}: {phrase}"
