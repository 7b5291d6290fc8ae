"""Stage times, peak memory, devices, progress lines."""

import io
import sys
from argparse import Namespace

import pytest
import torch

from stat_repro import measure, progress
from stat_repro.bench import common
from stat_repro.config import RunConfig
from stat_repro.measure import (
    DeviceError,
    DeviceMemoryError,
    Stopwatch,
    peak_memory,
    resolve_device,
)
from stat_repro.run import own_model, pipeline


class Clock:
    """A clock that only moves when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", clock)
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_stages_add_up_and_may_nest(clock):
    watch = Stopwatch(torch.device("cpu"))
    for seconds in (1.0, 2.5):
        with watch.stage("outer"):
            clock.now += seconds
            with watch.stage("inner"):
                clock.now += 0.5
    assert watch.seconds == {"inner": 1.0, "outer": 4.5}


def test_failed_stage_is_timed(clock):
    watch = Stopwatch()

    def fail():
        with watch.stage("fails"):
            clock.now += 3
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError):
        fail()
    assert watch.seconds == {"fails": 3.0}


def test_accelerator_is_synchronised_before_the_clock_is_read(clock, monkeypatch):
    def wait_for_queue(device):
        clock.now += 10

    monkeypatch.setattr(measure, "synchronize", wait_for_queue)
    watch = Stopwatch(torch.device("cuda:0"))
    with watch.stage("kernel"):
        clock.now += 1
    # The wait before the stage belongs to earlier work, the one at its end to the stage.
    assert watch.seconds == {"kernel": 11.0}


def test_peak_rss_is_in_bytes_and_covers_an_allocation():
    held = torch.ones(32 * 2**20, dtype=torch.float64)
    peak = peak_memory(torch.device("cpu"))["process_peak_rss_bytes"]
    # An amount in kibibytes would be a thousand times smaller.
    assert held.sum().item() * held.element_size() < peak < 2**40


def test_peak_rss_agrees_with_getrusage():
    resource = pytest.importorskip("resource")
    told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told *= 1 if sys.platform == "darwin" else 1024
    peak = peak_memory(torch.device("cpu"))["process_peak_rss_bytes"]
    # `ru_maxrss` may be larger: a forked process starts with the size of its parent.
    assert 0 < peak <= told * 1.02


def test_cuda_is_started_before_its_peak_is_reset(monkeypatch):
    """torch refuses the reset ("Invalid device argument") where nothing has used CUDA yet."""
    steps = []
    monkeypatch.setattr(torch.cuda, "init", lambda: steps.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda d: steps.append(f"reset {d}"))
    measure.reset_cuda_peak_memory(torch.device("cuda:0"))
    measure.reset_cuda_peak_memory(torch.device("cpu"))
    assert steps == ["init", "reset cuda:0"]


def test_cpu_has_no_cuda_peak():
    assert set(peak_memory(torch.device("cpu"))) == {"process_peak_rss_bytes"}


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (["cpu"], "cpu"),
        (["cpu", "mps"], "mps"),
        (["cpu", "cuda:0", "cuda:1", "mps"], "cuda:0"),
    ],
)
def test_auto_takes_the_best_device(monkeypatch, there, expected):
    monkeypatch.setattr(measure, "available_devices", lambda: there)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "expected"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_named_device(monkeypatch, name, expected):
    monkeypatch.setattr(measure, "available_devices", lambda: ["cpu", "cuda:0", "cuda:1"])
    assert resolve_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CPU"])
def test_unknown_device_is_refused(name):
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda, cuda:<i> or mps; got"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda:2", "mps"])
def test_absent_device_is_refused_and_the_others_named(monkeypatch, name):
    monkeypatch.setattr(measure, "available_devices", lambda: ["cpu", "cuda:0", "cuda:1"])
    with pytest.raises(DeviceError, match=f"{name} is not available here.*cpu, cuda:0, cuda:1"):
        resolve_device(name)


def test_a_gpu_whose_driver_is_too_old_for_torch_is_not_there(monkeypatch):
    """The driver's own library counts it; torch cannot use it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not any(name.startswith("cuda") for name in measure.available_devices())
    with pytest.raises(DeviceError, match="cuda is not available here"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda:0")


def test_absent_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(measure, "available_devices", lambda: ["cpu"])
    with pytest.raises(DeviceError, match="cuda is not available here; available: cpu"):
        resolve_device("cuda")


@pytest.fixture
def second_of_two(monkeypatch):
    """What torchrun tells the second of two processes on a machine."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_every_process_takes_a_gpu_of_its_own(name, monkeypatch, second_of_two):
    monkeypatch.setattr(measure, "available_devices", lambda: ["cpu", "cuda:0", "cuda:1"])
    assert resolve_device(name) == torch.device("cuda:1")
    monkeypatch.setattr(measure, "available_devices", lambda: ["cpu", "cuda:0"])
    with pytest.raises(DeviceError, match="cuda:1, for process 1 of 2, is not available"):
        resolve_device(name)


def test_a_gpu_for_all_processes_is_refused(monkeypatch, second_of_two):
    monkeypatch.setattr(measure, "available_devices", lambda: ["cpu", "cuda:0", "cuda:1"])
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"expected auto, cpu, cuda or mps.*got cuda:0"):
        resolve_device("cuda:0")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_log_gets_few_lines(clock, capsys):
    with progress.Progress("counting", 100, "things") as bar:
        for _ in range(100):
            clock.now += 0.25
            bar.advance()
    assert capsys.readouterr().err.splitlines() == [
        "counting: 8/100 things, 0:02 (about 0:23 left)",
        "counting: 48/100 things, 0:12 (about 0:13 left)",
        "counting: 88/100 things, 0:22 (about 0:03 left)",
        "counting: 100/100 things, 0:25, done",
    ]


def test_short_stage_leaves_no_trace_in_a_log(clock, capsys):
    with progress.Progress("counting", 3) as bar:
        for _ in range(3):
            clock.now += 0.5
            bar.advance()
    assert capsys.readouterr().err == ""


def test_terminal_line_is_redrawn_and_cleared(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.Progress("a description that is long", 3) as bar:
        clock.now += 0.5
        bar.advance(note="loss 0.5")
    drawn = stream.getvalue().split("\r\x1b[2K")
    assert len(drawn) == 4
    assert drawn[1] == "a description that is long: 0"
    assert all(len(line) <= 29 for line in drawn)
    assert drawn[-1] == ""


def test_interrupted_stage_says_so(clock, capsys):
    def stop():
        with progress.Progress("counting", 9) as bar:
            clock.now += 1
            bar.advance()
            clock.now += 4
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert capsys.readouterr().err == "counting: 1/9 batches, 0:05, stopped\n"


def test_track_passes_items_through(clock, capsys):
    class SlowItems(list):
        def __iter__(self):
            for item in super().__iter__():
                clock.now += 2
                yield item

    assert list(progress.track(SlowItems("abc"), "reading", unit="letters")) == list("abc")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "reading: 1/3 letters, 0:02 (about 0:04 left)",
        "reading: 3/3 letters, 0:06, done",
    ]


def test_commands_that_run_a_model_tell_of_a_full_device(monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has 8")

    assert common.measured(Namespace(), ["bert_base"], full) == 1
    told = "error: device memory: CUDA out of memory. Tried to allocate 9 GiB; choose smaller"
    assert told in capsys.readouterr().err
    monkeypatch.setattr(own_model, "run_config", full)
    with pytest.raises(DeviceMemoryError):
        own_model.evaluate(Namespace())
    with pytest.raises(DeviceMemoryError):
        pipeline.save_stored(RunConfig(), Namespace(dense=full), None, None)
