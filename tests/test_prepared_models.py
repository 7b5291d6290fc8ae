"""Models that were spread over devices, trained in mixed precision, compiled or checkpointed."""

import copy

import accelerate
import pytest
import torch
from pico_models import (
    EMPTY_SITES,
    pico_batches,
    pico_model,
    pico_outputs,
    random_plan,
    selection_edits,
)
from pico_surgery import pruned_of

from stat_repro import compress
from stat_repro.models.modeling_stat import LAYOUTS
from stat_repro.models.projections import UnsupportedModelError
from stat_repro.surgery.edit import temporarily_pruned
from stat_repro.surgery.rebuilding import checked_adapter

LABELS = torch.tensor([0, 1, 1, 0])


def dispatched(model):
    """A copy with the hooks that from_pretrained puts around modules on several devices."""
    return accelerate.dispatch_model(copy.deepcopy(model), {"": "cpu"}, force_hooks=True)


@pytest.mark.parametrize("empty", [(), EMPTY_SITES["outer heads"]])
@pytest.mark.parametrize("name", ["bert", "mpnet", "olmo2", "gpt2", "opt"])
def test_hooks_of_a_device_map_stay_around_what_is_pruned(name, empty):
    model = pico_model(name)
    spread, batch = dispatched(model), pico_batches(model, 1)[0]
    dense = pico_outputs(spread, batch)
    plan = random_plan(model, empty=empty)
    with temporarily_pruned(spread, selection_edits(spread, plan)):
        pruned = pico_outputs(spread, batch)
    torch.testing.assert_close(pruned, pico_outputs(pruned_of(model, empty=empty), batch))
    assert torch.equal(pico_outputs(spread, batch), dense)


@pytest.mark.parametrize("method", ["stat", "stat_plus"])
def test_a_device_map_changes_no_result(method):
    model = pico_model("gpt2")
    batches = pico_batches(model)
    one, other = (compress(m, batches, method=method) for m in (model, dispatched(model)))
    assert one.plan == other.plan
    batch = batches[0]
    assert torch.equal(pico_outputs(one.model, batch), pico_outputs(other.model, batch))


def test_mixed_precision_is_to_be_taken_off():
    model = pico_model("bert")
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare_model(model)
    with pytest.raises(UnsupportedModelError, match=r"^model's forward.* keep_fp32_wrapper=False"):
        checked_adapter(prepared)
    checked_adapter(accelerator.unwrap_model(prepared, keep_fp32_wrapper=False))


@pytest.mark.parametrize("options", [{}, {"engine": "layers"}, {"method": "fisher"}])
def test_modules_that_were_compiled_in_place_run_uncompiled(options):
    model = pico_model("bert")
    batches = [{**batch, "labels": LABELS} for batch in pico_batches(model)]
    wanted = compress(model, batches, **options)
    compiled = {}
    for module in model.modules():  # without the hooks that it gets later, as compiled code
        compiled[module] = module._compiled_call_impl = module.forward
    result = compress(model, batches, **options)
    assert result.plan == wanted.plan
    assert all(module._compiled_call_impl is call for module, call in compiled.items())


def gradients(model, batch):
    torch.manual_seed(0)
    labels = LABELS if model.config.model_type.endswith("bert") else batch["input_ids"]
    model(**batch, labels=labels).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_checkpointing_stays_on(name, whole):
    model = pico_model(name)
    batch = pico_batches(model, 1)[0]
    empty = EMPTY_SITES["middle"]
    plain = pruned_of(model, empty=empty).train()
    (model if whole else model.base_model).gradient_checkpointing_enable()
    pruned = pruned_of(model.train(), empty=empty)
    layers = pruned.base_model.get_submodule(LAYOUTS[model.config.model_type].layers)
    assert all(layer.gradient_checkpointing for layer in layers)
    for one in (plain, pruned):
        one.base_model.get_input_embeddings().requires_grad_(False)
    pruned.get_input_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(output.requires_grad)
    )
    seen = []
    wanted, got = gradients(plain, batch), gradients(pruned, batch)
    assert seen == [True]
    assert wanted.keys() == got.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value)
