"""Any device, any data type: nothing overflows, nothing waits for an accelerator unasked.

Tensors on the device `meta` have no values, so whatever asks for one fails there: it stands for an
accelerator whose queue must not be waited for.
"""

import ast
import os
from collections import Counter
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pico_models import REPRESENTATIVES, pico_batches, pico_model
from pico_surgery import pruned_of
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

import stat_repro
from stat_repro.calibration import capture, influence
from stat_repro.calibration.collectors import BUFFER_ROWS, COLLECTORS
from stat_repro.calibration.gradients import mask_gradients
from stat_repro.calibration.influence import layer_influence
from stat_repro.calibration.sketch import Sketch
from stat_repro.linalg import blocked_cholesky
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear

PACKAGE = Path(__file__).resolve().parents[1] / "stat_repro"
CPU = torch.device("cpu")
HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
def test_sums_of_half_activations_are_those_of_their_exact_values(dtype):
    """Squares beyond 65504, the largest float16, and sums that no half type could hold."""
    site = adapter_for(pico_model("bert")).site(0, "ffn")
    generator = torch.Generator().manual_seed(0)
    rows = (3e4 * torch.randn(3 * BUFFER_ROWS // 2, site.columns, generator=generator)).to(dtype)
    rows = rows.clamp(-6e4, 6e4)
    precise = rows.double()
    gram = COLLECTORS["gram"](site, CPU)
    exact = COLLECTORS["exact"](site, CPU)
    sketch = COLLECTORS["sketch"](site, CPU, sketch=Sketch(size=500))
    for collector in (gram, exact, sketch):
        for part in rows.split(100):
            collector.add(part)
    found, kept = gram.finish(), exact.finish()
    torch.testing.assert_close(found.gram, precise.T @ precise, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(found.sums, precise.sum(dim=0), rtol=1e-9, atol=0.0)
    assert found.gram.diagonal().min() > 65504
    assert found.dtype is kept.dtype is dtype
    torch.testing.assert_close(kept.square_sums, found.square_sums, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(kept.mean, found.mean, rtol=1e-9, atol=0.0)
    drawn = sketch.finish().activations
    assert torch.isfinite(drawn).all()
    torch.testing.assert_close(drawn.square().sum(), found.gram.trace(), rtol=0.3, atol=0.0)


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_model_with_large_activations_is_compressed_without_overflow(name, dtype):
    model = pico_model(name, dtype=dtype)
    adapter, batches = adapter_for(model), pico_batches(model)
    producer = adapter.site(1, "ffn").producers[-1].module
    linear(model, producer).weight.data *= 1000
    gram = stat_repro.compress(model, batches, ratio=0.4)
    exact = stat_repro.compress(model, batches, ratio=0.4, statistics="exact")
    statistics = capture.collect_statistics(model, adapter, batches).statistics[1, "ffn"]
    assert statistics.square_sums.max() / statistics.tokens > 65504
    assert gram.plan.layers == exact.plan.layers
    for tensor in gram.model.state_dict().values():
        assert torch.isfinite(tensor).all()
    assert next(gram.model.parameters()).dtype is dtype


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_calibration_pass_asks_the_device_for_nothing(name, monkeypatch):
    """Collectors and hooks, from the batches on the CPU to the complete sums."""
    # transformers itself asks whether a batch has padding: always with sdpa, else for encoders.
    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *_: False)
    model = pico_model(name, attention="eager")
    batches = pico_batches(model)
    adapter = adapter_for(model)
    monkeypatch.setattr(capture, "_finish", lambda site, collector, tokens: collector.finish())
    expected = capture.collect_statistics(model, adapter, batches)
    # More rows than a block, so that products are taken on the way.
    monkeypatch.setattr("stat_repro.calibration.collectors.BUFFER_ROWS", 16)
    monkeypatch.setattr(capture, "BUFFER_ROWS", 16)
    found = capture.collect_statistics(model.to("meta"), adapter, batches)
    assert (found.tokens, found.examples) == (expected.tokens, expected.examples)
    for key, statistics in found.statistics.items():
        assert statistics.gram.is_meta
        assert statistics.tokens == expected.statistics[key].tokens


class Waits(TorchDispatchMode):
    """Counts the operations that would wait for an accelerator, by name."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        masks = [index for index in indices if index is not None and index.dtype == torch.bool]
        if name in self.NAMES or masks:
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


class Indices(Waits):
    """Counts reads by indices: those of a list are copied to the accelerator first."""

    NAMES = ("index",)


@torch.no_grad()
def test_biases_of_kept_heads_are_read_without_indices():
    model = pico_model("mpnet")
    pruned, batch = pruned_of(model, whole=[]), pico_batches(model, count=1)[0]
    counts = []
    for one in (model, pruned):
        with Indices() as indices:
            one(**batch)
        counts.append(indices.seen)
    assert counts[1] == counts[0]


def waits_of(work):
    with Waits() as waits:
        work()
    return waits.seen


def test_the_count_sees_what_waits():
    values, flags = torch.ones(4), torch.tensor([True, False, True, True])
    assert waits_of(lambda: values[flags])
    assert waits_of(lambda: float(values.sum()))
    assert waits_of(lambda: flags.nonzero())
    assert not waits_of(lambda: values.index_select(0, torch.tensor([0, 2])).sum())


def test_hooks_of_the_influence_do_not_wait(monkeypatch):
    model = pico_model("llama_grouped")
    hooks, seen = influence.layer_hooks, Counter()

    def counted(layers, receive):
        def watched(*args):
            seen.update(waits_of(lambda: receive(*args)))
            seen["calls"] += 1

        return hooks(layers, watched)

    monkeypatch.setattr(influence, "layer_hooks", counted)
    layer_influence(model, adapter_for(model), pico_batches(model, count=2))
    assert seen == {"calls": 6}


def test_gradients_wait_no_more_for_more_batches():
    """What is asked is asked at the end, except by the model itself."""
    model = pico_model("bert")
    batches = [{**b, "labels": torch.zeros(4, dtype=torch.long)} for b in pico_batches(model)]
    own = waits_of(lambda: model(**batches[0]))
    counts = [
        waits_of(lambda n=n: mask_gradients(model, adapter_for(model), batches[:n])) for n in (1, 3)
    ]
    assert counts[1] - counts[0] == Counter({name: 2 * count for name, count in own.items()})


FORBIDDEN = (".cuda(", "set_default_device", "set_default_tensor_type", "cuda.set_device")


def test_no_device_but_the_one_that_was_asked_for():
    """No global device: none is set, none is kept by a module."""
    files = sorted(PACKAGE.rglob("*.py"))
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in FORBIDDEN if word in text], path
        for node in ast.parse(text).body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                calls = [ast.unparse(n) for n in ast.walk(node) if isinstance(n, ast.Call)]
                assert not [c for c in calls if "device" in c or "cuda" in c], f"{path}: {calls}"


def test_gpus_are_hidden_from_tests_that_are_not_about_them(request):
    assert request.config.option.markexpr == "gpu" or os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("free", [2**20, 2**40])
def test_graphs_are_recorded_on_one_stream_and_ended_after_an_error(monkeypatch, free):
    """On a stand-in for CUDA, which allocates nothing more where a recording was not ended."""
    calls, name = [], {f"capture_{end}": end for end in ("begin", "end")}
    graph = SimpleNamespace(**{key: partial(calls.append, word) for key, word in name.items()})
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: calls.append("new stream"))
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**40))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("cache emptied"))
    monkeypatch.setattr(
        blocked_cholesky, "_recording_stream", cache(blocked_cholesky._recording_stream.__wrapped__)
    )
    panels = blocked_cholesky._Panels(torch.eye(3).double()[None], torch.zeros(1), 2)
    room = ["cache emptied"] if free < 2**30 else []
    assert panels._recorded() is graph
    assert calls == [*room, "new stream", "begin", "end"]
    calls.clear()
    panels._factor = None  # any error
    with pytest.raises(TypeError):
        panels._recorded()
    assert calls == [*room, "begin", "end"]
