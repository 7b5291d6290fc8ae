"""Made-up corpora on disk."""

import gzip
import json
from pathlib import Path

from pico_data import WORDS

from stat_repro.config import DatasetConfig
from stat_repro.data.corpora import CORPORA


def config_for(corpus, **keys):
    known = CORPORA[corpus]
    given = {"join": known.join, "text_column": known.text_column, **keys}
    return DatasetConfig(
        name=corpus, task="language_modeling", source=f"corpus:{corpus}", bos="first", **given
    )


def write_parts(folder, names, text="{}"):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(text.format(name), encoding="utf-8")
    return folder


def write_c4(folder, train=40, validation=30):
    """Files as on the hub; every document has its number and one word."""
    folder.mkdir(exist_ok=True)
    for part, count in (("train", train), ("validation", validation)):
        lines = [json.dumps({"text": f"{WORDS[i % 40]} {part}"}) for i in range(count)]
        name = Path(CORPORA["c4"].files[part]).name
        (folder / name).write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder
