"""The authors' algorithm on recorded inputs (float64), see golden/README.md."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import stat_repro
from stat_repro.calibration.capture import collect_statistics
from stat_repro.calibration.statistics import ActivationStatistics, GramStatistics
from stat_repro.config import PruningConfig
from stat_repro.linalg.interpolative import fold
from stat_repro.methods.stat import analyses_of, unit_errors
from stat_repro.models.adapter import adapter_for

GOLDEN = Path(__file__).parent / "golden"
RTOL = 1e-6


def close(actual, expected):
    actual = actual.cpu() if isinstance(actual, torch.Tensor) else actual
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=RTOL * np.abs(expected).max())


def statistics_of(a, device=None):
    gram = (a.T @ a).to(device)
    return {"gram": GramStatistics(gram, len(a)), "exact": ActivationStatistics(a)}


@pytest.mark.parametrize("kind", ["gram", "exact"])
@pytest.mark.parametrize("name", ["ffn_layer0_sub256", "ffn_layer3_wide"])
def test_neurons_of_a_real_layer(name, kind, device):
    golden = np.load(GOLDEN / f"{name}.npz")
    activations, weight = torch.from_numpy(golden["Z"]), torch.from_numpy(golden["W_out"])
    tokens, features = activations.shape
    statistics = statistics_of(activations, device)[kind]
    factor = statistics.pivot_columns(weight.norm(dim=0))
    close(weight.norm(dim=0), golden["norms"])
    meaningful = min(tokens, features) - (tokens < features)  # the last pivot of a wide matrix ties
    assert factor.order[:meaningful].tolist() == golden["P"][:meaningful].tolist()
    close(factor.magnitudes[: min(tokens, features)], golden["abs_diag_R"])
    for k in golden["ks"]:
        kept, removed = golden["P"][:k], golden["P"][k:]
        interpolation = statistics.interpolation(torch.from_numpy(kept.astype(np.int64)), 0.0).cpu()
        new = fold(weight, interpolation)
        close(interpolation[:, removed], golden[f"T_{k}"])
        close(new, golden[f"W_new_{k}"])
        close(factor.tail_norms[k], golden[f"tail_fro_{k}"])
        difference = weight.clone()
        difference[:, kept] -= new
        close(statistics.output_error(difference), golden[f"out_err_{k}"])


@pytest.mark.parametrize("kind", ["gram", "exact"])
def test_heads_of_a_real_layer(kind, device):
    golden = np.load(GOLDEN / "head_layer0.npz")
    context, weight = torch.from_numpy(golden["C"]), torch.from_numpy(golden["W_o"])
    heads = len(golden["P"])
    width = context.shape[1] // heads
    statistics = statistics_of(context, device)[kind]
    factor = statistics.pivot_units(width)
    order = factor.order.cpu()
    assert order.tolist() == golden["P"].tolist()
    close(factor.magnitudes, golden["abs_diag_R"])
    true_errors = statistics.removal_errors(order, weight, order, width)[:-1]
    close(true_errors, golden["head_err_inverse_perm"])
    slip = statistics.removal_errors(order, weight, torch.argsort(order), width)[:-1]
    close(slip, golden["head_err"])
    for k in golden["ks"]:
        columns = (order[:, None] * width + torch.arange(width)).reshape(-1)
        kept, removed = columns[: k * width], columns[k * width :]
        interpolation = statistics.interpolation(kept, 0.0).cpu()
        new = fold(weight, interpolation)
        close(interpolation[:, removed], golden[f"T_{k}"])
        expected = golden[f"W_new_{k}"]
        close(new[: len(expected)], expected)


@pytest.fixture(scope="module")
def tiny():
    golden = np.load(GOLDEN / "tiny_model.npz")
    vocab, hidden, layers, heads, ffn, positions, labels = (int(x) for x in golden["config"])
    config = BertConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn,
        max_position_embeddings=positions,
        num_labels=labels,
    )
    model = BertForSequenceClassification(config).double().eval()
    weights = {k[2:]: torch.from_numpy(golden[k]) for k in golden.files if k.startswith("w/")}
    model.load_state_dict(weights)
    batch = {
        "input_ids": torch.from_numpy(golden["input_ids"]).long(),
        "attention_mask": torch.from_numpy(golden["attention_mask"]).long(),
    }
    return golden, model, [batch]


def test_errors_of_the_tiny_model(tiny):
    golden, model, batches = tiny
    adapter = adapter_for(model)
    calibration = collect_statistics(model, adapter, batches)
    config = PruningConfig(authors_compat=True, min_units=0)
    analyses = analyses_of(model, adapter, calibration, config)
    errors = unit_errors(analyses)
    close(np.array(errors.neurons), golden["errs"])
    close(np.array(errors.heads), golden["headErr"])
    for layer in range(adapter.num_layers):
        order = analyses[layer, "ffn"].order
        assert order.tolist() == golden[f"neuron_P_{layer}"].tolist()


@pytest.mark.parametrize("kind", ["gram", "exact"])
@pytest.mark.parametrize("mu", [0.7, 0.5])
def test_tiny_model_end_to_end(tiny, mu, kind, device):
    golden, model, batches = tiny
    result = stat_repro.compress(
        copy.deepcopy(model).to(device),
        batches,
        ratio=1 - mu,
        statistics=kind,
        authors_compat=True,
        neuron_mac_share=float(golden["neuron_weight"]),
    )
    result.model.cpu()
    key = f"mu{mu}"
    assert list(result.plan.head_counts) == golden[f"{key}/heads"].tolist()
    assert list(result.plan.neuron_counts) == golden[f"{key}/neurons"].tolist()
    details = result.plan.details
    assert details["head_average"] == int(golden[f"{key}/heads_avg"])
    assert details["neuron_average"] == int(golden[f"{key}/kMain"])
    close(details["head_cutoff"], golden[f"{key}/head_cutoff"])
    close(details["neuron_cutoff"], golden[f"{key}/neuron_cutoff"])
    with torch.no_grad():
        close(result.model(**batches[0]).logits, golden[f"{key}/logits"])
    for i, layer in enumerate(result.plan.layers):
        neurons, heads = golden[f"{key}/kept_neurons_{i}"], golden[f"{key}/kept_heads_{i}"]
        assert sorted(neurons.tolist()) == list(layer.kept_neurons)
        assert sorted(heads.tolist()) == list(layer.kept_heads)
        compare_weights(golden, key, result.model.state_dict(), i, neurons, heads)


def compare_weights(golden, key, state, layer, neurons, heads):
    """The script stores units in pivot order, we in ascending order."""
    by_neuron = np.argsort(neurons)
    width = 8
    by_head = (np.argsort(heads)[:, None] * width + np.arange(width)).reshape(-1)
    stem = f"bert.encoder.layer.{layer}."
    order_of = {
        "attention.self.query.weight": (by_head, 0),
        "attention.self.key.bias": (by_head, 0),
        "attention.self.value.weight": (by_head, 0),
        "attention.output.dense.weight": (by_head, 1),
        "attention.output.dense.bias": (None, 0),
        "intermediate.dense.weight": (by_neuron, 0),
        "intermediate.dense.bias": (by_neuron, 0),
        "output.dense.weight": (by_neuron, 1),
    }
    for name, (order, axis) in order_of.items():
        expected = golden[f"{key}/w/{stem}{name}"]
        if order is not None:
            expected = np.take(expected, order, axis=axis)
        close(state[stem + name], expected)
