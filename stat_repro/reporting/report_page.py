"""The report: one HTML file with all studies, their tables, figures and records, and no request."""

import importlib.util
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from stat_repro.config import METHODS
from stat_repro.reporting.figure_data import Figure, Panel
from stat_repro.reporting.outputs import Outputs, sweep_header
from stat_repro.reporting.styles import quantity_style
from stat_repro.reporting.tables import Table
from stat_repro.reporting.variants import ReportError
from stat_repro.results import RunRecord
from stat_repro.results.speed_record import SpeedRecord

_TEMPLATE = Path(__file__).with_name("report.html")


def study_page(
    outputs: Outputs, records: Sequence[RunRecord | SpeedRecord], root: Path | None = None
) -> dict[str, Any]:
    """What the report has of a study, as plain data.

    These are its `name`, its `claim` if it has one, `tables` and `figures`, and under `records` key
    facts of them by run id.

    Args:
        outputs: What is shown of it.
        records: Its records.
        root: Folder of all studies; None for `results/` of the clone.
    """
    return {
        "name": outputs.study,
        "claim": sweep_header(outputs.study).get("Claim", ""),
        "tables": [_table(table) for table in outputs.tables],
        "figures": [_figure(figure) for figure in outputs.figures],
        "records": {record.run_id: _facts(outputs.study, record, root) for record in records},
    }


def report_page(pages: Sequence[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]]) -> str:
    """The whole file.

    Args:
        pages: Its studies (`study_page`).
        verdicts: Tables at its top, as `docs/claims.py` writes them: `title`, `columns`, `rows` of
            text, per row the `runs` behind it (`<study>/<run_id>`), and `notes`.

    Raises:
        ReportError: plotly, whose script draws the figures, is not installed.
    """
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ReportError("plotly: expected the package; got none; choose: pip install plotly")
    script = Path(spec.origin).with_name("package_data") / "plotly.min.js"
    count = sum(len(page["records"]) for page in pages)
    claimed = {"title": "What every study claims", "columns": ["study", "claim"], "notes": []}
    rows = [[page["name"], page["claim"]] for page in pages]
    known = {f"{page['name']}/{run}" for page in pages for run in page["records"]}
    judged = [
        {**one, "runs": [[run for run in runs if run in known] for runs in one["runs"]]}
        for one in verdicts
    ]
    data = {
        "made": f"{len(pages)} studies, {count} records. A point, or the last cell of a row, "
        "shows the records behind it. Nothing on this page leaves it.",
        "claims": [*judged, {**claimed, "rows": rows, "runs": []}],
        "studies": pages,
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("</", "<\\/")
    page = _TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", text)
    library = script.read_text(encoding="utf-8").replace("</script", "<\\/script")
    return page.replace("{{plotly}}", library)


def _table(table: Table) -> dict[str, Any]:
    """Cells, and of every row the runs whose sources agree with it in all that both have."""
    shown = [c for c in table.cells.columns if c in table.sources.columns]
    by_row: dict[tuple[str, ...], dict[str, None]] = {}
    for key, ids in zip(_keys(table.sources, shown), table.sources["run_ids"], strict=True):
        by_row.setdefault(key, {}).update(dict.fromkeys(str(ids).split()))
    return {
        "title": table.title,
        "columns": list(table.cells.columns),
        "rows": table.cells.astype(str).values.tolist(),
        "runs": [list(by_row.get(key, ())) for key in _keys(table.cells, shown)],
        "notes": [note for note in table.notes if not note.startswith("record ")],
    }


def _keys(table: pd.DataFrame, columns: list[str]) -> list[tuple[str, ...]]:
    texts = table[columns].map(lambda v: f"{v:g}" if isinstance(v, float) else str(v))
    return list(texts.itertuples(index=False, name=None))


def _figure(figure: Figure) -> dict[str, Any]:
    lines = [line for panel in figure.panels for line in panel.lines]
    return {
        **{"name": figure.name, "title": figure.title, "caption": figure.caption},
        "run_ids": sorted({run for line in lines for ids in line.run_ids for run in ids}),
        # Rows, which need room below each other.
        "long": max(len(panel.ticks) * (panel.kind == "rows") for panel in figure.panels),
        "panels": [_panel(panel) for panel in figure.panels],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    x = [place for line in panel.lines for place in line.x] or [0.0, 1.0]
    lines = [{**asdict(line), **asdict(line.style)} for line in panel.lines]
    return {**asdict(replace(panel, lines=())), "range": [min(x), max(x)], "lines": lines}


def _facts(study: str, record: RunRecord | SpeedRecord, root: Path | None) -> dict[str, str]:
    """Key facts in the order in which they are read."""
    file = f"{root or 'results'}/{study}/{record.run_id}.json"
    facts = {
        "file": file,
        "more": f"stat-repro show {shlex.quote(file) if root else f'{study}/{record.run_id}'}",
        "commit": str(record.provenance.get("commit")),
    }
    if isinstance(record, SpeedRecord):
        return facts | {"protocol": json.dumps(record.protocol)}
    kept = (record.mac_kept_fraction or 0, record.param_kept_fraction or 0)
    facts |= {
        "method": METHODS[record.method].label,
        "ratio, seed": f"{record.ratio:g}, {record.seed}",
        "MACs, parameters kept": ", ".join(f"{100 * share:.2f} %" for share in kept),
    }
    for part in ("dense", "pruned", "fidelity"):
        values = record.metrics.get(part, {})
        facts[part] = ", ".join(
            f"{quantity_style(name).label} {quantity_style(name).scale * value:.4g}"
            for name, value in values.items()
            if isinstance(value, float)
        )
    for units in ("heads", "neurons"):
        counts = (str(len(getattr(layer, f"kept_{units}"))) for layer in record.layers)
        facts[f"{units} kept by layer"] = " ".join(counts)
    facts["protocol"] = json.dumps(record.metrics.get("protocol", {}), ensure_ascii=False)
    return facts
