"""docs/serving.md has the numbers of the stored reports (docs/serving.py makes its tables)."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_page_has_the_tables_of_the_stored_reports():
    spec = importlib.util.spec_from_file_location("serving", DOCS / "serving.py")
    serving = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serving)
    assert serving.page() == (DOCS / "serving.md").read_text(encoding="utf-8")


def test_a_study_becomes_a_table():
    spec = importlib.util.spec_from_file_location("serving", DOCS / "serving.py")
    serving = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serving)
    row = {"ratio": 0.3, "type": "Q8_0", "bytes": 110_400_000, "seconds": 0.0125,
           "speedup": {"median": 1.5, "q25": 1.25, "q75": 1.75}}  # fmt: skip
    study = {"rows": [row], "processor": "CPU", "threads": 1, "seed": 0,
             "provenance": {"commit": "0123456789abcdef"}}  # fmt: skip
    text = serving.measured({"speed_onnx": study})
    assert "| 30 % | Q8_0 | 110.4 | 12.5 | 1.50 (1.25 to 1.75) |" in text
    assert text.endswith("CPU, threads: 1, seed 0, commit 0123456789.\n")
