"""The pruned model classes and their configs."""

from __future__ import annotations

import ast
import copy
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
import transformers as hf
from pico_models import (
    DECODER_NAMES,
    EMPTY_SITES,
    PICO_CONFIGS,
    PICO_HEADS,
    PICO_NAMES,
    REPRESENTATIVES,
    masked_model,
    pico_batches,
    pico_model,
    pico_outputs,
    random_plan,
    randomise,
    selection_edits,
)
from torch import Tensor
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files

from stat_repro.models import modeling_stat
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear
from stat_repro.surgery.edit import prune_model

MODEL_CODE = {"configuration_stat.py", "layers_stat.py", "modeling_stat.py"}
BY_TYPE = {config.model_type: config for config in modeling_stat.AUTO_CLASSES}
CONFIGS = {name: BY_TYPE[f"stat_{PICO_CONFIGS[name].model_type}"] for name in REPRESENTATIVES}


def stat_config(name: str, **lists: list[int]) -> hf.PreTrainedConfig:
    values = PICO_CONFIGS[name].to_dict()
    del values["model_type"]
    return BY_TYPE[f"stat_{PICO_CONFIGS[name].model_type}"](**values, **lists)


@pytest.mark.parametrize("name", CONFIGS)
def test_lists_default_to_the_stock_sizes(name: str) -> None:
    stock, config = PICO_CONFIGS[name], stat_config(name)
    assert config.query_heads_per_layer == [stock.num_attention_heads] * 3
    assert config.ffn_size_per_layer == [20] * 3
    groups = getattr(stock, "num_key_value_heads", None)
    assert getattr(config, "kv_heads_per_layer", [None] * 3) == [groups] * 3


@pytest.mark.parametrize("name", PICO_NAMES)
def test_bias_lists_default_to_those_of_the_stock_model(name: str) -> None:
    config, adapter = stat_config(name), adapter_for(model := pico_model(name))
    for kind, lists in (
        ("attention", config.attention_output_bias_per_layer),
        ("ffn", config.ffn_output_bias_per_layer),
    ):
        consumers = [linear(model, site.consumer) for site in adapter.of_kind(kind)]
        assert lists == [consumer.bias is not None for consumer in consumers]


@pytest.mark.parametrize(
    ("name", "lists", "message"),
    [
        ("bert", {"query_heads_per_layer": [1]}, "one entry for each of the 3 layers; got 1"),
        ("bert", {"query_heads_per_layer": [1, 5, 1]}, "layer 1: expected 0 to 4; got 5"),
        ("distilbert", {"ffn_size_per_layer": [1, 1, 21]}, "layer 2: expected 0 to 20; got 21"),
        ("distilbert", {"ffn_size_per_layer": [-1, 1, 1]}, "layer 0: expected 0 to 20; got -1"),
        ("mpnet", {"kept_heads_per_layer": [[0]] * 3}, "expected \\[4, 4, 4\\] ascending numbers"),
        ("bert", {"ffn_output_bias_per_layer": [True]}, "ffn_output_bias_per_layer: expected one"),
        ("llama_grouped", {"kv_heads_per_layer": [3, 3, 4]}, "layer 2: expected 0 to 3; got 4"),
        ("llama_grouped", {"query_heads_per_layer": [6, 5, 6]}, "layer 1: expected query heads in"),
        ("llama_grouped", {"query_heads_per_layer": [0, 6, 6]}, "layer 0: expected query heads in"),
        ("llama_grouped", {"kv_heads_per_layer": [3, 0, 3]}, "layer 1: expected query heads in"),
        ("llama_grouped", {"ffn_size_per_layer": [1, 2, "3"]}, "Invalid item at index 2"),
        ("mistral", {"kv_heads_per_layer": [3, 0, 3]}, "layer 1: expected query heads in"),
        ("qwen2", {"kv_heads_per_layer": [2, 2, 3]}, "layer 2: expected 0 to 2; got 3"),
        ("opt", {"ffn_size_per_layer": [21, 1, 1]}, "layer 0: expected 0 to 20; got 21"),
    ],
)
def test_config_refuses_impossible_lists(name: str, lists: dict, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        stat_config(name, **lists)
    assert type(caught.value).__module__ == "huggingface_hub.errors"


@pytest.mark.parametrize("name", CONFIGS)
def test_auto_map_names_every_head_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    config = stat_config(name, ffn_size_per_layer=[20, 0, 3])
    heads = modeling_stat.AUTO_CLASSES[type(config)]
    assert set(config.auto_map) == {"AutoConfig", *(auto.__name__ for auto in heads)}
    config.save_pretrained(tmp_path)
    again = hf.AutoConfig.from_pretrained(tmp_path)
    assert type(again) is type(config)
    assert again.to_diff_dict() == config.to_diff_dict()
    # As Trainer reads it, where training goes on from a checkpoint.
    plain = hf.PreTrainedConfig.from_json_file(tmp_path / "config.json")
    assert plain.num_hidden_layers == config.num_hidden_layers
    for reference in config.auto_map.values():
        assert hasattr(modeling_stat, reference.removeprefix("modeling_stat."))


@pytest.mark.parametrize(("name", "head"), PICO_HEADS)
def test_every_head_is_built_by_its_auto_class(name: str, head: str) -> None:
    stock = PICO_CONFIGS[name]
    all_heads = stock.num_attention_heads
    all_groups = getattr(stock, "num_key_value_heads", all_heads)
    lists = {"query_heads_per_layer": [0, all_heads, all_heads // all_groups]}
    if all_groups < all_heads:
        lists["kv_heads_per_layer"] = [0, all_groups, 1]
    config = stat_config(name, ffn_size_per_layer=[7, 0, 20], **lists)
    auto = getattr(hf, "AutoModel" + ("" if head == "Model" else head))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = auto.from_config(config)
    assert type(model).__name__.startswith("Stat")
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    randomise(model, 0)
    outputs = pico_outputs(model.eval(), pico_batches(model, 1)[0])
    assert bool(torch.isfinite(outputs).all())


def test_fresh_weights_are_initialised_as_the_stock_ones() -> None:
    config = stat_config("bert", ffn_size_per_layer=[19, 19, 19])
    model = hf.AutoModel.from_config(config)
    dense = model.encoder.layer[0].intermediate.dense
    assert dense.bias.abs().max() == 0
    assert 0.5 < dense.weight.std() / config.initializer_range < 1.5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_fewer_query_heads_per_group_than_the_dense_model(attention: str) -> None:
    """3 groups of 1 query head instead of 2: equal to a stock model that has them."""
    config = stat_config("llama_grouped", query_heads_per_layer=[3, 3, 3])
    values = {**PICO_CONFIGS["llama_grouped"].to_dict(), "num_attention_heads": 3}
    stock = hf.LlamaForCausalLM._from_config(
        hf.LlamaConfig.from_dict(values), attn_implementation=attention
    ).eval()
    randomise(stock, 0)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    model.load_state_dict(stock.state_dict())
    batch = pico_batches(model, 1)[0]
    torch.testing.assert_close(pico_outputs(model, batch), pico_outputs(stock, batch))


@pytest.mark.parametrize("name", ["llama_grouped", "mistral", "qwen2_mixed", "gemma3", "opt"])
def test_a_layer_without_heads_counts_the_tokens_in_its_own_slot_of_the_cache(name: str) -> None:
    model = pico_model(name, attention="eager")
    plan = random_plan(model, empty=[(0, "attention"), (2, "attention")])
    pruned = prune_model(model, plan, selection_edits(model, plan))
    batch = pico_batches(model, 1)[0]
    with torch.no_grad():
        outputs = pruned(**batch, use_cache=True, output_attentions=True)
    cache = outputs.past_key_values
    assert [cache.get_seq_length(i) for i in range(3)] == [9, 9, 9]
    heads = [weights.shape[1] for weights in outputs.attentions]
    assert heads == pruned.config.query_heads_per_layer
    assert {weights.shape[2:] for weights in outputs.attentions} == {(9, 9)}
    assert "WithoutHeads" in repr(pruned)


@pytest.mark.parametrize("name", ["llama_grouped", "opt"])
def test_a_model_with_a_layer_without_heads_is_copied_and_trained(name: str) -> None:
    model = pico_model(name)
    plan = random_plan(model, empty=[(0, "attention")])
    pruned = prune_model(model, plan, selection_edits(model, plan))
    batch = pico_batches(model, 1)[0]
    again = copy.deepcopy(pruned)
    assert torch.equal(pico_outputs(again, batch), pico_outputs(pruned, batch))
    again.train()(**batch, labels=batch["input_ids"]).loss.backward()
    assert not [name for name, p in again.named_parameters() if p.numel() and p.grad is None]
    assert not [name for name, p in pruned.named_parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_a_model_with_a_layer_without_heads_goes_to_another_process(name: str) -> None:
    """Launchers of processes hand models over as bytes."""
    model = pico_model(name)
    plan = random_plan(model, empty=[(0, "attention")])
    pruned = prune_model(model, plan, selection_edits(model, plan))
    again = pickle.loads(pickle.dumps(pruned))  # noqa: S301
    batch = pico_batches(model, 1)[0]
    assert torch.equal(pico_outputs(again, batch), pico_outputs(pruned, batch))


ENCODER_HEADS = (
    "Model", "ForMaskedLM", "ForMultipleChoice", "ForQuestionAnswering",
    "ForSequenceClassification", "ForTokenClassification",
)  # fmt: skip
DECODER_HEADS = (
    "Model", "ForCausalLM", "ForQuestionAnswering", "ForSequenceClassification",
    "ForTokenClassification",
)  # fmt: skip
PUBLIC_CLASSES = {
    "Bert": ENCODER_HEADS,
    "Roberta": ENCODER_HEADS,
    "XLMRoberta": ENCODER_HEADS,
    "Camembert": ENCODER_HEADS,
    "Electra": ENCODER_HEADS,
    "MPNet": ENCODER_HEADS,
    "ModernBert": ENCODER_HEADS,
    "DistilBert": ENCODER_HEADS,
    "Llama": DECODER_HEADS,
    "Mistral": DECODER_HEADS,
    "Qwen2": DECODER_HEADS,
    "Qwen3": DECODER_HEADS,
    "SmolLM3": DECODER_HEADS,
    "Olmo2": ("Model", "ForCausalLM", "ForSequenceClassification"),
    "Gemma2": tuple(head for head in DECODER_HEADS if head != "ForQuestionAnswering"),
    "Gemma3": ("ForCausalLM",),
    "Gemma3Text": ("Model", "ForSequenceClassification"),
    "Phi3": tuple(head for head in DECODER_HEADS if head != "ForQuestionAnswering"),
    "GPT2": ("LMHeadModel", *(head for head in DECODER_HEADS if head != "ForCausalLM")),
    "OPT": tuple(head for head in DECODER_HEADS if head != "ForTokenClassification"),
}


def test_class_names_stay_those_that_saved_folders_name() -> None:
    names = {f"Stat{name}{head}" for name, heads in PUBLIC_CLASSES.items() for head in heads}
    pruned = [model for heads in modeling_stat.AUTO_CLASSES.values() for model in heads.values()]
    assert sorted(model.__name__ for model in pruned) == sorted(names)
    for model in pruned:
        assert getattr(modeling_stat, model.__name__) is model
        assert model.__module__ == modeling_stat.__name__
        stock = getattr(hf, model.__name__.removeprefix("Stat"))
        assert issubclass(model, stock)
        assert issubclass(model.config_class, stock.config_class)


def test_every_architecture_has_one_layout_for_its_stock_and_its_pruned_form() -> None:
    assert set(modeling_stat.AUTO_CLASSES) == {*CONFIGS.values()}
    assert len(modeling_stat.AUTO_CLASSES) == len(modeling_stat.ARCHITECTURES)
    for config in modeling_stat.AUTO_CLASSES:
        (stock,) = {base.model_type for base in config.__mro__[1:] if vars(base).get("model_type")}
        assert config.model_type == f"stat_{stock}"
        assert modeling_stat.LAYOUTS[stock] is modeling_stat.LAYOUTS[config.model_type]
        assert modeling_stat.LAYOUTS[stock] is config.layout


def test_files_of_a_model_folder_are_self_contained() -> None:
    """Together they import nothing else of the package; saving finds them by relative imports."""
    there = Path(modeling_stat.__file__)
    files = [there, *map(Path, get_relative_import_files(there))]
    assert {path.name for path in files} == MODEL_CODE
    imported, beside = set(), set()
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8")))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2
            (beside if node.level else imported).add((node.module or "").split(".")[0])
    assert {f"{name}.py" for name in beside} < MODEL_CODE
    assert imported - set(sys.stdlib_module_names) == {"torch", "transformers", "huggingface_hub"}


def generated(model: PreTrainedModel, batch: dict[str, Tensor], **options: object) -> Tensor:
    return model.generate(
        **batch, max_new_tokens=8, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", DECODER_NAMES)
@pytest.mark.parametrize("where", ["none", *EMPTY_SITES])
def test_generation_is_equal_with_and_without_cache(where: str, name: str) -> None:
    model = pico_model(name, dtype=torch.float64)
    plan = random_plan(model, empty=EMPTY_SITES.get(where, []))
    pruned = prune_model(model, plan, selection_edits(model, plan))
    batch = pico_batches(model, 1, padding_side="left")[0]
    reference = generated(masked_model(model, plan), batch, use_cache=False)
    cases = {"none": {"use_cache": False}, "dynamic": {"use_cache": True}}
    if name in (*REPRESENTATIVES, "qwen2_mixed"):
        cases["static"] = {"cache_implementation": "static", "disable_compile": True}
    for case, options in cases.items():
        result = generated(pruned, batch, **options)
        assert torch.equal(result.sequences, reference.sequences), case
        torch.testing.assert_close(result.logits, reference.logits, rtol=1e-9, atol=1e-9, msg=case)


@pytest.mark.parametrize("name", ["llama_grouped", "qwen2_mixed"])
def test_beam_search_is_equal_with_and_without_cache(name: str) -> None:
    model = pico_model(name, dtype=torch.float64)
    plan = random_plan(model, empty=EMPTY_SITES["first"])
    pruned = prune_model(model, plan, selection_edits(model, plan))
    batch = pico_batches(model, 1, padding_side="left")[0]
    with_cache = generated(pruned, batch, num_beams=3)
    without = generated(pruned, batch, num_beams=3, use_cache=False)
    assert torch.equal(with_cache.sequences, without.sequences)
