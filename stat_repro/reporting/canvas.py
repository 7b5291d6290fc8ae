"""How all figures are drawn: sizes of a paper's columns, fonts, legends, and the files."""

import io
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from stat_repro.paths import cache_dir
from stat_repro.reporting.figure_data import Figure, Line, Panel
from stat_repro.scratch import replace_file

_DPI = 200
_FONT, _WHOLE_FONT = "Latin and symbols of DejaVu Sans", "DejaVu Sans of matplotlib"
_CHARACTERS = [*range(0x20, 0x180), *range(0x2010, 0x2028), *range(0x2190, 0x2270)]
_RC: Any = {
    **{"font.family": [_FONT, _WHOLE_FONT], "font.size": 7},
    **{"axes.titlesize": 8, "figure.titlesize": 8.5},
    **{"axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "legend.fontsize": 6.5},
    **{"axes.grid": True, "grid.alpha": 0.35, "grid.linewidth": 0.5, "axes.axisbelow": True},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6},
    **{"lines.linewidth": 1.1, "lines.markersize": 3.2, "legend.frameon": False},
    **{"pdf.fonttype": 42},
}
_SINGLE, _DOUBLE = 3.3, 6.9  # inches: one and two columns of a paper
_HEIGHTS = {"lines": (1.95, 0), "rows": (0.6, 0.15), "stack": (0.6, 0.36), "cells": (0.7, 0.2)}
_LEGEND_LINE, _CHARACTER, _HANDLE = 0.145, 0.046, 0.42  # inches
_TICK_GAP = 0.24  # inches that a tick label needs for itself
_WRITTEN = 12  # columns of a heat map whose cells have room for numbers


def draw(data: Figure) -> Any:
    """The `matplotlib.figure.Figure` of the numbers, made without global state."""
    panels, several = data.panels, len(data.panels) > 1
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    labels = dict.fromkeys(line.label for panel in panels for line in _in_legend(panel))
    longest = _HANDLE + _CHARACTER * max(map(len, labels), default=0)
    narrow = not several and panels[0].kind == "lines" and longest < _SINGLE
    width = _SINGLE if narrow else _DOUBLE
    side_by_side = max(1, min(len(labels), int(width / longest)))
    spare = rows * columns > len(panels) and longest < width / columns
    height = max(_height(panel) for panel in panels) * rows + 0.2 * several
    height += 0 if spare else _LEGEND_LINE * math.ceil(len(labels) / side_by_side)
    with _look():
        from matplotlib.figure import Figure as Drawing

        figure = Drawing(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for place, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
            {"stack": _stack, "cells": _cells}.get(panel.kind, _lines)(axes, panel)
            axes.set_title(panel.title if several else data.title)
            _set_ticks(axes, panel, _TICK_GAP / (width / columns))
            if panel.kind == "rows" and place % columns and panel.ticks == panels[place - 1].ticks:
                axes.tick_params(labelleft=False)  # the panel to the left names the rows
        if several:
            figure.suptitle(data.title)
        if labels:
            drawn = [axes.get_legend_handles_labels() for axes in grid.flat]
            handles = {label: h for pair in drawn for h, label in zip(*pair, strict=True)}
            shown = [handles[label] for label in labels]
            if spare:
                grid.flat[-1].legend(shown, labels, loc="center")
            else:
                figure.legend(shown, labels, loc="outside lower center", ncols=side_by_side)
    return figure


def log_axis(axes: Any, name: Literal["x", "y"] = "y") -> None:
    """Logarithmic with plain numbers, for what is drawn: also less than a decade, also many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{name}scale": "log"})
    axis = axes.yaxis if name == "y" else axes.xaxis
    low, high = axis.get_view_interval()
    subs = (1, 1.5, 2, 3, 5, 7) if high < 30 * low else (1, 3) if high < 3e3 * low else (1,)
    axis.set_major_locator(LogLocator(base=10, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Any, stem: Path, records: str) -> list[Path]:
    """Write `<stem>.pdf` and `<stem>.png`, byte for byte the same for the same numbers.

    The same versions of matplotlib and Pillow are needed (requirements.lock): the first places and
    rasterises letters and lines and writes its version into the PDF, the second chooses the colours
    and packs the PNG.

    Args:
        figure: What `draw` gave.
        stem: Path without ending.
        records: Goes into the metadata of both files.

    Returns:
        The files.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    # Dates would make every build differ.
    metadata = {"CreationDate": None, "Subject": records}
    pdf = io.BytesIO()
    with _look():
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine("none")  # both files have the places that were just found
        # Not `savefig`, which draws twice for each file to find the places again.
        FigureCanvasPdf(figure).print_pdf(pdf, metadata=metadata)
        figure.set_dpi(_DPI)
        picture = FigureCanvasAgg(figure)
        picture.draw()
    files = []
    for ending, content in (("pdf", pdf.getvalue()), ("png", _png(picture, records))):
        # Not `with_suffix`, which would cut a name at its last dot.
        files.append(stem.with_name(f"{stem.name}.{ending}"))
        replace_file(files[-1], content)
    return files


def _in_legend(panel: Panel) -> list[Line]:
    """Rows and cells are named on their axis."""
    named = panel.kind in ("lines", "stack")
    return [one for one in panel.lines if one.label and (named or (one.y and not one.x))]


def _height(panel: Panel) -> float:
    """Inches, with title and axis labels."""
    least, each = _HEIGHTS[panel.kind]
    count = len(panel.lines) if panel.kind == "cells" else len(panel.ticks)
    return max(least + each * count, 1.5)


def _lines(axes: Any, panel: Panel) -> None:
    """Lines, or rows: the same with the values to the right."""
    rows = panel.kind == "rows"
    level, ends = (axes.axvline, axes.hlines) if rows else (axes.axhline, axes.vlines)
    for line in panel.lines:
        x, y, low, high = line.x, line.y, line.low, line.high
        colour = line.style.colour
        look: dict[str, Any] = {"color": colour, "label": line.label or "_"}
        if y and not x:
            level(y[0], **look, linestyle=line.style.line)
            if low != high:
                (axes.axvspan if rows else axes.axhspan)(low[0], high[0], color=colour, alpha=0.1)
        elif rows:
            axes.plot(y, x, **look, marker=line.style.marker or None, linestyle="", markersize=4)
            ends(x, low, high, color=colour, alpha=0.6)
        else:
            axes.plot(x, y, **look, marker=line.style.marker or None, linestyle=line.style.line)
            if low and (line.bars or len(x) == 1):  # a band of one place has no width
                ends(x, low, high, color=colour)
            elif low != high:
                axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    if rows:
        axes.set(xlabel=panel.y_label, ylim=(len(panel.ticks) - 0.4, -0.6))
    else:
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    if panel.log:
        log_axis(axes, "x" if rows else "y")


def _stack(axes: Any, panel: Panel) -> None:
    start: dict[float, float] = {}
    for line in panel.lines:
        left = [start.get(place, 0.0) for place in line.x]
        axes.barh(line.x, line.y, left=left, color=line.style.colour, label=line.label)
        start |= {place: a + b for place, a, b in zip(line.x, left, line.y, strict=True)}
    axes.set_xlabel(panel.y_label)
    axes.invert_yaxis()


def _cells(axes: Any, panel: Panel) -> None:
    values = [line.y for line in panel.lines]
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axes.grid(visible=False)
    axes.set_yticks(range(len(values)), [line.label for line in panel.lines])
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if len(values[0]) <= _WRITTEN:
        for row, cells in enumerate(values):
            for column, value in enumerate(cells):
                ink = "white" if value < 50 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink)
    else:
        axes.figure.colorbar(image, ax=axes, pad=0.02)


def _set_ticks(axes: Any, panel: Panel, gap: float) -> None:
    """The panel's ticks; on x those that have room (`gap`: share of the axis that one needs)."""
    if panel.kind in ("rows", "stack"):
        axes.set_yticks(*zip(*panel.ticks, strict=True))
        return
    if panel.x_scale == "log2":
        axes.set_xscale("log", base=2)
    elif panel.x_scale != "linear":
        # What is not 0 is on a logarithmic axis, and 0 has its place as well.
        sizes = [place for place, _ in panel.ticks if place > 0]
        linear = {"linthresh": min(sizes)} if panel.x_scale == "symlog" else {}
        axes.set_xscale(panel.x_scale, **linear)
    from matplotlib.ticker import NullLocator

    kept: list[tuple[float, str]] = []
    transform = axes.transScale.transform
    places = [float(transform((place, 1))[0]) for place, _ in panel.ticks]
    low, high = (float(transform((end, 1))[0]) for end in axes.get_xlim())
    last = -math.inf
    for place, tick in sorted(zip(places, panel.ticks, strict=True)):
        if place - last >= gap * (high - low):
            kept.append(tick)
            last = place
    if kept:
        axes.set_xticks(*zip(*kept, strict=True))
        axes.xaxis.set_minor_locator(NullLocator())


def _png(canvas: Any, records: str) -> bytes:
    """The picture in 256 colours, which are enough for it and take a third of the bytes."""
    from PIL import Image, PngImagePlugin

    text, out = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("Description", records)
    pixels = Image.frombytes("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    picture = pixels.convert("RGB").quantize(256)
    picture.save(out, "png", optimize=True, dpi=(_DPI, _DPI), pnginfo=text)
    return out.getvalue()


@contextmanager
def _look() -> Iterator[None]:
    """Matplotlib with our settings and nobody else's.

    Its font cache is in the project's cache folder unless the user has one.
    """
    if "MPLCONFIGDIR" not in os.environ:
        folder = cache_dir() / "matplotlib"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["MPLCONFIGDIR"] = str(folder)
    from matplotlib import style

    _add_font()
    with style.context(_RC, after_reset=True):
        yield


@cache
def _add_font() -> tempfile.TemporaryDirectory[str]:
    """Make matplotlib's own font known as `_WHOLE_FONT`, and the letters we use of it as `_FONT`.

    By its own name a system's version of it may be found, which gives other bytes. Each PDF gets
    the letters that it shows: they are cut out of the few of `_FONT` ten times as fast as out of
    six thousand. Its table of positions is left out, as it repeats the kerning of another, and so
    is the time stamp of the program that drew it.

    Returns:
        The folder of the cut files, which goes with the process.
    """
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont
    from matplotlib import font_manager, get_data_path

    folder = tempfile.TemporaryDirectory()
    options = Options(glyph_names=True, notdef_outline=True, layout_features=["*"])
    options.drop_tables += ["GPOS", "FFTM"]
    options.legacy_kern = True
    for file in sorted(Path(get_data_path(), "fonts", "ttf").glob("DejaVuSans[.-]*")):
        font, cut = TTFont(file, recalcTimestamp=False), Path(folder.name, file.name)
        letters = Subsetter(options)
        letters.populate(unicodes=_CHARACTERS)
        letters.subset(font)
        font.save(cut)
        for name, path in ((_FONT, cut), (_WHOLE_FONT, file)):
            entry = font_manager.ttfFontProperty(font_manager.get_font(path))
            font_manager.fontManager.ttflist.append(replace(entry, name=name))
    return folder
