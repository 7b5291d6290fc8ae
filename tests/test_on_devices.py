"""The same results on a GPU as on the CPU: the cases marked gpu run there (`make gpu`)."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_up_matrices import activations
from pico_duplicates import duplicate_heads, duplicate_neurons, logits
from pico_models import (
    PICO_NAMES,
    REPRESENTATIVES,
    pico_batches,
    pico_model,
    random_plan,
    selection_edits,
)
from pico_project import sentence_overrides, text_overrides
from pico_runs import compose_here, findings, run_one

import stat_repro
from stat_repro import parallel
from stat_repro.calibration.capture import collect_statistics
from stat_repro.calibration.collectors import FLOAT32_SHARE, GramSum
from stat_repro.calibration.statistics import GramStatistics
from stat_repro.linalg.interpolative import _independent_factor, _kept_factor
from stat_repro.linalg.pivoting import NOISE_RTOL
from stat_repro.measure import DeviceMemoryError, memory_told, resolve_device
from stat_repro.models.adapter import Site, adapter_for
from stat_repro.sharded.compress import compress_checkpoint
from stat_repro.surgery import edit as edit_module
from stat_repro.surgery.checkpoint import load_plan, save_pruned
from stat_repro.surgery.edit import evenly_sized, temporarily_pruned

# Of the weights, relative to the largest of a tensor; float32 products add up in another order.
WEIGHTS = {torch.float32: 2e-4, torch.float64: 1e-9}


def same_compression(mine, other, tolerance):
    assert mine.plan.layers == other.plan.layers
    for key, value in other.plan.details.items():
        assert mine.plan.details[key] == (
            # Distances to the dense model that float32 cannot tell from none differ more.
            pytest.approx(value, rel=1e-2, abs=1e-6) if isinstance(value, float) else value
        )
    first, second = mine.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys()
    for name, expected in second.items():
        if expected.numel() and expected.is_floating_point():
            far = (first[name].cpu() - expected.cpu()).abs().max()
            # A refit leaves a bias that ought to be zero at the level of float32 rounding.
            assert float(far) <= tolerance * max(float(expected.abs().max()), 1e-3), name


@pytest.mark.parametrize("method", ["stat", "stat_plus"])
@pytest.mark.parametrize("name", PICO_NAMES)
def test_plan_and_weights_are_those_of_the_cpu(name, method, device):
    model = pico_model(name)
    batches = pico_batches(model)
    options = {"ratio": 0.3, "method": method, "min_units": 0 if "multi_query" in name else 1}
    expected = stat_repro.compress(model, batches, **options)
    mine = stat_repro.compress(copy.deepcopy(model).to(device), batches, **options)
    assert mine.model.device.type == device.type
    same_compression(mine, expected, WEIGHTS[torch.float32])


def test_all_tensors_meet_on_the_device_of_the_model():
    """Without a GPU: a device of its own that refuses tensors of the CPU (`second_device.py`)."""
    script = [sys.executable, str(Path(__file__).with_name("second_device.py"))]
    done = subprocess.run(script, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall("^.*: as on the CPU$", done.stdout, re.MULTILINE)) == 27


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_neurons_that_nothing_reads_change_no_output(name, device):
    """What passes through a model with folded FFNs is what passes through the pruned one."""
    model = pico_model(name, dtype=torch.float64).to(device)
    batch = pico_batches(model, 1)[0]
    plan = random_plan(model, empty=[(1, "ffn")])
    edits = [edit for edit in selection_edits(model, plan) if edit.site.kind == "ffn"]
    wider = [edit_module._widened(edit) for edit in edits]
    assert [len(edit.kept) for edit in wider] == [20, 0, 20]  # all that there are
    here = {key: value.to(device) for key, value in batch.items()}
    with temporarily_pruned(model, edits):
        expected = logits(model, here)
    with temporarily_pruned(model, wider):
        torch.testing.assert_close(logits(model, here), expected)
    assert (evenly_sized(edits, device)[0] is edits[0]) == (device.type == "cpu")
    there = torch.device("cuda")  # several processes exchange their edits on the CPU
    assert [len(edit.kept) for edit in evenly_sized(edits, there)] == [20, 0, 20]


@pytest.mark.parametrize("statistics", ["exact", "sketch"])
def test_other_statistics_give_the_plan_of_the_cpu(statistics, device):
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model)
    expected = stat_repro.compress(model, batches, ratio=0.4, statistics=statistics)
    mine = stat_repro.compress(
        copy.deepcopy(model).to(device), batches, ratio=0.4, statistics=statistics
    )
    same_compression(mine, expected, WEIGHTS[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_copies_are_recovered_in_every_type(name, dtype, device):
    """Half of the neurons and one head are copies; what is left does their work."""
    model = pico_model(name, dtype=torch.float64)
    duplicate_neurons(model)
    duplicate_heads(model)
    batches = pico_batches(model, count=4)
    expected = logits(model, batches[0])
    model = model.to(device=device, dtype=dtype)
    here = {key: value.to(device) for key, value in batches[0].items()}
    dense = (logits(model, here).double().cpu() - expected).norm() / expected.norm()
    result = stat_repro.compress(model, batches, ratio=0.2)
    pruned = (logits(result.model, here).double().cpu() - expected).norm() / expected.norm()
    # The weights of the model itself are rounded to its type.
    assert float(pruned) < 3 * float(dense) + 1e-6


@pytest.fixture
def shortened_float32():
    """What some users allow for speed; it must not reach the sums, and stays as it was."""
    settings = torch.backends.cuda.matmul
    before, settings.fp32_precision = settings.fp32_precision, "tf32"
    yield
    assert settings.fp32_precision == "tf32"
    settings.fp32_precision = before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_of_a_type_are_exact_enough(dtype, device, shortened_float32):
    """Against float64; a sum's error stays a hundred times below what counts as noise."""
    rows = activations(5000, 300, decades=3.0).to(dtype)
    collector = GramSum(Site(0, "ffn", 300, 1, (), "", 0, 0, 0), device)
    for part in rows.to(device).split(700):
        collector.add(part)
    mine = collector.finish()
    exact = rows.double().T @ rows.double()
    assert (mine.tokens, mine.dtype) == (5000, dtype)
    lengths = exact.diagonal().sqrt()
    error = ((mine.gram.cpu() - exact) / lengths[:, None] / lengths).abs().max()
    # These columns are independent enough for float32 products on the CPU, and a tenth of the
    # share that says so is their bound; tests/test_float32_sums.py has columns that are not.
    cpu_products = FLOAT32_SHARE / 10 if device.type == "cpu" and dtype != torch.float64 else 0.0
    assert float(error) < max(NOISE_RTOL[dtype] / 5, 1e-13, cpu_products)
    torch.testing.assert_close(mine.sums.cpu(), rows.double().sum(dim=0))
    order = mine.pivot_columns(torch.ones(300)).order.cpu()
    same = GramStatistics(exact, 5000, dtype)
    assert order[:250].tolist() == same.pivot_columns(torch.ones(300)).order[:250].tolist()
    weight = torch.randn(4, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = order[:150]
    folded, expected = mine.fold(weight, kept, 0.0).cpu(), same.fold(weight, kept, 0.0)
    assert float((folded - expected).norm() / expected.norm()) < 1e-5


def test_a_factor_without_pivots_is_taken_where_all_columns_are_independent(device):
    a = activations(200, 30, decades=1.0).to(device)
    a /= a.norm(dim=0)
    gram, kept = a.T @ a, torch.arange(30, device=device)
    triangle = _independent_factor(gram, 1e-12)
    torch.testing.assert_close(triangle.T @ triangle, gram)
    left = 1.0 / torch.linalg.inv(gram).diagonal()
    assert _independent_factor(gram, float(left.min()) * 1.001) is None
    assert _independent_factor(gram, float(left.min()) * 0.999) is not None
    doubled = torch.cat([a, a[:, :3]], dim=1)
    gram, kept = doubled.T @ doubled, torch.arange(33, device=device)
    assert _independent_factor(gram, 1e-12) is None
    assert len(_kept_factor(gram, kept, 0.0, 1e-12)[2]) == 30


@pytest.mark.parametrize("name", ["bert", "llama_grouped", "qwen2_mixed"])
def test_layer_by_layer_is_the_same(name, device, tmp_path):
    model = pico_model(name).to(device)
    batches = pico_batches(model)
    usual = stat_repro.compress(model, batches, ratio=0.4)
    for spill in (None, tmp_path):
        layers = stat_repro.compress(model, batches, ratio=0.4, engine="layers", spill=spill)
        same_compression(layers, usual, 1e-5)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_in_shards_is_pruned_there(device, tmp_path):
    model = pico_model("llama_grouped")
    model.save_pretrained(tmp_path / "dense")
    batches = pico_batches(model)
    expected = stat_repro.compress(model, batches, ratio=0.4)
    done = compress_checkpoint(
        tmp_path / "dense", tmp_path / "pruned", batches, ratio=0.4, device=str(device)
    )
    assert done.plan.layers == expected.plan.layers
    pruned = type(expected.model).from_pretrained(tmp_path / "pruned").eval()
    batch = batches[0]
    torch.testing.assert_close(
        logits(pruned, batch), logits(expected.model, batch), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", ["bert", "llama_grouped", "opt"])
def test_a_saved_model_is_the_one_on_the_device(name, device, tmp_path):
    model = pico_model(name).to(device)
    batches = pico_batches(model)
    result = stat_repro.compress(model, batches, ratio=0.4)
    folder = save_pruned(result.model, tmp_path / name, plan=result.plan, base_model="pico")
    again = type(result.model).from_pretrained(folder).to(device).eval()
    here = {key: value.to(device) for key, value in batches[0].items()}
    assert torch.equal(logits(again, here), logits(result.model, here))
    assert load_plan(folder) == result.plan


@pytest.mark.parametrize("name", ["llama_grouped", "mistral", "qwen2", "opt"])
def test_generation_with_and_without_cache(name, device):
    model = pico_model(name, "ForCausalLM", dtype=torch.float64).to(device)
    pruned = stat_repro.compress(model, pico_batches(model), ratio=0.4).model
    ids = torch.randint(2, 60, (2, 6), generator=torch.Generator().manual_seed(1)).to(device)
    texts = [
        pruned.generate(input_ids=ids, max_new_tokens=6, do_sample=False, use_cache=cache)
        for cache in (True, False)
    ]
    assert torch.equal(*texts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_command_is_the_first_to_touch_the_device(tmp_path):
    """In a new process, where nothing has started CUDA before."""
    arguments = [*sentence_overrides(tmp_path), "ratio=0.4", "device=cuda"]
    root = Path(stat_repro.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(root / "run.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overrides", [sentence_overrides, text_overrides])
def test_the_whole_program_chooses_the_device_and_records_it(overrides, device, tmp_path):
    arguments = [*overrides(tmp_path), "ratio=0.4"]
    expected = findings(run_one(compose_here(arguments, "device=cpu")))
    auto = "auto" if device.type == "cuda" else "cpu"
    record = run_one(compose_here(arguments, f"device={auto}"))
    mine = findings(record)
    assert mine["plan"]["layers"] == expected["plan"]["layers"]
    for side in ("dense", "pruned"):
        assert mine["metrics"][side] == pytest.approx(expected["metrics"][side], rel=1e-3)
    on_gpu = device.type == "cuda"
    assert ("cuda_peak_allocated_bytes" in record.memory) == on_gpu
    assert ("gpu" in record.provenance) == on_gpu
    if on_gpu:
        assert record.memory["cuda_peak_allocated_bytes"] > 0
        assert record.provenance["gpu"]["name"] == torch.cuda.get_device_name(0)
        assert record.provenance["gpu"]["driver"] != "unknown"


def test_a_device_without_memory_says_what_to_change(device):
    """On a GPU for real; on the CPU the error that torch would raise there."""

    @memory_told()
    def fill():
        if device.type == "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0")
        torch.empty(2**50, dtype=torch.uint8, device=device)

    with pytest.raises(DeviceMemoryError, match=r"calibration\.batch_size.*stat_repro\.sharded"):
        fill()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_one_process_of_nccl_finds_what_none_finds(monkeypatch):
    device = resolve_device("cuda")
    model = pico_model("llama_grouped").to(device)
    batches, adapter = pico_batches(model), adapter_for(model)
    alone = collect_statistics(model, adapter, batches)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}
    for key, value in address.items():
        monkeypatch.setitem(os.environ, key, value)
    with parallel.joined():
        torch.distributed.all_reduce(torch.ones(3, device=device))
        joined = collect_statistics(model, adapter, batches)
    for key, statistics in alone.statistics.items():
        assert torch.equal(statistics.gram, joined.statistics[key].gram)
