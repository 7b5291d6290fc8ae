"""docs/results.md is what `make paper` writes from the records."""

import importlib.util
import os
from pathlib import Path

import pytest
from made_up_records import make_config, make_record

from stat_repro.results import list_studies, save_record

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location(
        "results_page", ROOT / "paper_figures" / "results_page.py"
    )
    module = importlib.util.module_from_spec(spec)
    before = os.environ.get("STAT_REPRO_LIGHT")
    spec.loader.exec_module(module)
    if before is None:  # the script sets it for itself
        del os.environ["STAT_REPRO_LIGHT"]
    return module


@pytest.fixture(scope="module")
def page(program):
    return program.results_page()


def test_the_stored_page_is_that_of_the_records(page):
    stored = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page == stored, "run make paper"


def test_every_study_has_its_claim_a_table_and_a_figure(page):
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    for study, text in sections.items():
        assert "| --- |" in text, study
        assert "](../paper_figures/out/" in text, study
        assert text.count("![") >= 1, study
        assert study == "speed" or text.count("**Claim:**") == 1, study
    kept = {path.parent.name for path in (ROOT / "results").glob("*/*.json")} - {"local"}
    assert set(sections) == kept


def test_a_study_in_which_all_failed_is_left_out(program, tmp_path, monkeypatch):
    save_record(make_record(config=make_config(study="good")), tmp_path)
    error = {"type": "ValueError", "message": "no", "traceback": ""}
    failed = make_record(config=make_config(study="bad"), status="failed", error=error)
    save_record(failed, tmp_path)
    assert list_studies(tmp_path) == ["bad", "good"]
    monkeypatch.setattr(program, "results_dir", lambda: tmp_path)
    page = program.results_page()
    assert "## good" in page
    assert "bad" not in page


@pytest.mark.parametrize("header", [{}, {"Cost": "2 points"}, {"Claim": "It works."}])
def test_a_study_of_the_user_claims_what_its_header_says_and_nothing_else(
    header, program, tmp_path, monkeypatch
):
    save_record(make_record(config=make_config(study="mine")), tmp_path)
    monkeypatch.setattr(program, "results_dir", lambda: tmp_path)
    monkeypatch.setattr(program, "sweep_header", lambda study: header)
    page = program.results_page()
    assert f"| [mine](#mine) | {header.get('Claim', '-')} |" in page
    assert page.count("**Claim:**") == len(header.keys() & {"Claim"})


def test_a_damaged_record_leaves_the_page_as_it_is(program, tmp_path, monkeypatch, capsys):
    record = save_record(make_record(config=make_config(study="mine")), tmp_path)
    record.write_text("{")
    monkeypatch.setattr(program, "results_dir", lambda: tmp_path)
    monkeypatch.setattr(program, "project_root", lambda: tmp_path)
    assert program.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {record}: not a JSON document")
    assert said.count("\n") == 1
    assert not (tmp_path / "docs").exists()
