"""Perplexity and fidelity of language models against direct computations."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from scipy.special import log_softmax
from transformers import LlamaConfig, LlamaForCausalLM

from stat_repro.evaluation import perplexity as perplexity_module
from stat_repro.evaluation.fidelity import DenseModelError
from stat_repro.evaluation.perplexity import evaluate_language, perplexity_of

pytestmark = pytest.mark.usefixtures("own_cache")

VOCABULARY = 50


def means(values):
    return {name: float(value.mean(dtype="float64")) for name, value in values.items()}


def compare_language_models(dense, pruned, windows, batch_size=4):
    """The metrics of a comparison under names of their own."""
    metrics = evaluate_language(dense, pruned, windows, {}, batch_size).metrics
    found = {f"{who}_{name}": v for who in ("dense", "pruned") for name, v in metrics[who].items()}
    protocol = metrics["protocol"]
    counts = {"tokens": protocol["predicted_tokens"], "windows": protocol["windows"]}
    return SimpleNamespace(**found, **metrics["fidelity"], **counts)


def _llama(seed, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.4,
        )
        return LlamaForCausalLM(config).to(dtype)


@pytest.fixture(scope="module")
def windows():
    return torch.randint(0, VOCABULARY, (5, 12), generator=torch.Generator().manual_seed(1))


def _direct(model, windows):
    """Log-probabilities (N, W - 1, V) by scipy in float64, one window at a time."""
    with torch.no_grad():
        rows = [model(input_ids=w[None]).logits[0, :-1].double().numpy() for w in windows]
    return torch.stack([torch.from_numpy(log_softmax(row, axis=-1)) for row in rows])


def test_perplexity_equals_direct_computation(windows):
    model = _llama(0)
    log_p = _direct(model, windows)
    nll = -log_p.gather(2, windows[:, 1:, None]).mean().item()
    got = compare_language_models(model, model, windows, batch_size=2)
    assert got.dense_nll == got.pruned_nll == pytest.approx(nll, rel=1e-6)
    assert got.dense_perplexity == got.pruned_perplexity == pytest.approx(math.exp(nll), rel=1e-6)
    assert (got.tokens, got.windows) == (55, 5)


def test_perplexity_equals_the_models_own_loss(windows):
    model = _llama(0)
    with torch.no_grad():
        loss = model(input_ids=windows, labels=windows).loss.item()
    assert compare_language_models(model, model, windows).dense_nll == pytest.approx(loss, rel=1e-6)


def test_comparison_equals_direct_computation(windows):
    dense, pruned = _llama(0), _llama(1)
    log_p, log_q = _direct(dense, windows), _direct(pruned, windows)
    got = compare_language_models(dense, pruned, windows, batch_size=2)
    assert got.kl == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-5)
    assert got.agreement == pytest.approx((log_p.argmax(-1) == log_q.argmax(-1)).double().mean())
    for nll, expected in ((got.dense_nll, log_p), (got.pruned_nll, log_q)):
        right = expected.gather(2, windows[:, 1:, None])
        assert nll == pytest.approx(-right.mean().item(), rel=1e-6)
    assert (got.tokens, got.windows) == (55, 5)


def test_batches_and_chunks_do_not_change_the_result(windows, monkeypatch):
    dense, pruned = _llama(0), _llama(1)
    one = compare_language_models(dense, pruned, windows, batch_size=5)
    monkeypatch.setattr(perplexity_module, "CHUNK_POSITIONS", 3)
    monkeypatch.setattr(perplexity_module, "LOGIT_BYTES", 2 * 4 * VOCABULARY * 12)
    calls = []
    dense.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    other = compare_language_models(dense, pruned, windows, batch_size=5)
    assert calls == [2, 2, 1]
    for name in ("dense_nll", "pruned_nll", "kl", "agreement"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5)


def test_model_compared_with_itself(windows):
    model = _llama(0)
    got = compare_language_models(model, copy.deepcopy(model), windows)
    assert got.kl == 0
    assert got.agreement == 1
    assert got.dense_nll == got.pruned_nll


def test_uniform_model_has_the_vocabulary_as_perplexity(windows):
    model = _llama(0)
    model.lm_head.weight.data.zero_()
    got = compare_language_models(_llama(0), model, windows)
    assert got.pruned_perplexity == pytest.approx(VOCABULARY, rel=1e-6)


def test_bfloat16_logits_are_scored_in_float32(windows):
    model = _llama(0, torch.bfloat16)
    with torch.no_grad():
        logits = model(input_ids=windows[:, :]).logits[:, :-1].double()
    expected = -logits.log_softmax(-1).gather(2, windows[:, 1:, None]).mean().item()
    got = compare_language_models(model, model, windows, batch_size=5)
    assert got.dense_nll == got.pruned_nll == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_collapsed_model_is_a_result_and_broken_dense_model_an_error(windows, bad):
    dense, broken = _llama(0), _llama(0)
    broken.lm_head.weight.data[3] = bad
    got = compare_language_models(dense, broken, windows)
    assert got.pruned_perplexity == math.inf
    assert got.kl == math.inf
    assert got.agreement == 0
    assert math.isfinite(got.dense_nll)
    with pytest.raises(DenseModelError, match="window 0, predicted token 0"):
        compare_language_models(broken, dense, windows)


def test_only_broken_positions_disagree(windows):
    dense = _llama(0)
    pruned = copy.deepcopy(dense)

    def spoil(module, args, output):
        output.logits[:, 4] = math.nan

    pruned.register_forward_hook(spoil)
    assert compare_language_models(dense, pruned, windows).agreement == pytest.approx(10 / 11)


def test_perplexity_overflow_is_inf():
    assert perplexity_of(800.0) == math.inf
    assert perplexity_of(math.inf) == math.inf
    assert perplexity_of(1.0) == math.e


def test_training_flags_return(windows):
    dense, pruned = _llama(0).train(), _llama(1).eval()
    compare_language_models(dense, pruned, windows)
    assert dense.training
    assert not pruned.training


def test_different_vocabularies_are_refused(windows):
    other = _llama(0)
    other.resize_token_embeddings(VOCABULARY + 1)
    with pytest.raises(DenseModelError, match=r"same vocabulary; got 50 .* and 51"):
        compare_language_models(_llama(0), other, windows)


def test_language_result(windows):
    got = evaluate_language(_llama(0), _llama(1), windows, {"split": "test", "join": "\n"}).metrics
    assert got["dense"]["perplexity"] == pytest.approx(math.exp(got["dense"]["nll"]))
    assert set(got["pruned"]) == {"perplexity", "nll"}
    assert set(got["fidelity"]) == {"kl", "agreement"}
    protocol = got["protocol"]
    assert (protocol["windows"], protocol["tokens_per_window"]) == (5, 12)
    assert protocol["predicted_tokens"] == 55
    assert (protocol["split"], protocol["join"]) == ("test", "\n")


def test_metrics_of_text_are_means_of_its_windows(windows):
    dense, pruned = _llama(0), _llama(1)
    got = evaluate_language(dense, pruned, windows, {"split": "test"}, batch_size=2)
    log_p, log_q = _direct(dense, windows), _direct(pruned, windows)
    nll = -log_q.gather(2, windows[:, 1:, None]).mean(dim=(1, 2))
    assert got.examples["nll"] == pytest.approx(nll.numpy(), rel=1e-5)
    same = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean(dim=1)
    assert got.examples["agree"] == pytest.approx(same.numpy(), rel=1e-6)
    assert {value.dtype.name for value in got.examples.values()} == {"float32"}
    assert means(got.examples) == pytest.approx(
        {
            "dense_nll": got.metrics["dense"]["nll"],
            "nll": got.metrics["pruned"]["nll"],
            "kl": got.metrics["fidelity"]["kl"],
            "agree": got.metrics["fidelity"]["agreement"],
        },
        rel=1e-6,
    )
