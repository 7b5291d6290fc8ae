"""Streaming statistics: equal to what stored activations give, and the model untouched."""

import pytest
import torch
from pico_models import PICO_NAMES, pico_batches, pico_model

from stat_repro.calibration.batches import CalibrationError, read_batches, token_mask
from stat_repro.calibration.capture import collect_statistics
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("name", PICO_NAMES)
def test_gram_is_that_of_the_stored_activations(name):
    model = pico_model(name, dtype=torch.float64)
    batches = pico_batches(model)
    adapter = adapter_for(model)
    gram = collect_statistics(model, adapter, batches)
    exact = collect_statistics(model, adapter, batches, statistics="exact")
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert gram.tokens == exact.tokens == tokens
    assert gram.examples == sum(len(batch["input_ids"]) for batch in batches)
    assert set(gram.statistics) == {(site.layer, site.kind) for site in adapter.sites}
    for key, statistics in gram.statistics.items():
        a = exact.statistics[key].activations
        assert a.shape[0] == statistics.tokens == tokens
        torch.testing.assert_close(statistics.gram, a.T @ a)
        assert float(a.abs().max()) > 0


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_padding_does_not_count(padding_side):
    model = pico_model("bert", dtype=torch.float64)
    adapter = adapter_for(model)
    (batch,) = pico_batches(model, count=1, padding_side=padding_side)
    longer = {
        key: torch.nn.functional.pad(value, (0, 5) if padding_side == "right" else (5, 0))
        for key, value in batch.items()
    }
    if padding_side == "left":  # absolute positions move; give both the same ones
        batch["position_ids"] = torch.arange(9)[None] + 5
    short = collect_statistics(model, adapter, [batch])
    long = collect_statistics(model, adapter, [longer])
    assert short.tokens == long.tokens
    for key, statistics in short.statistics.items():
        torch.testing.assert_close(statistics.gram, long.statistics[key].gram)


def test_batches_add_up():
    model = pico_model("llama_grouped", dtype=torch.float64)
    adapter = adapter_for(model)
    batches = pico_batches(model, count=2)
    whole = collect_statistics(model, adapter, batches)
    parts = [collect_statistics(model, adapter, [batch]) for batch in batches]
    for key, statistics in whole.statistics.items():
        total = sum(part.statistics[key].gram for part in parts)
        torch.testing.assert_close(statistics.gram, total)


@pytest.mark.parametrize("block", [1, 7, 64, 10**6])
@pytest.mark.parametrize("statistics", ["gram", "exact"])
def test_how_rows_are_cut_into_blocks_does_not_matter(block, statistics, monkeypatch):
    """Blocks smaller than a batch, across batches, and never full."""
    model = pico_model("bert", dtype=torch.float64)
    batches = [*pico_batches(model), {"input_ids": torch.full((3, 5), 9)}]  # one without padding
    whole = collect_statistics(model, adapter_for(model), batches, statistics=statistics)
    monkeypatch.setattr("stat_repro.calibration.collectors.BUFFER_ROWS", block)
    monkeypatch.setattr("stat_repro.calibration.capture.BUFFER_ROWS", block)
    cut = collect_statistics(model, adapter_for(model), batches, statistics=statistics)
    for key, found in cut.statistics.items():
        assert found.tokens == whole.tokens
        torch.testing.assert_close(found.gram, whole.statistics[key].gram)


@pytest.mark.parametrize("name", PICO_NAMES)
def test_a_pass_ends_at_the_last_wanted_site(name):
    """Nothing behind the last site's input is computed, and what is before it is the same."""
    model = pico_model(name)
    adapter, batches = adapter_for(model), pico_batches(model)
    ran = []
    for site in adapter.sites:
        linear(model, site.consumer).module.register_forward_hook(
            lambda *_, site=site: ran.append((site.layer, site.kind))
        )
    whole = collect_statistics(model, adapter, batches)
    assert (2, "attention") in ran
    assert (2, "ffn") not in ran
    ran.clear()
    wanted = [adapter.site(1, "attention"), adapter.site(0, "attention")]
    some = collect_statistics(model, adapter, batches, sites=wanted)
    assert set(ran) == {(0, "attention"), (0, "ffn")}
    assert set(some.statistics) == {(0, "attention"), (1, "attention")}
    for key, found in some.statistics.items():
        assert torch.equal(found.gram, whole.statistics[key].gram)


def test_layers_that_run_out_of_order_are_told():
    model = pico_model("bert")
    layers = model.bert.encoder.layer
    model.bert.encoder.layer = torch.nn.ModuleList([layers[0], layers[2], layers[1]])
    adapter = adapter_for(model)
    # The module list runs in its order, the sites' names say another one.
    model.bert.encoder.forward = lambda hidden, *_, **__: layers[2](layers[1](hidden))
    with pytest.raises(CalibrationError, match=r"layer 0 attention .* got 0"):
        collect_statistics(model, adapter, pico_batches(model))


def test_float32_model_is_summed_in_float64():
    model = pico_model("bert")
    calibration = collect_statistics(model, adapter_for(model), pico_batches(model))
    assert {s.gram.dtype for s in calibration.statistics.values()} == {torch.float64}


@pytest.mark.parametrize("training", [True, False])
def test_model_is_left_as_it_was(training):
    model = pico_model("bert")
    model.train(training)
    model.bert.encoder.layer[1].eval()
    flags = [module.training for module in model.modules()]
    before = bits(model)
    batches = [
        {**batch, "labels": torch.zeros(4, dtype=torch.long)} for batch in pico_batches(model)
    ]
    collect_statistics(model, adapter_for(model), batches)
    assert same_bits(before, model.state_dict())
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_model_is_left_as_it_was_after_an_error():
    model = pico_model("bert").train()
    bad = {"input_ids": torch.full((1, 4), 10**6)}
    with pytest.raises(IndexError):
        collect_statistics(model, adapter_for(model), [bad])
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_multiple_choice_batches_are_flattened():
    model = pico_model("bert", "ForMultipleChoice")
    calibration = collect_statistics(model, adapter_for(model), pico_batches(model, count=1))
    assert calibration.examples == 4


def test_non_finite_activations_name_the_site():
    model = pico_model("bert")
    linear(model, "bert.encoder.layer.1.intermediate.dense").weight.data[3] = float("nan")
    with pytest.raises(CalibrationError, match="layer 1 ffn"):
        collect_statistics(model, adapter_for(model), pico_batches(model))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no tokens"),
        ([{"attention_mask": torch.ones(2, 3)}], "input_ids"),
        ([{"input_ids": torch.ones(2, 3).long(), "idx": [1, 2]}], "key idx: expected a tensor"),
        (
            [{"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 1, 3, 3)}],
            "attention_mask",
        ),
    ],
)
def test_unusable_batches_are_refused(batches, message):
    model = pico_model("bert")
    with pytest.raises(CalibrationError, match=message):
        read_batches(model, batches)


def test_unknown_statistics_are_refused():
    model = pico_model("bert")
    with pytest.raises(CalibrationError, match="gram, exact, sketch; got 'qr'"):
        collect_statistics(model, adapter_for(model), [], statistics="qr")


def test_chunked_feed_forward_is_refused():
    model = pico_model("bert", chunk_size_feed_forward=3)
    with pytest.raises(CalibrationError, match="chunk_size_feed_forward"):
        collect_statistics(model, adapter_for(model), pico_batches(model))


def test_mask_defaults_to_all_tokens():
    assert bool(token_mask({"input_ids": torch.zeros(2, 3)}).all())
