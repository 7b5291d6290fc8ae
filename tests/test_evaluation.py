"""Predictions and fidelity of classifiers against direct computations."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from pico_models import VOCABULARY, pico_model
from torch import nn

from stat_repro.config import EvaluationConfig
from stat_repro.data.errors import DataError
from stat_repro.evaluation.evaluate import evaluate_task, task_metrics
from stat_repro.evaluation.fidelity import DenseModelError
from stat_repro.evaluation.perplexity import evaluate_language
from stat_repro.evaluation.predictions import predict_logits

pytestmark = pytest.mark.usefixtures("own_cache")


class SumHead(nn.Module):
    """Logits (sum, -sum) of the visible token ids; records how it was called."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)
        self.calls = []

    def forward(self, input_ids, attention_mask):
        self.calls.append((self.training, torch.is_grad_enabled()))
        total = self.scale * (input_ids * attention_mask).sum(dim=1)
        return SimpleNamespace(logits=torch.stack([total, -total], dim=1))


def _batch(rows):
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.zeros(len(rows))}


def test_logits_come_in_example_order_and_flags_return():
    model = SumHead().train()
    model.dropout.eval()
    batches = [
        ([3, 0], _batch([[3, 0], [10, 0]])),
        ([1, 2], _batch([[1, 1], [2, 2]])),
    ]
    logits = predict_logits(model, iter(batches), total=4)
    assert logits.tolist() == [[10, -10], [2, -2], [4, -4], [3, -3]]
    assert logits.dtype == torch.float32
    assert model.calls == [(False, False)] * 2
    assert model.training
    assert not model.dropout.training
    assert not logits.is_inference()


def fidelity_of(dense, pruned, task="classification"):
    return evaluate_task(dense, pruned, [0.0] * len(dense), task, "test", 128).metrics["fidelity"]


def test_fidelity_by_hand():
    # P = (3/4, 1/4) and (1/2, 1/2) against Q = (1/4, 3/4) and (1/2, 1/2).
    dense = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log()
    pruned = torch.tensor([[1.0, 3.0], [5.0, 5.0]]).log()
    got = fidelity_of(dense, pruned)
    assert got["kl"] == pytest.approx((3 / 4 * math.log(3) - 1 / 4 * math.log(3)) / 2, rel=1e-6)
    assert got["agreement"] == 0.5


def test_kl_is_directed_from_dense_to_pruned():
    dense = torch.tensor([[0.9, 0.1]]).log()
    pruned = torch.tensor([[0.5, 0.5]]).log()
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert fidelity_of(dense, pruned)["kl"] == pytest.approx(expected, rel=1e-6)


def test_equal_predictions_have_no_divergence():
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    got = fidelity_of(logits, logits + 7.0)
    assert got["kl"] == pytest.approx(0, abs=1e-12)
    assert got["agreement"] == 1.0


def test_extreme_logits_stay_finite():
    got = fidelity_of(torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]]))
    assert got == {"kl": 2e4, "agreement": 0.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_collapsed_model_diverges_and_broken_dense_model_is_an_error(bad):
    good = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    broken = torch.tensor([[1.0, 0.0], [bad, 0.0]])
    assert fidelity_of(good, broken) == {"kl": math.inf, "agreement": 0.5}
    values = fidelity_of(good[:, :1], broken[:, :1], "regression")
    assert values == {"mse_to_dense": math.inf}
    with pytest.raises(DenseModelError, match="dense model's logits are not finite"):
        fidelity_of(broken, good)


def test_classification_result():
    dense = torch.tensor([[0.0, 2.0], [2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    pruned = torch.tensor([[0.0, 2.0], [2.0, 0.0], [1.0, 0.0], [math.nan, 0.0]])
    got = evaluate_task(dense, pruned, [1, 0, 1, 0], "classification", "test", 128).metrics
    assert got["dense"] == {"accuracy": 1.0, "f1": 1.0, "matthews": 1.0}
    assert got["pruned"]["accuracy"] == 0.5
    assert got["pruned"]["f1"] == pytest.approx(2 / 3)
    assert got["fidelity"] == {"kl": math.inf, "agreement": 0.5}
    assert got["protocol"]["examples"] == 4
    assert got["protocol"]["f1"] == "class 1"
    assert got["protocol"]["split"] == "test"
    assert got["protocol"]["max_length"] == 128


def test_f1_follows_the_number_of_outputs():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0]])
    # Macro over classes 0 and 1, both 2/3, although a third class exists and does not occur.
    assert task_metrics(logits, [0, 1, 1], "classification")["f1"] == pytest.approx(2 / 3)


def test_regression_result():
    dense = torch.tensor([[1.0], [2.0], [3.0]])
    got = evaluate_task(dense, dense + 0.5, [0.0, 1.0, 5.0], "regression", "validation", 64).metrics
    assert got["pruned"]["pearson"] == pytest.approx(5 / math.sqrt(28))
    assert got["fidelity"] == {"mse_to_dense": 0.25}
    constant = evaluate_task(
        dense, torch.zeros(3, 1), [0.0, 1.0, 5.0], "regression", "test", 64
    ).metrics
    assert math.isnan(constant["pruned"]["pearson"])


def means(values):
    return {name: float(value.mean(dtype="float64")) for name, value in values.items()}


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_of_sentences_are_means_of_their_examples(classes):
    generator = torch.Generator().manual_seed(classes)
    dense = 3 * torch.randn(57, classes, generator=generator)
    pruned = dense + torch.randn(57, classes, generator=generator)
    labels = torch.randint(0, classes, (57,), generator=generator).tolist()
    got = evaluate_task(dense, pruned, labels, "classification", "test", 128)
    assert {n: v.dtype.name for n, v in got.examples.items()} == {
        "kl": "float32",
        "correct": "uint8",
        "dense_correct": "uint8",
        "agree": "uint8",
    }
    assert got.examples["correct"].tolist() == [
        int(row.argmax() == label) for row, label in zip(pruned, labels, strict=True)
    ]
    found = means(got.examples)
    assert found["correct"] == got.metrics["pruned"]["accuracy"]
    assert found["dense_correct"] == got.metrics["dense"]["accuracy"]
    assert found["agree"] == got.metrics["fidelity"]["agreement"]
    assert found["kl"] == pytest.approx(got.metrics["fidelity"]["kl"], rel=1e-6)
    assert 0 < found["agree"] < 1


def test_examples_of_a_collapsed_model():
    dense = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    pruned = torch.tensor([[math.nan, 0.0], [2.0, 0.0]])
    got = evaluate_task(dense, pruned, [0, 0], "classification", "test", 128).examples
    assert got["kl"].tolist() == [math.inf, 0]
    assert got["correct"].tolist() == [0, 1]
    assert got["agree"].tolist() == [0, 1]
    values = evaluate_task(dense[:, :1], pruned[:, :1], [1.0, 1.0], "regression", "test", 128)
    assert values.examples["squared_error"].tolist() == [math.inf, 1]
    assert values.metrics["fidelity"]["mse_to_dense"] == math.inf


def test_tokens_that_the_model_does_not_have_are_refused():
    """A GPU would fail in this and every later point of the process."""
    told = f"expected token ids from 0 to {VOCABULARY - 1}, .* got {VOCABULARY + 3}"
    batch = _batch([[1, VOCABULARY + 3]])
    with pytest.raises(DataError, match=told):
        predict_logits(pico_model("bert"), [([0], batch)], total=1)
    model = pico_model("llama_grouped")
    with pytest.raises(DataError, match=told):
        evaluate_language(model, model, batch["input_ids"], {})


def test_fidelity_of_regression_is_the_mean_of_its_examples():
    dense = torch.tensor([[1.0], [2.0], [4.0]])
    pruned = torch.tensor([[1.5], [1.0], [4.0]])
    got = evaluate_task(dense, pruned, [1.0, 2.0, 5.0], "regression", "test", 64)
    assert {name: value.tolist() for name, value in got.examples.items()} == {
        "squared_difference": [0.25, 1, 0],
        "squared_error": [0.25, 1, 1],
        "dense_squared_error": [0, 0, 1],
    }
    assert got.metrics["fidelity"]["mse_to_dense"] == pytest.approx(1.25 / 3)


@pytest.mark.parametrize(("name", "examples"), [("full", None), ("quick", 200)])
def test_configurations_fit_the_schema(name, examples):
    given = OmegaConf.load(Path(__file__).parent.parent / "conf" / "evaluation" / f"{name}.yaml")
    # The part is the data set's own, so the option is resolved beside one.
    whole = OmegaConf.create({"dataset": {"evaluation_split": "validation"}, "evaluation": given})
    config = OmegaConf.to_object(
        OmegaConf.merge(
            OmegaConf.structured(EvaluationConfig),
            OmegaConf.to_container(whole, resolve=True)["evaluation"],
        )
    )
    assert config == EvaluationConfig(split="validation", max_examples=examples)
