"""The report: one HTML file with all studies, their tables, figures and records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stat_repro.reporting.outputs import Outputs


@dataclass(frozen=True)
class StudyPage:
    """A study as a part of the report."""

    study: str
    data: dict[str, Any]


def study_page(outputs: Outputs, records: Sequence[Any]) -> StudyPage:
    """Of what is shown of a study."""
    return StudyPage(outputs.study, {})


def report_page(pages: Sequence[StudyPage]) -> str:
    """The whole file."""
    return ""
