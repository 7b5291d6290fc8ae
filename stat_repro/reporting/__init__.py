"""Records to tables and figures. No torch; matplotlib is imported only to draw."""

from stat_repro.reporting.figures import FigureData, Series, draw, figure_data, save
from stat_repro.reporting.files import replace_file
from stat_repro.reporting.points import ReportError, aggregate, protocol_lines, record_lines
from stat_repro.reporting.styles import HEADLINE
from stat_repro.reporting.tables import (
    result_table,
    summary_table,
    to_csv,
    to_latex,
    to_markdown,
    to_text,
)

__all__ = [
    "HEADLINE",
    "FigureData",
    "ReportError",
    "Series",
    "aggregate",
    "draw",
    "figure_data",
    "protocol_lines",
    "record_lines",
    "replace_file",
    "result_table",
    "save",
    "summary_table",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_text",
]
