"""A model that is not what its config describes is refused before anything is calibrated."""

import copy
import types

import pytest
import torch
import transformers as hf
from pico_models import PICO_HEADS, PICO_NAMES, pico_batches, pico_model, pico_outputs
from pico_surgery import pruned_of, whole
from torch import nn

import stat_repro.api
from stat_repro.models.projections import UnsupportedModelError
from stat_repro.surgery.rebuilding import checked_adapter

LAYER = "bert.encoder.layer.1"


class HalfNorm(nn.LayerNorm):
    """A norm of the user."""

    def forward(self, hidden):
        return 0.5 * super().forward(hidden)


def put(name, make):
    return lambda model: model.set_submodule(name, make(model.get_submodule(name)))


def setting(name, key, value):
    return lambda model: setattr(model.get_submodule(name), key, value)


def config(key, value):
    return lambda model: setattr(model.config, key, value)


def own_forward(model):
    module = model.get_submodule(LAYER)
    original = module.forward
    module.forward = types.MethodType(lambda self, *a, **k: original(*a, **k), module)


def rope(model):
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 5e5}


def rope_of_kind(model):
    rope = model.config.rope_parameters
    changed = {**rope["sliding_attention"], "rope_theta": 5e5}
    model.config.rope_parameters = {**rope, "sliding_attention": changed}


def bias(linear):
    return nn.Linear(linear.in_features, linear.out_features, bias=True)


# Name: model, what is done to it, message.
CHANGES = {
    "dropout replaced": (
        "bert",
        put(f"{LAYER}.output.dropout", lambda old: nn.Identity()),
        f"{LAYER}.output.dropout: expected Dropout of .*; got Identity of ",
    ),
    "dropout": ("bert", setting("dropout", "p", 0.3), r"dropout\.p: expected 0\.1, .*got 0\.3"),
    "activation": (
        "bert",
        put(f"{LAYER}.intermediate.intermediate_act_fn", lambda old: nn.ReLU()),
        f"{LAYER}.intermediate.intermediate_act_fn: expected GELUActivation .*got ReLU",
    ),
    "activation of the config": (
        "llama_grouped",
        config("hidden_act", "relu"),
        r"layers\.0\.mlp\.act_fn: expected ReLU .*got SiLU",
    ),
    "norm": (
        "bert",
        put(f"{LAYER}.output.LayerNorm", lambda old: HalfNorm(24)),
        f"{LAYER}.output.LayerNorm: expected LayerNorm .*got HalfNorm",
    ),
    "eps": ("bert", config("layer_norm_eps", 1e-3), r"LayerNorm.eps: expected 0\.001.*got 1e-12"),
    "eps of a decoder": (
        "llama_grouped",
        config("rms_norm_eps", 1e-2),
        r"variance_epsilon: expected 0\.01.*got 1e-06",
    ),
    "attention dropout": (
        "llama_grouped",
        config("attention_dropout", 0.2),
        r"self_attn\.attention_dropout: expected 0\.2.*got 0\.0",
    ),
    "scaling": (
        "llama_grouped",
        setting("model.layers.0.self_attn", "scaling", 1.0),
        r"model\.layers\.0\.self_attn\.scaling: expected 0\.4.*got 1\.0",
    ),
    "rotary frequencies of a kind of layer": ("gemma3", rope_of_kind, r"rotary_emb\.inv_freq: ex"),
    "rotary frequencies": ("llama_grouped", rope, r"rotary_emb\.inv_freq: expected"),
    "number of labels": ("bert", config("num_labels", 5), r"expected .*5.*got .*2"),
    "own classifier": (
        "bert",
        put("classifier", lambda old: nn.Sequential(nn.Tanh(), old)),
        "classifier: expected Linear .*got Sequential",
    ),
    "larger classifier": (
        "bert",
        put("classifier", lambda old: nn.Linear(24, 3)),
        r"classifier, parameter weight: expected shape \(2, 24\).*got shape \(3, 24\)",
    ),
    "bias of the head": (
        "llama_grouped",
        put("lm_head", bias),
        r"lm_head, parameter bias: expected none.*got shape \(67,\)",
    ),
    "bias of a query": ("llama_grouped", put("model.layers.2.self_attn.q_proj", bias), "q_proj"),
    "subclass of Linear": (
        "bert",
        put(
            f"{LAYER}.output.dense",
            lambda old: type("Linear4bit", (nn.Linear,), {})(old.in_features, old.out_features),
        ),
        "output.dense: expected Linear .*got Linear4bit",
    ),
    "buffer": (
        "bert",
        lambda model: model.register_buffer("temperature", torch.ones(1)),
        "model, buffer temperature: expected none.*got saved",
    ),
    "unsaved buffer": (
        "bert",
        lambda model: model.bert.register_buffer("seen", torch.ones(1), persistent=False),
        "bert, buffer seen: expected none.*got not saved",
    ),
    "parameter": (
        "bert",
        lambda model: model.bert.register_parameter("gate", nn.Parameter(torch.ones(2))),
        "bert, parameter gate: expected none",
    ),
    "module": (
        "bert",
        lambda model: model.bert.add_module("extra", nn.Linear(2, 2)),
        "bert.extra: expected none.*got Linear",
    ),
    "missing module": (
        "bert",
        lambda model: setattr(model.bert, "pooler", None),
        "bert.pooler: expected BertPooler.*got none",
    ),
    "tied by hand": (
        "llama_grouped",
        lambda model: setattr(model.lm_head, "weight", model.model.embed_tokens.weight),
        r"^lm_head\.weight: expected a tensor of its own.*config\.tie_word_embeddings=True",
    ),
    "forward pass": ("bert", own_forward, f"{LAYER}'s forward pass: .*got a replacement"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_refused_before_it_is_calibrated(change, monkeypatch):
    name, apply, message = CHANGES[change]
    model = pico_model(name)
    batches = pico_batches(model)
    apply(model)
    monkeypatch.setattr(stat_repro.api, "collect_statistics", None)
    for call in (stat_repro.calibrate, stat_repro.compress):
        with pytest.raises(UnsupportedModelError, match=message) as caught:
            call(model, batches)
        assert "built from the config" in str(caught.value)


@pytest.mark.parametrize("name", PICO_NAMES)
def test_supported_models_are_rebuilt_in_every_type(name):
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        checked_adapter(pico_model(name).to(dtype))
    model = pico_model(name)
    empty = [(0, "attention"), (1, "ffn"), (2, "attention"), (2, "ffn")]
    checked_adapter(pruned_of(model))
    checked_adapter(pruned_of(model, empty=empty))
    model.train()
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
    model.note = "of the user"
    checked_adapter(copy.deepcopy(model))


@pytest.mark.parametrize(("name", "head"), PICO_HEADS)
def test_every_head_is_rebuilt(name, head):
    model = pico_model(name, head)
    checked_adapter(model)
    checked_adapter(pruned_of(model))
    # At ratio 0 the pruned model is the model.
    batch = pico_batches(model, count=1)[0]
    result = stat_repro.compress(model, [batch], ratio=0.0)
    assert result.plan.layers == whole(model).layers
    torch.testing.assert_close(pico_outputs(result.model, batch), pico_outputs(model, batch))


def test_models_with_more_tokens_and_without_pooler_are_rebuilt():
    model = pico_model("bert")
    model.resize_token_embeddings(71)
    checked_adapter(model)
    checked_adapter(hf.BertModel(model.config, add_pooling_layer=False))
    long = pico_model("llama_grouped", rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    long(input_ids=torch.full((1, 100), 7))  # changes the frequencies
    checked_adapter(long.to(torch.bfloat16))


def test_a_pruned_model_of_a_folder_is_rebuilt(tmp_path):
    model = pico_model("llama_grouped")
    result = stat_repro.compress(model, pico_batches(model), ratio=0.4)
    stat_repro.save_pruned(result.model, tmp_path, plan=result.plan, base_model="pico")
    for trusted in (False, True):
        loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=trusted)
        checked_adapter(loaded)


class Wrapper(nn.Module):
    """Stands for wrappers that hand attributes of the wrapped model on."""

    def __init__(self, model):
        super().__init__()
        self.base_model, self.config = model, model.config


def test_wrappers_are_named_with_what_to_give_instead():
    model = pico_model("llama_grouped")
    wrappers = {
        r"OptimizedModule; choose .*model\._orig_mod": "OptimizedModule",
        r"DataParallel; choose model\.module": "DataParallel",
        r"Classifier; choose the model inside it": "Classifier",
        r"PeftModelForCausalLM; choose model\.merge_and_unload\(\)": "PeftModelForCausalLM",
    }
    for message, name in wrappers.items():
        wrapper = type(name, (Wrapper,), {})(model)
        for call in (stat_repro.calibrate, stat_repro.compress):
            with pytest.raises(UnsupportedModelError, match=message):
                call(wrapper, pico_batches(model))


def test_a_wrapped_projection_is_named_with_its_module():
    model = pico_model("llama_grouped")
    layer = model.model.layers[0].mlp
    layer.down_proj = type("Linear", (Wrapper,), {"__module__": "adapters"})(model)
    with pytest.raises(UnsupportedModelError, match=r"down_proj: .*; got Linear of adapters \("):
        stat_repro.compress(model, pico_batches(model))


class Rounded(torch.Tensor):
    """As quantisers and sharding make of a weight; its module stays a Linear."""

    def __tensor_flatten__(self):
        return [], None


def test_weights_that_are_no_plain_tensors_are_refused():
    model = pico_model("llama_grouped")
    projection = model.model.layers[0].mlp.up_proj
    projection.weight = nn.Parameter(projection.weight.detach().as_subclass(Rounded))
    with pytest.raises(UnsupportedModelError, match=r"up_proj.weight: .*; got Rounded; choose"):
        checked_adapter(model)


def test_weights_that_are_not_in_memory_point_to_sharded():
    model = pico_model("llama_grouped")
    batches = pico_batches(model)
    model.model.layers[2].to("meta")
    with pytest.raises(UnsupportedModelError, match=r"layers\.2.* stat_repro\.sharded"):
        stat_repro.compress(model, batches)
