"""Speed of pruned models and figures of measurements on a GPU, from records of a tiny shape."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from stat_repro import results
from stat_repro.bench.__main__ import main
from stat_repro.reporting.canvas import draw
from stat_repro.reporting.speed_figures import growth_figure, inference_figure, stages_figure
from stat_repro.reporting.speed_table import speed_table

GPU = {"name": "Pico GPU 9", "memory_bytes": 8, "driver": "1", "cuda": "2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("speed")
    common = ["--repeats", "2", "--results", str(where)]
    assert main(["tiny", *common, "--warmup", "0", "--authors-tokens", "0"]) == 0
    points = ["--ratios", "0.3,0.5", "--round-to", "1,4", "--batch-sizes", "1,3", "--length", "9"]
    assert main(["inference", "tiny", *common, *points]) == 0
    return where


def test_speedups_are_those_of_the_turns(folder):
    inference, compression = results.load_speed(folder)
    assert (inference.name, compression.name) == ("inference_tiny-n3x9-d2", "tiny-n6x9-d2")
    assert len(inference.ratios) == 2 * 2 * 2
    for name, ratio in inference.ratios.items():
        key = name.removeprefix("speed-up ")
        pairs = zip(
            inference.seconds[f"dense {key}"], inference.seconds[f"pruned {key}"], strict=True
        )
        assert ratio["min"] == pytest.approx(min(a / b for a, b in pairs))
    kept = inference.protocol["mac_kept"]
    assert kept["ratio=0.5 round_to=4"] <= 0.5 < kept["ratio=0.3 round_to=4"] <= 0.7


def test_a_gpu_is_part_of_a_records_name_and_of_the_table(folder):
    (record,) = (r for r in results.load_speed(folder) if r.shape == "tiny")
    there = replace(record, provenance={**record.provenance, "gpu": GPU})
    assert there.name == "tiny-n6x9-d2-float32-pico-gpu-9"
    settings = set(speed_table([record, there]).cells["setting"])
    assert len(settings) == 2
    assert "Pico GPU 9, float32, n=2" in settings


def test_measurements_of_two_processors_are_two_lines_and_rows(folder):
    (record,) = (r for r in results.load_speed(folder) if r.shape == "tiny")
    both = [
        replace(
            record,
            run_id=f"{size}-{name}",
            protocol={**record.protocol, "examples": size},
            provenance={**record.provenance, "processor": name},
        )
        for size in (6, 12)
        for name in ("Pico 1", "Pico 2")
    ]
    lines = growth_figure(both).panels[0].lines
    assert len({line.label for line in lines}) == len(lines) == 4
    assert all(len(ids) == 1 for line in lines for ids in line.run_ids)
    assert len(set(speed_table(both[:2]).cells["setting"])) == 2


def test_bars_are_the_stages_on_a_gpu(folder):
    records = results.load_speed(folder)
    assert stages_figure(records) is None  # a CPU
    there = [replace(r, provenance={**r.provenance, "gpu": GPU}) for r in records]
    data = stages_figure(there)
    (panel,) = data.panels
    stages, bare = ([line for line in panel.lines if place in line.x] for place in (0.0, 1.0))
    (record,) = (r for r in there if r.shape == "tiny")
    assert sum(line.y[0] for line in stages) == pytest.approx(100)
    seconds = float(panel.ticks[0][1].split(", ")[-1].removesuffix(" s"))
    assert seconds <= 1.5 * max(record.seconds["compress_s"])
    assert [line.label for line in bare] == ["bare first pass", "bare second pass"]
    figure = draw(data)
    assert len(figure.axes[0].patches) == len(stages) + len(bare)


def test_lines_are_the_speedups_against_what_is_removed(folder):
    records = results.load_speed(folder)
    data = inference_figure(records)
    (record,) = (r for r in records if "mac_kept" in r.protocol)
    assert [one.title.rpartition("\n")[2] for one in data.panels] == ["batch=1", "batch=3"]
    for panel in data.panels:
        words, (level, *lines) = panel.title, panel.lines
        assert (level.x, level.y) == ((), (1.0,))
        assert [line.label for line in lines] == ["round_to=1", "round_to=4"]
        for line in lines:
            name = f"speed-up ratio=0.5 {line.label} {words.rpartition(chr(10))[2]}"
            assert line.y[-1] == float(f"{record.ratios[name]['median']:.9g}")
            kept = record.protocol["mac_kept"][f"ratio=0.5 {line.label}"]
            assert line.x[-1] == pytest.approx(100 * (1 - kept))
    assert len(draw(data).axes) == 2
    assert inference_figure([r for r in records if r is not record]) is None


def script(name, *arguments):
    path = Path(__file__).parents[1] / "experiments" / name
    return subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True)


def test_the_script_for_a_gpu_lists_its_steps_and_makes_nothing(tmp_path):
    where = tmp_path / "none"
    done = script("gpu.py", "--list", "--layers", "3", "--results", str(where))
    assert done.returncode == 0, done.stderr
    steps = [line.split(" ")[0] for line in done.stdout.splitlines()]
    assert steps[:3] == ["llama2_7b", "bert_base", "sharded_7b"]
    assert steps[-1] == "tests"
    assert "stat_repro.bench llama2_7b --layers 3 --device cuda" in done.stdout
    refused = script("gpu.py", "--steps", "bert", "--results", str(where))
    assert refused.returncode == 2
    assert "--steps: expected some of llama2_7b, bert_base" in refused.stderr
    assert not where.exists()


def test_the_script_for_a_gpu_stores_what_it_measured_in_its_time(tmp_path):
    small = ["--device", "cpu", "--small", "--steps", "bert_base", "--results", str(tmp_path)]
    late = script("gpu.py", *small, "--seconds", "0")
    assert late.returncode == 1
    assert "bert_base: not started: " in late.stdout
    done = script("gpu.py", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results.load_speed(tmp_path)) == 1
    assert "its two bare forward passes" in done.stdout


def test_an_interrupted_measurement_leaves_the_gpu_to_others(tmp_path):
    """Ctrl-C reaches the script alone: its measurements have groups of their own."""
    path = Path(__file__).parents[1] / "experiments" / "gpu.py"
    small = ["--device", "cpu", "--small", "--steps", "bert_base", "--results", str(tmp_path)]
    with subprocess.Popen([sys.executable, str(path), *small], stderr=subprocess.PIPE) as script:
        measuring = []
        while not (measuring and measuring[0].cpu_times().user > 0.2):  # it is at work
            assert script.poll() is None
            measuring = psutil.Process(script.pid).children()
        script.send_signal(signal.SIGINT)
        assert script.wait() != 0
    assert not measuring[0].is_running()


def test_studies_of_other_programs_are_named():
    done = script("served.py", "nothing")
    assert done.returncode == 2
    assert "STUDY: expected some of quantised_smollm2, quantised_minilm" in done.stderr
