"""The model options: they compose, their commands too, and their facts are those of the shapes.

The shapes are those of the published configs. The models are built on the meta device, which costs
neither memory nor arithmetic; nothing is downloaded.
"""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest
import torch
import transformers as hf
import yaml
from pico_config import compose_run
from transformers import PreTrainedModel

from stat_repro.assets.packages import model_folder
from stat_repro.models.adapter import Adapter, adapter_for
from stat_repro.models.modeling_stat import LAYOUTS
from stat_repro.surgery.edit import pruned_class

CONF = Path(__file__).resolve().parents[1] / "conf" / "model"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def llama(hidden: int, ffn: int, layers: int, heads: int, groups: int, **more: object) -> object:
    """Config of the Llama architecture; a head is hidden / heads wide in all of these."""
    return hf.LlamaConfig(
        hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups, **more,
    )  # fmt: skip


def qwen(hidden: int, ffn: int, layers: int, heads: int, groups: int, **more: object) -> object:
    return hf.Qwen2Config(
        hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups, **more,
    )  # fmt: skip


# Published shape; then by hand MACs of an attention unit, MACs of it per attended position, MACs
# of a neuron, and the parameters of both.
SHAPES: dict[str, tuple[object, int, int, int, int, int]] = {
    # 4 * 768 * 64; 2 * 64; 2 * 768; and a bias for every row of query, key, value and FFN input
    "bert_base": (hf.BertConfig(), 196_608, 128, 1_536, 196_608 + 3 * 64, 1_537),
    "mpnet_base": (
        hf.MPNetConfig(max_position_embeddings=514),
        196_608, 128, 1_536, 196_608 + 3 * 64, 1_537,
    ),
    "distilbert_base": (hf.DistilBertConfig(), 196_608, 128, 1_536, 196_608 + 3 * 64, 1_537),
    # 4 * 4096 * 128; 3 * 4096
    "llama2_7b": (llama(4096, 11008, 32, 32, 32), 2_097_152, 256, 12_288, 2_097_152, 12_288),
    # 4 * 5120 * 128; 3 * 5120
    "llama2_13b": (llama(5120, 13824, 40, 40, 40), 2_621_440, 256, 15_360, 2_621_440, 15_360),
    # Groups of 8 query heads: 2 * (8 + 1) * 8192 * 128; 2 * 8 * 128; 3 * 8192
    "llama2_70b": (llama(8192, 28672, 80, 64, 8), 18_874_368, 2_048, 24_576, 18_874_368, 24_576),
    # Groups of 4: 2 * (4 + 1) * 4096 * 128; 2 * 4 * 128; 3 * 4096
    "llama3_1_8b": (
        llama(4096, 14336, 32, 32, 8, vocab_size=128_256, rope_parameters=LLAMA3),
        5_242_880, 1_024, 12_288, 5_242_880, 12_288,
    ),
    # Groups of 4: 2 * (4 + 1) * 2048 * 64; 2 * 4 * 64; 3 * 2048
    "llama3_2_1b": (
        llama(
            2048, 8192, 16, 32, 8, vocab_size=128_256, tie_word_embeddings=True,
            rope_parameters=LLAMA3 | {"factor": 32.0},
        ),
        1_310_720, 512, 6_144, 1_310_720, 6_144,
    ),
    # Groups of 8: 2 * (8 + 1) * 2048 * 64; 2 * 8 * 64; 3 * 2048
    "tinyllama": (llama(2048, 5632, 22, 32, 4), 2_359_296, 1_024, 6_144, 2_359_296, 6_144),
    "mistral_7b": (hf.MistralConfig(), 5_242_880, 1_024, 12_288, 5_242_880, 12_288),
    # Groups of 7: 2 * (7 + 1) * 896 * 64; 2 * 7 * 64; 3 * 896; biases of (7 + 1 + 1) * 64 rows
    "qwen2_5_0_5b": (
        qwen(896, 4864, 24, 14, 2, tie_word_embeddings=True),
        917_504, 896, 2_688, 917_504 + 576, 2_688,
    ),
    # Groups of 7: 2 * (7 + 1) * 3584 * 128; 2 * 7 * 128; 3 * 3584; biases of (7 + 1 + 1) * 128 rows
    "qwen2_5_7b": (
        qwen(3584, 18944, 28, 28, 4, vocab_size=152_064),
        7_340_032, 1_792, 10_752, 7_340_032 + 1_152, 10_752,
    ),
    # Groups of 2: 2 * (2 + 1) * 1024 * 128; 2 * 2 * 128; 3 * 1024
    "qwen3_0_6b": (
        hf.Qwen3Config(
            hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
            num_key_value_heads=8, tie_word_embeddings=True,
        ),
        786_432, 512, 3_072, 786_432, 3_072,
    ),
    # Groups of 4: 2 * (4 + 1) * 2048 * 128; 2 * 4 * 128; 3 * 2048
    "smollm3_3b": (hf.SmolLM3Config(), 2_621_440, 1_024, 6_144, 2_621_440, 6_144),
    # 4 * 2048 * 128; 2 * 128; 3 * 2048; and two norms over the 128 columns of a head
    "olmo2_1b": (
        hf.Olmo2Config(
            hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=16,
            vocab_size=100_352,
        ),
        1_048_576, 256, 6_144, 1_048_576 + 256, 6_144,
    ),
    # Groups of 2: 2 * (2 + 1) * 2304 * 256; 2 * 2 * 256; 3 * 2304
    "gemma_2_2b": (hf.Gemma2Config(), 3_538_944, 1_024, 6_912, 3_538_944, 6_912),
    # One group of 4: 2 * (4 + 1) * 1152 * 256; 2 * 4 * 256; 3 * 1152
    "gemma_3_1b": (
        hf.Gemma3TextConfig(
            hidden_size=1152, intermediate_size=6912, num_attention_heads=4, num_key_value_heads=1,
            vocab_size=262_144, sliding_window=512,
        ),
        2_949_120, 2_048, 3_456, 2_949_120, 3_456,
    ),
    # 4 * 3072 * 96; 2 * 96; 3 * 3072
    "phi3_mini": (hf.Phi3Config(), 1_179_648, 192, 9_216, 1_179_648, 9_216),
    "gpt2": (hf.GPT2Config(), 196_608, 128, 1_536, 196_608 + 3 * 64, 1_537),
    "opt_125m": (hf.OPTConfig(), 196_608, 128, 1_536, 196_608 + 3 * 64, 1_537),
    # 4 * 2048 * 64; 2 * 64; 2 * 2048
    "opt_1_3b": (
        hf.OPTConfig(hidden_size=2048, ffn_dim=8192, num_hidden_layers=24, num_attention_heads=32),
        524_288, 128, 4_096, 524_288 + 3 * 64, 4_097,
    ),
}  # fmt: skip
# Of these the shape is that of the weights.
PACKAGED = ("minilm", "smollm2")
# Checkpoints of a shape that stands there already.
SHAPES |= dict.fromkeys(("distilbert_sst2", "distilbert_squad"), SHAPES["distilbert_base"])


@functools.cache
def built(name: str) -> tuple[PreTrainedModel, Adapter]:
    """The model of full size, without weights, and its adapter."""
    packaged = name not in SHAPES
    config = hf.AutoConfig.from_pretrained(model_folder(name)) if packaged else SHAPES[name][0]
    encoder = not LAYOUTS[config.model_type].decoder
    with torch.device("meta"):
        auto = hf.AutoModel if encoder else hf.AutoModelForCausalLM
        model = auto.from_config(config)
    return model, adapter_for(model)


def header(name: str) -> str:
    """The comment of an option, as one line of text."""
    lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = [line for line in lines if line.startswith("#")]
    assert lines[: len(comment)] == comment, f"{name}: the comment stands first"
    return " ".join(line.removeprefix("#").strip() for line in comment)


def commands(name: str) -> list[list[str]]:
    """Overrides of every example command of an option."""
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8").replace("\\\n#", "")
    found = re.findall(r"^#\s+python run\.py (.*)$", text, flags=re.MULTILINE)
    return [shlex.split(re.sub(r"<[^>]*>", "something", line)) for line in found]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_says_what_it_is_and_its_commands_compose(name: str) -> None:
    lines = commands(name)
    assert lines, f"{name}: no example command"
    for overrides in lines:
        config = compose_run(*overrides)
        given = dict(override.split("=", 1) for override in overrides)
        assert config.model.name == given.get("model.name", given["model"])
    assert any(f"model={name}" in overrides for overrides in lines)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "hf"])
def test_the_label_in_tables_is_the_name_of_the_option(name: str) -> None:
    model = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    assert model["name"] == name
    assert set(model) == {"name", "path"}  # nothing pinned, no code, the checkpoint's own labels
    words = header(name)
    if not model["path"].startswith("asset:"):
        assert model["path"] in words
        assert "Not checked here against the hub" in words
        assert re.search(r"Apache-2\.0|Community License|OPT license|Gemma Terms|MIT", words)


def test_every_option_has_a_shape_here() -> None:
    assert set(SHAPES) == set(OPTIONS) - {"hf", "distilminilm", *PACKAGED}


@pytest.mark.parametrize("name", SHAPES)
def test_sites_of_the_full_size_model(name: str) -> None:
    config, *by_hand = SHAPES[name]
    model, adapter = built(name)
    groups = getattr(config, "num_key_value_heads", config.num_attention_heads)
    ffn = next(
        value
        for key in ("intermediate_size", "hidden_dim", "ffn_dim", "n_embd")
        if (value := getattr(config, key, None)) is not None
    )
    assert adapter.num_layers == config.num_hidden_layers
    assert {site.units for site in adapter.of_kind("attention")} == {groups}
    assert {site.units for site in adapter.of_kind("ffn")} == {4 * ffn if name == "gpt2" else ffn}
    assert pruned_class(model).__name__ == f"Stat{type(model).__name__}"
    for layer in (0, adapter.num_layers - 1):
        heads, neurons = adapter.site(layer, "attention"), adapter.site(layer, "ffn")
        assert [
            heads.macs_per_unit,
            heads.macs_per_unit_and_key,
            neurons.macs_per_unit,
            heads.params_per_unit,
            neurons.params_per_unit,
        ] == by_hand


@pytest.mark.parametrize(
    "name", [*SHAPES, *(pytest.param(name, marks=pytest.mark.real) for name in PACKAGED)]
)
def test_facts_in_the_comment_are_those_of_the_shape(name: str) -> None:
    model, adapter = built(name)
    config, words = model.config, header(name)
    queries = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", queries)
    width = getattr(config, "head_dim", None) or config.hidden_size // queries
    split = (
        f"{queries} heads" if groups == queries else f"{queries} query and {groups} key/value heads"
    )
    parameters = model.num_parameters()
    size = f"{parameters / 1e9:.2f} B" if parameters > 1e9 else f"{parameters / 1e6:.1f} M"
    assert f"{adapter.num_layers} layers, {split} of {width}," in words
    assert f"FFN {adapter.site(0, 'ffn').units}, {size} parameters" in words
    assert ("gated FFN" in words) == (
        sum(p.rows_per_unit for p in adapter.site(0, "ffn").producers) == 2
    )
    if adapter.layout.decoder:
        gram = sum(8 * site.columns**2 for site in adapter.sites) / 1e9
        assert f"{gram:.1f} GB for the Gram matrices of all sites" in words
        bytes_each = {"bfloat16": 2, "float32": 4}
        held = re.search(r"Memory: ([\d.]+) GB of weights in (\w+)", words)
        assert held is not None
        assert float(held[1]) == round(parameters * bytes_each[held[2]] / 1e9, 1)
        assert ("tied embeddings" in words) == config.tie_word_embeddings


# Totals of the published checkpoints: what the hub shows for their safetensors.
PUBLISHED = {
    "llama2_7b": 6_738_415_616,
    "mistral_7b": 7_241_732_096,
    "qwen2_5_0_5b": 494_032_768,
    "opt_1_3b": 1_315_758_080,
    "qwen3_0_6b": 596_049_920,
    "smollm3_3b": 3_075_098_624,
    "olmo2_1b": 1_484_916_736,
    "gemma_2_2b": 2_614_341_888,
    "gemma_3_1b": 999_885_952,
    "phi3_mini": 3_821_079_552,
    "gpt2": 124_439_808,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name: str) -> None:
    assert built(name)[0].num_parameters() == PUBLISHED[name]
