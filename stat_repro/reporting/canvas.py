"""How all figures are drawn: fonts, the line about the records, the files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stat_repro.paths import cache_dir
from stat_repro.reporting.figure_data import StyledLine
from stat_repro.scratch import replace_file

_DPI = 160
_RC: dict[str, Any] = {
    "font.size": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "axes.grid": True,
    "grid.alpha": 0.4,
    "grid.linewidth": 0.6,
    "pdf.fonttype": 42,
    "svg.hashsalt": "stat_repro",
}


@contextmanager
def canvas(width: float, height: float, records: str) -> Iterator[Any]:
    """A `matplotlib.figure.Figure` in the project's look, to be drawn on inside the `with`.

    Args:
        width: Inches.
        height: Inches.
        records: Which records are shown; a small line at the bottom.
    """
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(_RC):
        # The margin at the bottom is for the line about the records.
        layout = ConstrainedLayoutEngine(rect=(0, 0.025, 1, 0.975))
        figure = Figure(figsize=(width, height), layout=layout)
        yield figure
        figure.text(0.995, 0.002, records, ha="right", va="bottom", fontsize=5, color="0.4")


def plot_variant(axes: Any, line: StyledLine, label: str) -> None:
    """The line of a variant, with its colour, marker and line style."""
    style = line.style
    axes.plot(
        *(line.x, line.y),
        **{"color": style.colour, "marker": style.marker, "linestyle": style.line},
        **{"markersize": 4.5, "linewidth": 1.4, "label": label},
    )


def log_axis(axes: Any) -> None:
    """Logarithmic y with plain numbers, for what is drawn: also less than a decade, also many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1, 1.5, 2, 3, 5, 7) if high < 100 * low else (1, 3)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def save(figure: Any, stem: Path, records: str) -> list[Path]:
    """Write `<stem>.pdf` and `<stem>.png`, byte for byte the same for the same numbers.

    Args:
        figure: What was drawn on a `canvas`.
        stem: Path without ending.
        records: Goes into the metadata of both files.

    Returns:
        The files.
    """
    matplotlib = _matplotlib()
    # Dates would make every build differ.
    metadata = {"CreationDate": None, "Subject": records}
    pdf, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(_RC):
        figure.savefig(pdf, format="pdf", metadata=metadata)
        figure.savefig(png, format="png", dpi=_DPI)
    files = []
    for ending, content in (("pdf", pdf.getvalue()), ("png", _with_palette(png, records))):
        # Not `with_suffix`, which would cut a name at its last dot.
        files.append(stem.with_name(f"{stem.name}.{ending}"))
        replace_file(files[-1], content)
    return files


def _with_palette(png: io.BytesIO, records: str) -> bytes:
    """The picture in 256 colours, which are enough for it and take a third of the bytes."""
    from PIL import Image, PngImagePlugin

    text, out = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("Description", records)
    picture = Image.open(png).convert("RGB").quantize(256)
    picture.save(out, "png", optimize=True, dpi=(_DPI, _DPI), pnginfo=text)
    return out.getvalue()


def _matplotlib() -> Any:
    """Matplotlib, with its font cache in the project's cache folder unless the user has one."""
    if "MPLCONFIGDIR" not in os.environ:
        folder = cache_dir() / "matplotlib"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["MPLCONFIGDIR"] = str(folder)
    import matplotlib

    return matplotlib
