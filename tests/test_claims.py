"""docs/claims.md is what docs/claims.py makes of docs/claims.yaml and the stored records."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_examples import run, sentences
from made_up_records import cost_entry, measured_record

from stat_repro import results
from stat_repro.results.speed_record import SpeedRecord, save_speed
from stat_repro.results.strict_json import stamped

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CLAIMS = """
- part: What is claimed
  letter: C
  claims:
    - claim: STAT is closer to the dense model than FLAP is.
      source: nowhere
      command: python run.py study=made_up
      checks:
        - measure: {study: made_up, value: kl, method: stat, ratio: 0.5}
          divided_by: {method: flap}
          at_most: 1
    - claim: STAT keeps the accuracy.
      source: nowhere
      checks:
        - measure: {study: made_up, value: accuracy, method: stat, ratio: 0.5}
          minus: {value: dense.accuracy}
          at_least: -5
"""


ONE = """
- part: What is claimed
  letter: C
  claims:
    - claim: It is so.
      source: nowhere
      checks:
        - measure: """


@pytest.fixture(scope="module")
def claims():
    """The script as a module; what it asks of the package and of sys.path stays inside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        patch.setenv("STAT_REPRO_LIGHT", "1")
        module = importlib.import_module("claims")
        yield module
    for name in [name for name in sys.modules if name.startswith("claim")]:
        del sys.modules[name]


def store(root, *runs):
    """Records with their values per example, instead of what was there."""
    shutil.rmtree(root, ignore_errors=True)
    for record, data in runs:
        results.save_record(record, root, data)


def pair(kl, other_kl, accuracy=0.85):
    """STAT and FLAP with such values, two seeds each."""
    return [
        run(sentences(noise + seed, accuracy, distance), method, seed=seed)
        for method, distance, noise in (("stat", kl, 0), ("flap", other_kl, 5))
        for seed in (0, 1)
    ]


def judge(claims, folder, text=CLAIMS):
    """All claims of a data file about the records of a folder, and the page."""
    data = folder / "claims.yaml"
    data.write_text(text, encoding="utf-8")
    parts = claims.judged(data, folder / "results")
    return [one for _, there in parts for one in there], claims.page(parts)


def test_the_stored_page_is_what_the_records_give(claims):
    parts = claims.judged(claims.DATA, ROOT / "results")
    page, report = claims.page(parts), claims.report(parts)
    assert page == (DOCS / "claims.md").read_text(encoding="utf-8"), "run python docs/claims.py"
    assert report == (DOCS / "claims.json").read_text(encoding="utf-8")
    assert "no command yet" not in page
    named = {name for row in json.loads(report)["checks"]["runs"] for name in row}
    assert len(named) > 400
    gone = [name for name in named if not (ROOT / "results" / f"{name}.json").is_file()]
    assert all(name.startswith("served.") for name in gone)


def test_other_records_give_other_values_and_verdicts(claims, tmp_path):
    root, pages = tmp_path / "results", []
    for kl, other_kl, accuracy, verdicts in (
        (0.02, 0.08, 0.85, ["holds", "holds"]),
        (0.08, 0.02, 0.85, ["does not hold", "holds"]),
        (0.02, 0.08, 0.60, ["holds", "does not hold"]),
        (0.05, 0.05, 0.79, ["not testable here", "not testable here"]),
    ):
        store(root, *pair(kl, other_kl, accuracy))
        judged, page = judge(claims, tmp_path)
        assert [one.verdict for one in judged] == verdicts
        assert judge(claims, tmp_path)[1] == page
        pages.append(page)
        value = judged[0].rows[0].cells[2]
        assert float(value.split()[0]) == pytest.approx(kl / other_kl, rel=0.2)
        assert value in page
        assert len(judged[0].rows[0].records) == 4
    assert len(set(pages)) == 4
    assert "the interval lies on both sides of the bound" in pages[3]
    assert "Of 2 claims 1 hold, 1 do not hold, and 0 are not testable here." in pages[1]


def test_missing_records_and_those_that_do_not_compare(claims, tmp_path):
    store(tmp_path / "results", *pair(0.02, 0.08)[:2])  # STAT alone
    judged, page = judge(claims, tmp_path)
    assert [one.verdict for one in judged] == ["not testable here", "holds"]
    assert "not testable here: no record" in page
    assert "Missing records of `made_up`: `python run.py study=made_up`." in page
    shutil.rmtree(tmp_path / "results")
    judged, page = judge(claims, tmp_path)
    assert [one.verdict for one in judged] == ["not testable here"] * 2
    others = run(sentences(0, 0.85, 0.08), "flap", model_hash="other")
    store(tmp_path / "results", run(sentences(0, 0.85, 0.02)), others)
    for over in ("examples", "seeds"):
        text = CLAIMS.replace("at_most: 1", f"at_most: 1\n          over: {over}")
        judged, page = judge(claims, tmp_path, text)
        assert "the runs do not compare: another dense model" in page
    broken = sentences(0, 0.85, 0.02)
    broken["kl"][0] = np.inf
    store(tmp_path / "results", run(broken), run(sentences(0, 0.85, 0.08), "flap"))
    assert "not testable here: a value is not finite" in judge(claims, tmp_path)[1]


def test_seeds_compare_where_only_the_calibration_differs(claims, tmp_path):
    text = CLAIMS.replace("at_most: 1", "at_most: 1\n          over: seeds")
    own = {"protocol": {"split": "test", "calibrated_on": "a"}}
    there = run(sentences(0, 0.85, 0.02), hashes={"test": "t", "a": "1"}, **own)
    for hashes, protocol, expected in (
        ({"test": "t", "b": "2"}, {"split": "test", "calibrated_on": "b"}, None),
        ({"test": "u", "b": "2"}, {"split": "test", "calibrated_on": "b"}, "other data"),
        ({"test": "t", "b": "2"}, {"split": "dev", "calibrated_on": "b"}, "another protocol"),
    ):
        other = run(sentences(0, 0.85, 0.08), "flap", hashes=hashes, protocol=protocol)
        store(tmp_path / "results", there, other)
        judged, page = judge(claims, tmp_path, text)
        assert (judged[0].verdict == "holds") == (expected is None)
        assert expected is None or f"the runs do not compare: {expected}" in page


def test_calibrations_differ_only_where_seeds_are_asked_for(claims, tmp_path):
    """Also of numbers that have no values per example."""
    drawn = {"data_hashes": {"test": "t", "calibration": "of others"}}
    flap = run(sentences(0, 0.85, 0.08), "flap", provenance=drawn)
    store(tmp_path / "results", run(sentences(0, 0.85, 0.02)), flap)
    for value in ("kl", "heads_kept"):
        text = CLAIMS.replace("value: kl", f"value: {value}")
        assert "do not compare: other calibration examples" in judge(claims, tmp_path, text)[1]
        text = text.replace("at_most: 1", "at_most: 1\n          over: seeds")
        assert judge(claims, tmp_path, text)[0][0].verdict == "holds"


def test_seeds_without_values_per_example_do_not_change_the_kind_of_interval(claims, tmp_path):
    runs = pair(0.02, 0.08)
    bare, _ = run(sentences(0, 0.85, 0.02), provenance={"examples": None})
    store(tmp_path / "results", (bare, None), *runs[1:])
    judged, _ = judge(claims, tmp_path)
    assert judged[0].rows[0].cells[5] == "400 examples, one seed"
    assert len(judged[0].rows[0].records) == 2


def test_sizes_have_to_be_equal_over_seeds_too(claims, tmp_path):
    flap = run(sentences(0, 0.85, 0.08), "flap", neurons=(90, 90))
    store(tmp_path / "results", run(sentences(0, 0.85, 0.02)), flap)
    for value in ("kl", "heads_kept"):
        page = judge(claims, tmp_path, CLAIMS.replace("value: kl", f"value: {value}"))[1]
        assert "the runs do not compare: MACs kept differ by" in page


def test_training_and_gradients_are_read_from_the_record(claims, tmp_path):
    check = "{study: made_up, value: [gradient_seconds, training_seconds]}\n          at_most: 0\n"
    for timings, verdict in (
        ({}, "holds"),
        ({"gradients_s": 9.0, "recover_s": 1.0}, "does not hold"),
    ):
        made = run(sentences(0, 0.8, 0.02), timings={"compress_s": 1.0, **timings})
        store(tmp_path / "results", made)
        rows = judge(claims, tmp_path, ONE + check)[0][0].rows
        assert [row.cells[4] for row in rows] == [verdict] * 2


def test_a_divisor_of_zero_decides_nothing(claims, tmp_path):
    store(tmp_path / "results", run(sentences(0, 0.8, 0.02)))
    check = "{study: made_up, value: compress_s}\n          divided_by: {value: training_seconds}"
    row = judge(claims, tmp_path, f"{ONE}{check}\n          at_most: 2\n")[0][0].rows[0]
    assert row.cells[4] == "not testable here: a divisor is not above 0"


def test_values_over_seeds_and_lists(claims, tmp_path):
    runs = [
        run(sentences(seed, 0.8, 0.02), ratio=ratio, seed=seed, timings={"compress_s": seconds})
        for ratio in (0.3, 0.5)
        for seed, seconds in enumerate((10.0, 20.0, 40.0))
    ]
    store(tmp_path / "results", *runs)
    check = "{study: made_up, value: compress_s, ratio: [0.3, 0.5]}\n          at_most: 45\n"
    judged, _ = judge(claims, tmp_path, ONE + check)
    assert [row.cells[2] for row in judged[0].rows] == ["23.3 [10.0, 40.0]"] * 2
    assert [row.cells[5] for row in judged[0].rows] == ["lowest and highest of 3 seeds"] * 2
    assert [row.cells[1] for row in judged[0].rows] == ["30 % removed", "50 % removed"]
    assert judged[0].verdict == "holds"
    with pytest.raises(claims.ClaimError, match=r"0: expected settings that leave one record of a"):
        judge(claims, tmp_path, ONE + check.replace("ratio: [0.3, 0.5]", "method: stat"))


def test_times_of_pruned_models_and_of_the_benchmark(claims, tmp_path, monkeypatch, capsys):
    """Costs that were measured: of runs, of the benchmark, and in other programs."""
    root = tmp_path / "results"
    entries = [cost_entry(0.5, 1.8), cost_entry(0.5, 2.0, batch=32)]
    results.save_record(measured_record(*entries), root)
    for layers, seconds in ((2, [5.0, 1.0, 3.0]), (1, [2.0])):
        protocol = {"layers": layers, "examples": 4, "length": 8, "dtype": "float32", "repeats": 3}
        ratios = {"compress_by_forward_passes": {"median": 2.0, "q25": 1.5, "q75": 3.0, "min": 1.0}}
        provenance = {"gpu": {"name": "Card"}, "commit": "c0ffee"}
        memory = {"process_peak": 10**9}
        speed = SpeedRecord(
            shape="tiny",
            protocol=protocol,
            seconds={"compress_s": seconds},
            ratios=ratios,
            memory=memory,
            provenance=provenance,
        )
        save_speed(speed, root)
    row = {"ratio": 0.5, "speedup": {"median": 1.5, "q25": 1.25, "q75": 1.75}, "perplexity": 9.5}
    served = {"speed_onnx": {"rows": [row], "seed": 0}}
    (root / "served.json").write_text(json.dumps(served), encoding="utf-8")
    asked = "divided_by: {value: time_asked}"
    for measure, rest, expected in (
        ("made_up, value: speedup, batch: 32", "", "2.00 [1.90, 2.20]"),
        ("made_up, value: time_kept, batch: 1", asked, "1.11 [1.00, 1.18]"),
        ("made_up, value: heads_kept", "", "50.0"),
        ("speed, value: compress_s, layers: 2, card: Card", "", "3.0 [1.0, 5.0]"),
        ("speed, value: compress_s, shape: tiny, as_layers: 8", "", "12.0 [4.0, 20.0]"),
        ("speed, value: compress_by_forward_passes, layers: 1", "", "2.00 [1.50, 3.00]"),
        ("speed, value: process_peak, layers: 2", "divided_by: {layers: 1}", "1.00"),
        ("speed, value: compress_s, card: none", "", "-"),
        ("served.speed_onnx, value: speedup, ratio: 0.5", "", "1.50 [1.25, 1.75]"),
        ("served.speed_onnx, value: perplexity, ratio: 0.5", "", "9.50"),
    ):
        text = f"{ONE}{{study: {measure}}}\n          {rest}\n          at_least: 0.9\n"
        judged, page = judge(claims, tmp_path, text)
        assert judged[0].rows[0].cells[2] == expected, measure
        assert judged[0].verdict == ("not testable here" if expected == "-" else "holds")
    assert "(serving.md)" in page
    edited = stamped({"provenance": {}, **served["speed_onnx"]}) | {"seed": 1}
    (root / "served.json").write_text(json.dumps({"speed_onnx": edited}), encoding="utf-8")
    monkeypatch.setattr(claims, "DATA", tmp_path / "claims.yaml")
    monkeypatch.setattr(claims, "PAGE", None)  # nothing is written
    monkeypatch.setattr(claims, "results_dir", lambda: root)
    assert claims.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {root / 'served.json'}: speed_onnx: content: expected sha256:")
    assert "changed since" in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("letter: C", "letters: C", r"claims.yaml: 0.letters: expected a known key; got 'letters'"),
        ("source:", "sauce:", r"0.claims.0.sauce: .* choose one of claim, source, note, command"),
        ("at_most:", "atmost:", r"0.claims.0.checks.0.atmost: expected a known key; .* at_most"),
        ("ratio: 0.5", "ration: 0.5", r"checks.0: expected the name of one setting; got 'ration'"),
        ("ratio: 0.5", "batch_size: 5", r"got 'batch_size'; choose one of finetune.batch_size, "),
        ("study: made_up, ", "", r"measure.study: expected this key; got none"),
        ("at_most: 1", "", r"at_least, at_most: expected one of them; got none: .* cannot fail"),
        ("at_most: 1", "at_least: 0", r"got at least 0: such a rule cannot fail"),
        ("at_most: 1", "at_most: .inf", r"at_most: expected a finite number; got inf"),
        ("at_most: 1", "at_most: true", r"at_most: expected a finite number; got True"),
        ("at_most: 1", "at_most: one", r"at_most: expected a finite number; got 'one'"),
        ("at_least: -5", "at_least: -100", r"between -100 and 100.*; got at least -100: .* fail"),
        ("at_least: -5", "at_least: 101", r"got at least 101: such a rule cannot hold"),
        ("at_most: 1", "at_most: 1\n          at_least: 2", r"expected no more than at_most"),
        ("{method: flap}", "{method: stat}", r"divided_by: expected another selection"),
        ("at_most: 1", "minus: {method: random}", r"expected one of minus, divided_by; got both"),
        ("at_most: 1", "at_most: 1\n          over: weeks", r"over: expected examples or seeds"),
        (CLAIMS[CLAIMS.index("command") :], "checks: []", r"0.checks: expected at least one check"),
    ],
)
def test_a_data_file_that_cannot_be_right_is_refused(claims, tmp_path, old, new, message):
    with pytest.raises(claims.ClaimError, match=message):
        judge(claims, tmp_path, CLAIMS.replace(old, new))
