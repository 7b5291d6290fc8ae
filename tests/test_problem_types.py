"""Several labels and several targets: `config.problem_type` decides what outputs mean."""

import pytest
import torch
from pico_models import pico_batches, pico_model
from torch.nn import functional

import stat_repro
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.divergence import DenseRun, divergence, predictions
from stat_repro.calibration.gradients import mask_gradients
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


def model_for(problem, outputs=3, name="bert", **options):
    head = "ForSequenceClassification"
    return pico_model(name, head, num_labels=outputs, problem_type=problem, **options)


def labels_for(problem, rows=4, outputs=3):
    generator = torch.Generator().manual_seed(0)
    if problem == "single_label_classification":
        return torch.randint(outputs, (rows,), generator=generator)
    values = torch.randn(rows, outputs, generator=generator)
    return values if problem == "regression" else (values > 0).float()


def test_several_labels_diverge_as_that_many_decisions():
    model = model_for("multi_label_classification")
    batch = pico_batches(model, count=1)[0]
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        dense = model(**batch)
        model.classifier.weight.mul_(1.5)
        other = model(**batch)
        first, second = (predictions(o, mask, PROBLEMS[2])[0] for o in (dense, other))
        p, q = torch.sigmoid(dense.logits), torch.sigmoid(other.logits)
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    assert first[0].shape == (4 * 3, 2)
    assert divergence(first, second, probabilities=True) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_measured_loss_is_that_of_the_problem(problem):
    model = model_for(problem)
    adapter, batches = adapter_for(model), pico_batches(model)
    run = DenseRun(model, adapter, batches, 10**6)
    consumer = linear(model, adapter.site(1, "ffn").consumer)
    with torch.no_grad():
        dense = torch.cat([model(**batch).logits for batch in batches])
        consumer.weight[:, :5] = 0
        other = torch.cat([model(**batch).logits for batch in batches])
    if problem == "regression":
        expected = (dense - other).square().sum() / len(dense)
    elif problem == "single_label_classification":
        p, q = dense.log_softmax(1), other.log_softmax(1)
        expected = functional.kl_div(q, p, reduction="sum", log_target=True) / len(dense)
    else:
        p, q = torch.sigmoid(dense), torch.sigmoid(other)
        expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert run.divergence(1) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_gradients_are_those_of_the_loss_of_transformers(problem):
    """One example per batch, as the loss of transformers is a mean over the batch."""
    model = model_for(problem, dtype=torch.float64)
    adapter = adapter_for(model)
    labels = labels_for(problem)
    labels = labels.double() if labels.is_floating_point() else labels
    batch = {**pico_batches(model, count=1)[0], "labels": labels}
    found = mask_gradients(model, adapter, [batch])
    site = adapter.site(2, "ffn")
    consumer = linear(model, site.consumer)
    whole = consumer.weight.detach().clone()
    for row in range(2):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        losses = []
        with torch.no_grad():
            for factor in (1 + 1e-5, 1 - 1e-5):
                consumer.weight.copy_(whole)
                consumer.weight[:, 3] *= factor
                losses.append(float(model(**one).loss))
        consumer.weight.data.copy_(whole)
        slope = (losses[0] - losses[1]) / 2e-5
        assert float(found[site.key][row, 3]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_method_that_reads_outputs_takes_every_problem(problem, name):
    model = model_for(problem, name=name)
    batches = [{**batch, "labels": labels_for(problem)} for batch in pico_batches(model)]
    for method, options in (
        ("stat_plus", {}),
        ("stat_plus", {"curvature": "fisher"}),
        ("fisher", {}),
    ):
        result = stat_repro.compress(model, batches, ratio=0.4, method=method, **options)
        assert bool(torch.isfinite(result.model(**batches[0]).logits).all())
        assert result.model.config.problem_type == problem


BAD_LABELS = {
    "none": (PROBLEMS[1], 3, None, "got none"),
    "a column": (PROBLEMS[1], 3, torch.zeros(4, 1).long(), r"got torch.int64 of shape \(4, 1\)"),
    "none at all": (PROBLEMS[1], 3, torch.full((4,), -100), "got .*, -100 to -100"),
    "too large": (None, 2, torch.full((4,), 2), "class numbers from 0 to 1 .*, 2 to 2"),
    "floats": (None, 3, torch.ones(4), "class numbers .*got torch.float32"),
    "several": (None, 3, torch.ones(4, 3), r"class numbers .*got torch.float32 of shape \(4, 3\)"),
    "one of several": (PROBLEMS[2], 3, torch.ones(4).long(), r"of shape \(B, 3\) .*got"),
    "no probability": (PROBLEMS[2], 3, torch.full((4, 3), 2.0), "values from 0 to 1 .*2 to 2"),
    "a column of numbers": (None, 1, torch.ones(4, 1), r"of shape \(B,\) .*got .*\(4, 1\)"),
    "one target": (PROBLEMS[0], 3, torch.ones(4), r"of shape \(B, 3\) .*got"),
    "no number": (PROBLEMS[0], 1, torch.full((4,), float("nan")), "finite numbers .*nan to nan"),
    "another problem": ("ranking", 3, torch.ones(4).long(), "problem_type: expected one of"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_labels_that_the_loss_would_read_as_something_else_are_refused(case, monkeypatch):
    problem, outputs, labels, message = BAD_LABELS[case]
    model = model_for(problem, outputs)
    batches = pico_batches(model, count=2)
    if labels is not None:
        batches[1]["labels"] = labels
    batches[0]["labels"] = labels_for(PROBLEMS[1]) % outputs
    if outputs == 1:
        batches[0]["labels"] = torch.ones(4)
    elif problem in (PROBLEMS[0], PROBLEMS[2]):
        batches[0]["labels"] = labels_for(problem)
    monkeypatch.setattr(stat_repro.api, "collect_statistics", None)  # refused before that
    with pytest.raises(CalibrationError, match=message):
        stat_repro.compress(model, batches, method="fisher")


def test_gradients_that_are_all_zero_rank_nothing():
    """Examples of one token have no next token to predict."""
    model = pico_model("llama_grouped")
    batches = [{"input_ids": torch.full((4, 1), 7)}]
    with pytest.raises(CalibrationError, match="zeros for all units and examples"):
        stat_repro.compress(model, batches, method="fisher")
