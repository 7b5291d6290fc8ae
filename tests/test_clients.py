"""What other libraries do with pruned models, among them layers without heads or neurons.

Clients that are not installed are skipped; `pip install -e '.[clients]'` installs them. Those
are the tests that docs/serving.md shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers as hf
from pico_models import (
    DECODER_NAMES,
    REPRESENTATIVES,
    pico_batches,
    pico_model,
    pico_outputs,
)
from pico_surgery import pruned_of
from ranks import run_ranks
from torch import nn
from transformers import PreTrainedModel

import stat_repro
from stat_repro.models.adapter import UnsupportedModelError

pytestmark = pytest.mark.clients

DECODERS = tuple(name for name in REPRESENTATIVES if name in DECODER_NAMES)
EMPTY = [(0, "attention"), (1, "ffn"), (2, "attention"), (2, "ffn")]


def model_of(name: str, **changes: Any) -> PreTrainedModel:
    """Pruned, with a layer of each kind of emptiness."""
    return pruned_of(pico_model(name, **changes), empty=EMPTY)


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def auto_of(model: PreTrainedModel) -> Any:
    generates = model.can_generate()
    return hf.AutoModelForCausalLM if generates else hf.AutoModelForSequenceClassification


def close(model: PreTrainedModel, changed: nn.Module, error: float) -> None:
    """The outputs differ by rounding to 8 bits at most."""
    batch = pico_batches(model, 1)[0]
    expected, got = pico_outputs(model, batch), pico_outputs(changed, batch)
    relative = (got - expected).norm() / expected.norm()
    assert bool(torch.isfinite(got).all())
    assert float(relative) < error


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_torchao_int8(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig

    model = model_of(name)
    config = hf.TorchAoConfig(Int8WeightOnlyConfig())
    folder = saved(model, tmp_path / "pruned")
    quantised = auto_of(model).from_pretrained(folder, quantization_config=config).eval()
    close(model, quantised, 0.1)
    # Saved as safetensors and loaded again.
    quantised.save_pretrained(tmp_path / "int8")
    again = auto_of(model).from_pretrained(tmp_path / "int8").eval()
    batch = pico_batches(model, 1)[0]
    assert torch.equal(pico_outputs(again, batch), pico_outputs(quantised, batch))


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_quanto_int8(name: str, tmp_path: Path) -> None:
    pytest.importorskip("optimum.quanto")
    model = model_of(name)
    config = hf.QuantoConfig(weights="int8")
    folder = saved(model, tmp_path / "pruned")
    close(model, auto_of(model).from_pretrained(folder, quantization_config=config).eval(), 0.1)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_bitsandbytes_int8(name: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = model_of(name)
    config = hf.BitsAndBytesConfig(load_in_8bit=True)
    folder = saved(model, tmp_path / "pruned")
    loaded = auto_of(model).from_pretrained(folder, quantization_config=config, device_map="cpu")
    close(model, loaded.eval(), 0.1)


@pytest.mark.parametrize("name", REPRESENTATIVES)
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_torch_quantize_dynamic(name: str) -> None:
    model = model_of(name)
    close(model, torch.ao.quantization.quantize_dynamic(model, {nn.Linear}), 0.1)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_fully_sharded_data_parallel(name: str, tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    model = model_of(name)
    batch = pico_batches(model, 1)[0]
    expected = pico_outputs(model, batch)

    def work() -> torch.Tensor:
        mesh = dist.init_device_mesh("cpu", (2,))
        for module in model.modules():
            if isinstance(module, hf.modeling_layers.GradientCheckpointingLayer):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        outputs = pico_outputs(model, batch)
        model.train()(**batch).logits.sum().backward()
        torch.optim.AdamW(model.parameters()).step()
        return outputs

    for outputs in run_ranks(work, tmp_path):
        assert isinstance(outputs, torch.Tensor), outputs
        torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_distributed_data_parallel(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    batches = pico_batches(model, 4)

    def gradients(of: nn.Module, given: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        for batch in given:  # the second pass finds unused parameters
            of(**batch).logits.sum().backward()
        named = model.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}

    def work() -> dict[str, torch.Tensor]:
        rank = dist.get_rank()
        return gradients(nn.parallel.DistributedDataParallel(model), batches[rank::2])

    ranks = run_ranks(work, tmp_path)
    alone = gradients(model, batches)
    for rank in ranks:
        assert isinstance(rank, dict), rank
        assert rank.keys() == alone.keys()
        for key, gradient in alone.items():
            torch.testing.assert_close(rank[key], gradient / 2, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", REPRESENTATIVES)
@pytest.mark.parametrize("targets", ["default", "all-linear"])
def test_peft(targets: str, name: str) -> None:
    peft = pytest.importorskip("peft")
    stat_repro.register_peft_targets()
    model = model_of(name)
    batch = pico_batches(model, 1)[0]
    expected = pico_outputs(model, batch)
    chosen = None if targets == "default" else targets
    if chosen is None:
        table = peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        if model.config.model_type not in table:
            pytest.skip("PEFT has no default for the dense parent either")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=chosen, use_dora=True))
    torch.testing.assert_close(pico_outputs(adapted, batch), expected)
    adapted.train()(**batch).logits.sum().backward()
    gradients = [p.grad for p in adapted.parameters() if p.requires_grad]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    with pytest.raises(UnsupportedModelError, match=r"choose model\.merge_and_unload"):
        stat_repro.compress(adapted, [batch])
    merged = adapted.eval().merge_and_unload()
    torch.testing.assert_close(pico_outputs(merged, batch), expected)
    stat_repro.compress(merged, [batch], ratio=0.2)


@pytest.mark.parametrize("name", DECODERS)
def test_quantised_cache(name: str) -> None:
    pytest.importorskip("optimum.quanto")
    model = model_of(name)
    if getattr(model.config, "sliding_window", None):
        pytest.skip("transformers has no quantised cache for windows, dense or pruned")
    batch = pico_batches(model, 1, padding_side="left")[0]
    size = getattr(model.config, "head_dim", None) or model.config.hidden_size // 4
    cache = {"backend": "quanto", "nbits": 4, "q_group_size": size, "residual_length": 4}
    tokens = model.generate(
        **batch, max_new_tokens=8, do_sample=False, cache_implementation="quantized",
        cache_config=cache,
    )  # fmt: skip
    assert tokens.shape == (4, 17)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_flex_attention(name: str) -> None:
    model = model_of(name)
    batch = pico_batches(model, 1)[0]
    expected = pico_outputs(model, batch)
    if not model._supports_flex_attn:
        pytest.skip("transformers has no flex attention for the dense parent either")
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(pico_outputs(model, batch), expected, rtol=1e-3, atol=1e-3)
