"""What people do to a model between loading and pruning it changes nothing, or is told."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from pico_models import PICO_NAMES, pico_batches, pico_model, pico_outputs
from pico_surgery import pruned_of

import stat_repro
from stat_repro import Sketch, calibrate, compress
from stat_repro.config import ConfigError, PruningConfig
from stat_repro.models.projections import UnsupportedModelError
from stat_repro.plan import PruningPlan
from stat_repro.surgery.rebuilding import checked_adapter

BEHIND_PADDING = ("roberta", "xlm_roberta", "camembert")
LABELS = torch.tensor([0, 1, 1, 0])


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", PICO_NAMES)
def test_the_padding_token_may_be_set_after_loading(name):
    model = pico_model(name)
    for one in (model, pruned_of(model)):
        one.config.pad_token_id = 2
        if name in BEHIND_PADDING:
            with pytest.raises(UnsupportedModelError, match=r"padding_idx: expected 2.*got 1"):
                checked_adapter(one)
        else:
            checked_adapter(one)


def test_a_classifier_without_a_padding_token_gets_one():
    model = pico_model("llama_grouped", "ForSequenceClassification", pad_token_id=None)
    model.config.pad_token_id = 2
    batch = pico_batches(model, count=1)[0]
    pruned = compress(model, [batch], ratio=0.0).model
    torch.testing.assert_close(pico_outputs(pruned, batch), pico_outputs(model, batch))


def fewer_layers(model):
    model.bert.encoder.layer = model.bert.encoder.layer[:1]


def the_same_layer(model):
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]


def other_number(model):
    model.config.num_hidden_layers = 2


def no_such_token(model):
    model.config.pad_token_id = 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fewer_layers, "^config: expected .*1 layers.*for each of the 3 layers; got 1; choose a"),
        (the_same_layer, r"^bert.encoder.layer.1: expected BertLayer .*; got none; choose a model"),
        (other_number, "^config: expected .*3 layers.*each of the 2 layers; got 3; choose a model"),
        (no_such_token, "^config: expected .*got Padding_idx must be within num_emb.*; choose a"),
    ],
)
def test_layers_that_the_config_does_not_describe_are_refused(change, message):
    model = pico_model("bert")
    batches = pico_batches(model)
    change(model)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        compress(model, batches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["stat", "stat_plus", "fisher"])
def test_autocast_changes_nothing(method):
    model = pico_model("bert")
    batches = [{**batch, "labels": LABELS} for batch in pico_batches(model)]
    plain = compress(model, batches, method=method)
    with torch.autocast("cpu", torch.bfloat16):
        inside = compress(model, batches, method=method)
        statistics = calibrate(model, batches)
        shared = compress(model, batches, method=method, calibration=statistics)
        assert torch.is_autocast_enabled("cpu")
    for result in (inside, shared):
        assert result.plan == plain.plan
        assert same_weights(result.model, plain.model)


def test_autocast_changes_no_checkpoint(tmp_path):
    model = pico_model("bert")
    model.save_pretrained(tmp_path / "dense")
    weights = []
    for inside in (False, True):
        out = tmp_path / f"{inside}"
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            stat_repro.compress_checkpoint(tmp_path / "dense", out, pico_batches(model))
        weights.append(hf.AutoModelForSequenceClassification.from_pretrained(out))
    assert same_weights(*weights)


def test_stat_plus_shares_its_analyses_whatever_comes_first():
    model = pico_model("bert")
    batches = pico_batches(model)
    options = {"method": "stat_plus", "curvature": "fisher"}
    wanted = {one: compress(model, batches, allocation=one, **options) for one in ALLOCATIONS}
    for order in (ALLOCATIONS, ALLOCATIONS[::-1]):
        statistics = calibrate(model, batches)
        for one in order:
            got = compress(model, batches, allocation=one, calibration=statistics, **options)
            assert got.plan == wanted[one].plan


ALLOCATIONS = ("uniform", "stat", "global")


def test_gemma_3_with_dynamic_frequencies_stays_the_dense_model():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    kinds = {"full_attention": rope, "sliding_attention": {**rope, "rope_type": "default"}}
    del kinds["sliding_attention"]["factor"]
    model = pico_model("gemma3", rope_parameters=kinds, max_position_embeddings=16)
    batches = pico_batches(model)

    def logits(one, length):
        ids = torch.arange(length)[None] % 60 + 5
        with torch.no_grad():
            return one(input_ids=ids).logits

    logits(model, 40)  # the frequencies now cover 40 tokens
    pruned = compress(model, batches, ratio=0.0, method="magnitude").model  # without passes
    for length in (20, 40, 8, 30):
        torch.testing.assert_close(logits(pruned, length), logits(model, length))


def evaluated(model, batches, folder):
    model(**batches[0], labels=LABELS)  # writes config.problem_type


def saved(model, batches, folder):
    model.save_pretrained(folder)  # writes architectures and dtype


def renamed(model, batches, folder):
    model.config.id2label = {0: "bad", 1: "good"}
    model.config.label2id = {"bad": 0, "good": 1}


def without_cache(model, batches, folder):
    model.config.use_cache, model.config.return_dict = False, False


@pytest.mark.parametrize("step", [evaluated, saved, renamed, without_cache])
def test_a_calibration_outlives_what_changes_no_activation(step, tmp_path):
    model = pico_model("bert")
    batches = pico_batches(model)
    statistics = calibrate(model, batches)
    wanted = compress(model, batches, calibration=statistics).plan
    step(model, batches, tmp_path)
    assert compress(model, batches, calibration=statistics).plan == wanted


def test_another_problem_is_measured_again():
    model = pico_model("bert")
    batches = pico_batches(model)
    statistics = calibrate(model, batches)
    options = {"method": "stat_plus", "sensitivity_tokens": 20}
    compress(model, batches, calibration=statistics, **options)
    model.config.problem_type = "multi_label_classification"
    got = compress(model, batches, calibration=statistics, **options)
    assert got.plan == compress(model, batches, **options).plan


@pytest.mark.parametrize("method", ["stat", "stat_plus", "fisher", "shortgpt", "layers"])
@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_tuples_and_caches_of_the_config_change_nothing(name, method):
    usual = pico_model(name)
    batches = [{**batch, "labels": LABELS} for batch in pico_batches(usual)]
    options = {"engine": "layers"} if method == "layers" else {"method": method}
    wanted = compress(usual, batches, ratio=1 / 3, **options)
    model = pico_model(name, return_dict=False, use_cache=True)
    got = compress(model, batches, ratio=1 / 3, **options)
    assert got.plan == wanted.plan
    assert same_weights(got.model, wanted.model)
    assert (model.config.return_dict, model.config.use_cache) == (False, True)


@pytest.mark.parametrize("options", [{"method": "stat_plus"}, {"engine": "layers"}])
def test_a_config_that_asks_for_weights_of_attention_changes_nothing(options):
    usual, model = pico_model("mpnet"), pico_model("mpnet", output_attentions=True)
    wanted, got = (compress(m, pico_batches(m), **options) for m in (usual, model))
    assert got.plan == wanted.plan
    assert model.config.output_attentions


@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
def test_an_encoder_that_is_a_decoder_keeps_no_cache(name):
    plans = []
    for cache in (True, False):
        model = pico_model(name, is_decoder=True, use_cache=cache)
        plans.append(compress(model, pico_batches(model), method="stat_plus").plan)
    assert plans[0] == plans[1]


def test_integers_of_numpy_are_integers(tmp_path):
    model = pico_model("bert")
    batches = pico_batches(model)
    sketch = Sketch(size=np.int64(30), seed=np.int64(3))
    usual = Sketch(size=30, seed=3)
    for given, plain in (
        ({"round_to": np.int64(2)}, {"round_to": 2}),
        ({"method": "random", "seed": np.int64(9)}, {"method": "random", "seed": 9}),
        ({"min_units": np.int64(1)}, {}),
        (
            {"statistics": "sketch", "sketch": sketch},
            {"statistics": "sketch", "sketch": usual},
        ),
    ):
        result = compress(model, batches, **given)
        assert result.plan == compress(model, batches, **plain).plan
        assert PruningPlan.from_json(result.plan.to_json()) == result.plan
    stat_repro.save_pruned(result.model, tmp_path / "a", plan=result.plan, base_model="pico")
    assert json.dumps(PruningConfig(min_units=np.int64(1)).min_units) == "1"
    for name, value in (("seed", 1.0), ("round_to", "two"), ("min_units", 2.0)):
        with pytest.raises(ConfigError, match=f"{name}: expected an integer; got {value}"):
            compress(model, batches, **{name: value})


@pytest.mark.parametrize("name", PICO_NAMES)
def test_tokens_may_be_added_before_and_after_pruning(name):
    model = pico_model(name)
    for one in (model, pruned_of(model)):
        one.resize_token_embeddings(one.config.vocab_size + 3)
        checked_adapter(one)


@pytest.mark.parametrize("options", [{"method": "fisher"}, {"curvature": "fisher"}, {}])
def test_inference_mode_changes_nothing(options):
    model = pico_model("bert")
    batches = [{**batch, "labels": LABELS} for batch in pico_batches(model)]
    options = {"method": "stat_plus", **options}
    wanted = compress(model, batches, **options)
    with torch.inference_mode():
        got = compress(model, batches, **options)
        statistics = calibrate(model, batches)
    assert got.plan == wanted.plan
    assert compress(model, batches, calibration=statistics, **options).plan == wanted.plan
    assert same_weights(got.model, wanted.model)
    got.model(**batches[0]).loss.backward()


@pytest.mark.parametrize("options", [{"method": "fisher"}, {"curvature": "fisher"}, {}])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_tokens_may_be_short_integers(name, options):
    model = pico_model(name)
    batches = [{**batch, "labels": LABELS} for batch in pico_batches(model)]
    short = [{key: v if key == "labels" else v.int() for key, v in b.items()} for b in batches]
    options = {"method": "stat_plus", **options}
    assert compress(model, short, **options).plan == compress(model, batches, **options).plan


@pytest.mark.parametrize(
    "register",
    [
        lambda one: one.register_forward_hook(lambda *_: None),
        lambda one: one.register_forward_pre_hook(lambda *_: None, with_kwargs=True),
        lambda one: one.register_full_backward_hook(lambda *_: None),
    ],
)
def test_hooks_stay_with_the_dense_model_which_is_told(register, caplog):
    model = pico_model("llama_grouped")
    batches = pico_batches(model)
    model(**batches[0], output_hidden_states=True)  # with hooks of transformers itself
    compress(model, batches)
    assert "hooks" not in caplog.text
    with register(model.model.layers[1].mlp):
        compress(model, batches)
    assert "hooks: 1 stay with the model that was given, the first one on model.layers.1.mlp; " in (
        caplog.text
    )


@pytest.mark.parametrize("options", [{"method": "fisher"}, {"curvature": "fisher"}])
def test_gradients_want_a_model_made_outside_inference_mode(options):
    with torch.inference_mode():
        model = pico_model("bert")
    batches = [{**batch, "labels": LABELS} for batch in pico_batches(model)]
    compress(model, batches, method="stat_plus").model(**batches[0]).loss.backward()
    with pytest.raises(UnsupportedModelError, match=r"^model: expected .*; choose to load it out"):
        compress(model, batches, **{"method": "stat_plus", **options})
    assert all(parameter.requires_grad for parameter in model.parameters())
