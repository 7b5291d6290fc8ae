"""The benchmark on a tiny shape: complete records, comparable sides, a table of its own."""

import gc
import json
from dataclasses import replace

import pytest
import torch
from made_up_matrices import activations
from made_up_records import make_record

from stat_repro import measure, results
from stat_repro.bench.__main__ import main
from stat_repro.bench.shapes import SHAPES, random_batches
from stat_repro.bench.stages import COMPRESSION_STAGES, by_authors, by_gram
from stat_repro.config import ConfigError, RunConfig
from stat_repro.models.adapter import adapter_for
from stat_repro.reporting.canvas import draw
from stat_repro.reporting.speed_figures import growth_figure

CPU = torch.device("cpu")
AFTER_PASSES = ("errors", "fold_ffn", "fold_heads")
TINY = ["tiny", "--repeats", "2", "--sweep", "0.2,0.3", "--authors-tokens", "50"]


def test_a_measurement_is_stored_and_shown(tmp_path, build, capsys):
    arguments = [*TINY, "--ratio", "0.4", "--results", str(tmp_path / "results")]
    assert main(arguments) == 0
    assert main(arguments) == 0  # a second one replaces nothing
    stored = sorted(path.name for path in (tmp_path / "results" / "speed").iterdir())
    assert stored == ["tiny-n6x9-d2.json", "tiny-n6x9-d2.repeat-1.json"]
    record = results.load_speed(tmp_path / "results")[0]
    own = {"forward_s", "forward_folded_s", "compress_s", "sweep_s", "gram_ffn_s", "authors_ffn_s"}
    assert set(record.seconds) == own | set(COMPRESSION_STAGES)
    assert {len(values) for values in record.seconds.values()} == {2}
    assert min(min(values) for values in record.seconds.values()) > 0
    first = {key: values[0] for key, values in record.seconds.items()}
    assert sum(first[key] for key in COMPRESSION_STAGES) <= first["compress_s"]
    turns = [
        whole / (bare + folded)
        for whole, bare, folded in zip(
            *(record.seconds[k] for k in ("compress_s", "forward_s", "forward_folded_s")),
            strict=True,
        )
    ]
    ratios = record.ratios["compress_by_forward_passes"]
    assert ratios["min"] == pytest.approx(min(turns))
    assert ratios["median"] == pytest.approx(sum(turns) / 2)
    assert set(record.ratios) == {
        *("compress_by_forward_passes", "calibrate_by_forward_pass"),
        *("recalibrate_by_forward_pass", "authors_ffn_by_gram_ffn", "sweep_by_one_ratio"),
    }
    assert record.memory["statistics"] == 2 * 8 * (24**2 + 20**2)
    assert record.protocol["authors_tokens"] == 50

    # Beside a study of runs, which the table of runs shows as before.
    results.save_record(make_record(), tmp_path / "results")
    where = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert build.main(where) == 0
    assert "study speed: 2 measurements" in capsys.readouterr().out
    text = (tmp_path / "out" / "speed" / "table.md").read_text()
    assert "compression / its two bare forward passes" in text
    assert f"{ratios['median']:.2f}" in text
    ours = [sum(record.seconds[f"{k}_s"][turn] for k in AFTER_PASSES) for turn in (0, 1)]
    turns = [
        2 * theirs / own for theirs, own in zip(record.seconds["authors_ffn_s"], ours, strict=True)
    ]
    row = (
        f"QR of the FFNs (50 of 54 tokens) / pivots and folds of all sites | {sum(turns) / 2:.2f} |"
    )
    assert row in text
    with pytest.raises(results.StudyError, match="holds no runs"):
        results.load_records(tmp_path / "results", "speed")
    with pytest.raises(ConfigError, match="choose another name"):
        RunConfig(study="speed")


def test_what_is_not_asked_for_is_not_measured(tmp_path):
    assert main(["tiny", "--repeats", "1", "--warmup", "0", "--authors-tokens", "0",
                 "--layers", "1", "--examples", "3", "--length", "5", "--batch-size", "2",
                 "--threads", "1", "--dtype", "bfloat16", "--ratio", "0.3",
                 "--results", str(tmp_path)]) == 0  # fmt: skip
    (record,) = results.load_speed(tmp_path)
    assert record.name == "tiny-n3x5-d1"
    assert "authors_ffn_by_gram_ffn" not in record.ratios
    assert "sweep_by_one_ratio" not in record.ratios
    assert record.protocol["dtype"] == "bfloat16"
    assert record.protocol["threads"] == 1


@pytest.mark.parametrize(
    "arguments", [["huge"], ["tiny", "--repeats", "0"], [], ["tiny", "--width", "20"]]
)
def test_unusable_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": "stat_repro.speed/0"}', '{"schema": "stat_repro.speed/1"}']
)
def test_damaged_measurements_are_named(text, tmp_path):
    with pytest.raises(results.StudyError, match=r"stat_repro\.bench"):
        results.load_speed(tmp_path)
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "odd.json").write_text(text)
    with pytest.raises(results.RecordError, match=r"odd\.json"):
        results.load_speed(tmp_path)


def test_both_sides_do_the_same_work():
    """The authors' QR and the Gram matrix end in the same consumer, up to float32."""
    site = adapter_for(SHAPES["tiny"].build(1, 8, torch.float32, CPU)).site(0, "ffn")
    rows = activations(300, 20).float()
    weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    gram = by_gram(rows, weight, 9, site)
    torch.testing.assert_close(by_authors(rows, weight, 9).double(), gram, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_models_with_sites(name):
    shape = SHAPES[name]
    with torch.device("meta"):
        model = shape.build(1, 8, torch.float32, CPU)
    widths = {site.kind: site.columns for site in adapter_for(model).sites}
    assert widths == {
        "attention": shape.config["hidden_size"],
        "ffn": shape.config["intermediate_size"],
    }


def test_random_weights_leave_other_gpus_alone(monkeypatch):
    """Torch saves the random state of every GPU unless it is told which, and so starts them all."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: pytest.fail("a GPU was asked"))
    before = torch.get_rng_state()
    first, second = (SHAPES["tiny"].build(1, 8, torch.float32, CPU) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_batches_are_full_and_repeatable():
    model = SHAPES["tiny"].build(1, 8, torch.float32, CPU)
    batches = random_batches(model, 5, 8, 2)
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(2, 8), (2, 8), (1, 8)]
    again = random_batches(model, 5, 8, 2)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(batches, again))  # noqa: B905
    assert json.dumps(SHAPES["tiny"].config)


def test_the_peak_can_be_started_anew():
    # Else the tensor may lie in memory that models of earlier tests left resident.
    gc.collect()
    measure.return_free_memory()
    if not measure.reset_process_peak_rss():
        pytest.skip("the system does not reset the peak")
    before = measure.process_peak_rss_bytes()
    held = torch.ones(50_000_000)
    assert measure.process_peak_rss_bytes() - before > 0.9 * held.nbytes
    del held
    assert measure.reset_process_peak_rss()
    assert measure.process_peak_rss_bytes() - before < 0.5 * 50_000_000 * 4


SMALL = ["tiny", "--repeats", "1", "--warmup", "0", "--authors-tokens", "0"]


def test_growth_is_shown_along_each_size_that_was_varied(tmp_path, build):
    stored = ["--results", str(tmp_path / "results")]
    for changed in (
        [],
        ["--examples", "3"],
        ["--width", "48"],
        ["--examples", "3", "--length", "5"],
    ):
        assert main([*SMALL, *changed, *stored]) == 0
    records = results.load_speed(tmp_path / "results")
    assert {record.shape for record in records} == {"tiny", "tiny-w48"}
    wide = next(record for record in records if record.shape == "tiny-w48")
    assert wide.protocol["num_attention_heads"] == 8
    assert wide.protocol["intermediate_size"] == 40

    data = growth_figure(records)
    assert [panel.x_label for panel in data.panels] == 2 * ["calibration examples", "hidden size"]
    times, wide_times, peaks, wide_peaks = (panel.lines for panel in data.panels)
    assert {line.x for line in (*times, *peaks)} == {(3.0, 6.0)}
    assert {line.x for line in (*wide_times, *wide_peaks)} == {(24.0, 48.0)}
    base = next(record for record in records if record.name == "tiny-n6x9-d2")
    passes = base.seconds["forward_s"][0] + base.seconds["forward_folded_s"][0]
    measured = (base.seconds["compress_s"][0], passes, base.memory["compress_peak"] / 1e9)
    seconds, bare, peak = (float(f"{value:.9g}") for value in measured)  # as lines keep them
    assert times[0].y[1] == wide_times[0].y[0] == seconds
    assert times[1].y[1] == bare
    assert peaks[0].y[1] == peak
    assert times[0].label == "BERT, 24 wide, 2 layers, x 9 tokens: compression"
    assert times[0].run_ids[1] == (base.run_id,)

    out = tmp_path / "out"
    assert build.main([*stored, "--out", str(out), "--study", "speed"]) == 0
    assert (out / "speed" / "figure_growth.png").stat().st_size > 0
    assert growth_figure([base]) is None
    odd = replace(wide, seconds={"compress_s": [2.0]}, memory={"process_peak": None})
    drawn = growth_figure([base, odd])
    assert drawn.panels[0].lines[1].x == (24.0,)
    assert draw(drawn)
