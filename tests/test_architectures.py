"""What every architecture must do, measured against its own forward pass at tiny size."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from pico_duplicates import duplicate_heads, duplicate_neurons, logits
from pico_models import (
    DECODER_NAMES,
    ENCODERS,
    PICO_NAMES,
    REPRESENTATIVES,
    masked_model,
    pico_batches,
    pico_model,
    pico_outputs,
    random_plan,
    selection_edits,
)
from pico_project import save_checkpoint, text_overrides
from pico_runs import compose_here
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

import stat_repro
from stat_repro.calibration.batches import CalibrationError, read_batches
from stat_repro.calibration.capture import collect_statistics
from stat_repro.models.adapter import adapter_for
from stat_repro.models.positions import positions_of
from stat_repro.models.projections import linear
from stat_repro.run.pipeline import run_experiment
from stat_repro.run.sweep_cache import SweepCache
from stat_repro.surgery.edit import prune_model


def pruned_of(model: PreTrainedModel, **choice: object) -> PreTrainedModel:
    plan = random_plan(model, **choice)
    return prune_model(model, plan, selection_edits(model, plan))


# Costs


@pytest.mark.parametrize("name", PICO_NAMES)
def test_costs_of_the_sites_are_those_of_the_modules(name: str) -> None:
    """Every Linear of a layer belongs to one site; the bias of a consumer is nobody's."""
    dense = pico_model(name)
    for model in (dense, pruned_of(dense, empty=[(1, "attention"), (2, "ffn")])):
        adapter = adapter_for(model)
        consumers = {site.consumer for site in adapter.sites}
        layers = adapter.sites[0].consumer.partition(".0.")[0]
        macs = params = 0
        for module_name, module in model.get_submodule(layers).named_modules(prefix=layers):
            if isinstance(module, nn.Linear | Conv1D):
                macs += module.weight.numel()
                bias = module.bias is not None and module_name not in consumers
                params += module.weight.numel() + (module.bias.numel() if bias else 0)
            elif name == "olmo2" and module_name.endswith(("q_norm", "k_norm")):
                params += module.weight.numel()
        assert sum(site.units * site.macs_per_unit for site in adapter.sites) == macs
        assert sum(site.units * site.params_per_unit for site in adapter.sites) == params


@pytest.mark.parametrize("name", PICO_NAMES)
def test_attention_products_of_a_unit_are_those_of_its_query_heads(name: str) -> None:
    model = pico_model(name)
    queries, head = model.config.num_attention_heads, 6
    for site in adapter_for(model).of_kind("attention"):
        assert site.units * site.macs_per_unit_and_key == 2 * queries * head


# Forward passes


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("name", DECODER_NAMES)
def test_padded_rows_of_decoders_equal_the_rows_alone(name: str, padding_side: str) -> None:
    model = pico_model(name, dtype=torch.float64)
    batch = pico_batches(model, 1, padding_side=padding_side)[0]
    # Rotary angles are float32, and padding on the left moves the positions.
    rotary = padding_side == "left" and not name.startswith(("opt", "gpt2"))
    tolerance = 1e-4 if rotary else 1e-9
    if name == "gpt2":  # counts positions from the first column, padding or not
        positions = (batch["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
        batch = {**batch, "position_ids": positions}
    for one in (model, pruned_of(model, empty=[(0, "attention"), (1, "ffn")])):
        together = logits(one, batch)
        for row, (ids, mask) in enumerate(
            zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
        ):
            alone = logits(one, {"input_ids": ids[mask][None]})[0]
            torch.testing.assert_close(together[row, mask], alone, rtol=tolerance, atol=tolerance)


# Encoders whose positions follow the tokens and not the columns of the batch.
MOVABLE = ("roberta", "xlm_roberta", "camembert", "mpnet", "modernbert")


@pytest.mark.parametrize(
    ("name", "padding_side"),
    [*((name, "right") for name in ENCODERS), *((name, "left") for name in MOVABLE)],
)
def test_padded_rows_of_encoders_equal_the_rows_alone(name: str, padding_side: str) -> None:
    model = pico_model(name, "ForTokenClassification", dtype=torch.float64)
    tolerance = 1e-4 if name == "modernbert" else 1e-9  # its rotary angles are float32
    batch = pico_batches(model, 1, padding_side=padding_side)[0]
    for one in (model, pruned_of(model, empty=[(0, "attention"), (1, "ffn")])):
        together = logits(one, batch)
        for row, (ids, mask) in enumerate(
            zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
        ):
            alone = logits(one, {"input_ids": ids[mask][None]})[0]
            torch.testing.assert_close(together[row, mask], alone, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_model_reads_as_many_tokens_as_it_has_positions(name: str) -> None:
    model = pico_model(name)
    positions = positions_of(model.config)
    rotary = name == "modernbert"
    assert positions == (38 if name in MOVABLE and not rotary else 40)
    batches = [{"input_ids": torch.full((1, length), 7)} for length in (positions, positions + 1)]
    read_batches(model, batches[:1])
    logits(model, batches[0])
    with pytest.raises(CalibrationError, match=f"expected at most {positions} tokens per row"):
        read_batches(model, batches)
    if not rotary:  # whose positions are computed
        with pytest.raises((IndexError, RuntimeError)):
            logits(model, batches[1])


@torch.no_grad()
def stepwise(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits of all positions: the first four tokens at once, then one at a time."""
    cache, found = None, []
    for piece in (ids[:, :4], *ids[:, 4:].split(1, dim=1)):
        outputs = model(input_ids=piece, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        found.append(outputs.logits)
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("name", DECODER_NAMES)
def test_positions_come_from_the_cache_if_nobody_gives_them(name: str) -> None:
    model = pico_model(name, dtype=torch.float64)
    ids = torch.randint(2, 60, (2, 12), generator=torch.Generator().manual_seed(1))
    heads = [(i, "attention") for i in range(3)]
    for empty in ([], heads[:1], [heads[0], heads[2]], heads):
        plan = random_plan(model, empty=empty)
        pruned = prune_model(model, plan, selection_edits(model, plan))
        expected = logits(masked_model(model, plan), {"input_ids": ids})
        torch.testing.assert_close(stepwise(pruned, ids), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("mistral", {"sliding_window": None}),
        ("qwen2_mixed", {"layer_types": ["full_attention"] * 3}),
        ("smollm3", {"no_rope_layers": [1, 1, 1]}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma3", {"layer_types": ["full_attention"] * 3}),
        ("phi3", {"sliding_window": None}),
        ("opt_post_norm", {"do_layer_norm_before": True}),
    ],
)
def test_the_variants_are_other_functions(name: str, without: dict[str, object]) -> None:
    model = pico_model(name)
    other = pico_model(name, **without)
    other.load_state_dict(model.state_dict(), strict=name != "opt_post_norm")
    batch = pico_batches(model, 1)[0]
    assert (logits(model, batch) - logits(other, batch)).abs().max() > 1e-2


# Calibration


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_activations_are_those_of_the_tokens_in_their_order(name: str) -> None:
    """Rows one by one and unpadded give what the padded batch gives, row after row."""
    model = pico_model(name, dtype=torch.float64)
    adapter = adapter_for(model)
    batch = pico_batches(model, 1)[0]
    padded = collect_statistics(model, adapter, [batch], statistics="exact")
    rows = [
        {"input_ids": ids[mask][None]}
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    ]
    alone = collect_statistics(model, adapter, rows, statistics="exact")
    for key, statistics in padded.statistics.items():
        torch.testing.assert_close(statistics.activations, alone.statistics[key].activations)


def test_inputs_of_another_number_of_tokens_are_refused() -> None:
    """A module that sees the rows of a batch as one must see all of them."""
    model = pico_model("opt")
    layer = model.model.decoder.layers[1]
    layer.fc2.register_forward_pre_hook(lambda module, args: (args[0][1:],), prepend=True)
    with pytest.raises(CalibrationError, match=r"layer 1 ffn .*expected input of shape \(4, 9\)"):
        collect_statistics(model, adapter_for(model), pico_batches(model))


# The method


@pytest.mark.parametrize("name", PICO_NAMES)
def test_compress_recovers_a_model_whose_lost_units_are_copies(name: str) -> None:
    model = pico_model(name, dtype=torch.float64)
    duplicate_neurons(model)
    units = adapter_for(model).of_kind("attention")[0].units
    if units > 1:
        duplicate_heads(model)
    batches = pico_batches(model, count=4)
    # No more than the copies: one unit per layer if there is more than one, half of the neurons.
    result = stat_repro.compress(model, batches, ratio=0.15 if "multi" in name else 0.2)
    assert sum(result.plan.neuron_counts) < 3 * 20
    assert sum(result.plan.head_counts) < 3 * units or units == 1
    # Half of the columns in a norm over all heads, which is float32, is another sum.
    tolerance = 1e-5 if name == "olmo2" else 1e-9
    torch.testing.assert_close(
        logits(result.model, batches[0]), logits(model, batches[0]), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    "name", ["mistral", "qwen2_mixed", "gemma3", "phi3", "gpt2", "opt_post_norm"]
)
def test_the_whole_program_runs_on_every_decoder(name: str, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / name, name)
    arguments = [*text_overrides(tmp_path), f"model.path={checkpoint}", "ratio=0.3"]
    record = run_experiment(compose_here(arguments), SweepCache()).record
    assert record.mac_kept_fraction <= 0.7
    assert 0 < record.metrics["dense"]["perplexity"] < float("inf")
    assert 0 < record.metrics["pruned"]["perplexity"] < float("inf")
    assert record.metrics["dense"]["perplexity"] != record.metrics["pruned"]["perplexity"]


# Checkpoints as they are published


def with_head_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state["lm_head.weight"] = state.pop("model.decoder.embed_tokens.weight")
    return state


def without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("change", [with_head_only, without_prefix])
def test_opt_loads_from_either_name_of_its_tied_weight(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], tmp_path: Path
) -> None:
    """Converted checkpoints of OPT keep one of two names; see transformers issue 43159."""
    model = pico_model("opt")
    model.save_pretrained(tmp_path / "own")
    shutil.copytree(tmp_path / "own", tmp_path / "converted")
    weights = tmp_path / "converted" / "model.safetensors"
    save_file(change(load_file(weights)), weights, metadata={"format": "pt"})
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "converted").eval()
    batch = pico_batches(model, 1)[0]
    assert torch.equal(pico_outputs(again, batch), pico_outputs(model, batch))
    plan = random_plan(again)
    pruned = prune_model(again, plan, selection_edits(again, plan))
    assert pruned.lm_head.weight is pruned.model.decoder.embed_tokens.weight
    assert linear(pruned, "model.decoder.layers.0.fc2").in_features == plan.neuron_counts[0]
