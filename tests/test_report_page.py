"""The report page in a real browser, where there is one: skipped elsewhere."""

import json
import time

import pytest
from browser import CHROMIUM, browser
from made_up_records import language_record, make_config, make_record, sweep

from stat_repro import results
from stat_repro.config import PruningConfig


def verdicts(records):
    """A table as docs/claims.py writes it: rows of two studies, and of one that is not here."""
    both = [f"{record.study}/{record.run_id}" for record in (records[0], records[-1])]
    table = {"title": "What the claims rest on", "columns": ["claim", "verdict"], "notes": ["so"]}
    rows = [["P1", "holds"], ["O1", "does not hold"]]
    return {**table, "rows": rows, "runs": [both, ["elsewhere/run"]]}


@pytest.fixture(scope="module")
def report(tmp_path_factory, build):
    pytest.importorskip("plotly", reason="plotly is not installed (pip install '.[report]')")
    folder = tmp_path_factory.mktemp("report")
    nasty = PruningConfig(method="flap", correction="bias")
    records = [*sweep({0.3: [0.8, 0.9], 0.5: [0.7, 0.6], 0.7: [0.5]}), language_record(61.5)]
    records += sweep({0.3: [0.7]}, pruning=nasty)
    records += [make_record(config=make_config(study="second"))]
    for record in records:
        results.save_record(record, folder / "results")
    claims = folder / "claims.json"
    claims.write_text(json.dumps({"checks": verdicts(records)}), encoding="utf-8")
    for name in ("a", "b"):
        arguments = ["--results", str(folder / "results"), "--report", str(folder / name)]
        arguments += ["--claims", str(claims)]
        assert build.main(arguments) == 0
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    path = folder / "report.html"
    (folder / "a").rename(path)
    return path


def test_the_page_holds_its_data_and_asks_for_nothing(report):
    text = report.read_text(encoding="utf-8")
    data = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    assert [study["name"] for study in data["studies"]] == ["made_up", "second"]
    shown = data["studies"][0]
    for figure in shown["figures"]:
        assert set(figure["run_ids"]) <= set(shown["records"])
    table = shown["tables"][0]
    assert all(table["runs"])
    place = report.parent / "results" / "made_up"  # not the folder of the clone
    for run_id, facts in shown["records"].items():
        assert facts["file"] == str(place / f"{run_id}.json")
        assert facts["more"] == f"stat-repro show {facts['file']}"
    first, second = data["claims"]
    assert (first["title"], first["rows"][0]) == ("What the claims rest on", ["P1", "holds"])
    assert [len(runs) for runs in first["runs"]] == [2, 0]
    assert [row[0] for row in second["rows"]] == ["made_up", "second"]
    assert "default-src 'none'" in text
    assert "{{" not in text.partition("<script>")[0]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_works_in_a_browser(report, tmp_path):
    with browser(tmp_path / "profile") as page:
        page.open(report)
        assert page.run("document.querySelectorAll('h2').length") == 3  # claims, two studies
        there = (
            "[...document.querySelectorAll('nav a')].map(a => document.querySelector(a.hash).id)"
        )
        assert page.run(there) == ["claims", "made_up", "second"]
        # A filter leaves the rows with its words, a head sorts them.
        page.run("first = document.querySelector('#made_up ~ div table'); 0")
        page.run("input = document.querySelector('#made_up ~ div input'); 0")
        page.run("type = text => { input.value = text; input.dispatchEvent(new Event('input')) }")
        shown = "[...first.tBodies[0].rows].filter(row => !row.hidden)"
        everything = page.run(f"{shown}.length")
        page.run("type('FLAP acc')")
        assert page.run(f"{shown}.map(row => row.cells[2].textContent)") == ["FLAP"]
        assert everything > 1
        page.run("type('')")
        assert page.run(f"{shown}.length") == everything
        page.run("first.querySelectorAll('th button')[4].click()")
        dense = page.run(f"{shown}.map(row => parseFloat(row.cells[4].textContent)).filter(x => x)")
        assert len(dense) > 2
        assert dense == sorted(dense)
        # Figures are drawn, and a point leads to its records, from there to one of them.
        for _ in range(200):
            if page.run("document.querySelectorAll('.plot .main-svg').length"):
                break
            time.sleep(0.05)
        heads = page.run("[...document.querySelectorAll('figure h3')].map(h => h.textContent)")
        kept = "STAT: heads kept (%), STAT: neurons kept (%)"  # of the cells, not of their rows
        assert f"pico on reviews: {kept}" in heads
        page.run("node = [...document.querySelectorAll('.plot')].find(node => node.ready_); 0")
        page.run("point = {customdata: node.data.at(-1).customdata[0]}")
        ids = page.run("node.emit('plotly_click', {points: [point]}); point.customdata")
        page.run("new Promise(done => setTimeout(done, 100))")
        text = page.run("document.getElementById('record').textContent")
        assert all(run_id in text for run_id in ids)
        page.run(f"location.hash = address('made_up', ['{ids[0]}'])")
        page.run("new Promise(done => setTimeout(done, 100))")
        text = page.run("document.getElementById('record').textContent")
        assert f"results/made_up/{ids[0]}.json" in text
        page.key("Escape")
        assert page.run("document.getElementById('record').hidden")
        # A claim comes first, and leads to its records in two studies.
        page.run("claim = document.querySelector('#claims ~ div table tbody tr'); 0")
        assert page.run("claim.textContent") == "P1holds2"
        page.run("claim.querySelector('a').click()")
        page.run("new Promise(done => setTimeout(done, 100))")
        page.run("document.querySelectorAll('#record li a')[1].click()")
        page.run("new Promise(done => setTimeout(done, 100))")
        text = page.run("document.getElementById('record').textContent")
        assert "results/second/" in text
        page.key("Escape")
        # Dark and light are different, and print is light.
        paper = "getComputedStyle(document.body).backgroundColor"
        looks = []
        for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            page.call("Emulation.setEmulatedMedia", media=media, features=[feature])
            looks.append(page.run(paper))
        assert looks[0] == looks[2] != looks[1]
        assert page.of_kind("Log.entryAdded") == []
        assert page.of_kind("Runtime.exceptionThrown") == []
        assert page.of_kind("Runtime.consoleAPICalled") == []
        asked = {event["request"]["url"] for event in page.of_kind("Network.requestWillBeSent")}
        assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}
