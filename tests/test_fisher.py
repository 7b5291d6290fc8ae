"""Gradients of the mask variables, and what the Fisher method makes of them."""

import itertools

import pytest
import torch
from method_requests import shares_and_agrees
from pico_models import ENCODERS, pico_batches, pico_model
from torch.nn import functional

import stat_repro
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.gradients import mask_gradients
from stat_repro.methods.fisher import fisher_scores, rearranged
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import UnsupportedModelError, linear


def labelled(model, count=2, **options):
    batches = pico_batches(model, count=count, **options)
    return [{**batch, "labels": torch.arange(len(batch["input_ids"])) % 2} for batch in batches]


def example_loss(model, batch, row):
    """The loss of one example alone, cut to its own tokens."""
    length = int(batch["attention_mask"][row].sum())
    ids = batch["input_ids"][row : row + 1, :length]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    if "labels" not in batch:
        return float(functional.cross_entropy(logits[0, :-1], ids[0, 1:]))
    label = batch["labels"][row : row + 1]
    if logits.shape[-1] == 1:
        return float((logits[0, 0] - label[0]) ** 2)
    return float(functional.cross_entropy(logits, label))


def with_mask(model, site, unit, value):
    """The model with one unit's contribution multiplied, by its consumer's columns."""
    weight = linear(model, site.consumer).weight
    columns = slice(unit * site.width, (unit + 1) * site.width)
    kept = weight.data[:, columns].clone()
    weight.data[:, columns] *= value
    return lambda: weight.data[:, columns].copy_(kept)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", {}),
        ("bert", {"num_labels": 1}),
        ("distilbert", {}),
        ("electra", {}),
        ("llama_grouped", {}),
        ("opt", {}),
        ("mistral", {}),
    ],
)
def test_gradients_are_the_finite_differences_of_single_examples(name, options):
    model = pico_model(name, dtype=torch.float64, **options)
    adapter = adapter_for(model)
    batches = labelled(model, 1) if name in ENCODERS else pico_batches(model, 1)
    found = mask_gradients(model, adapter, batches)
    # The norms of decoders compute in float32, so that a smaller step drowns in rounding.
    step = 1e-3
    for site in (adapter.sites[0], adapter.sites[-1]):
        unit = site.units - 1
        for row in (0, 2):
            losses = []
            for value in (1 + step, 1 - step):
                restore = with_mask(model, site, unit, value)
                losses.append(example_loss(model, batches[0], row))
                restore()
            expected = (losses[0] - losses[1]) / (2 * step)
            assert float(found[site.layer, site.kind][row, unit]) == pytest.approx(
                expected, rel=2e-3, abs=2e-4
            )


def test_scores_are_the_mean_squares_of_single_example_gradients():
    model = pico_model("bert", dtype=torch.float64)
    adapter = adapter_for(model)
    batches = labelled(model)
    together = fisher_scores(adapter, mask_gradients(model, adapter, batches))
    alone = [
        {key: value[row : row + 1] for key, value in batch.items()}
        for batch in batches
        for row in range(4)
    ]
    squares = [mask_gradients(model, adapter, [one]) for one in alone]
    for key, scores in together.items():
        expected = torch.stack([found[key][0].square() for found in squares]).mean(dim=0)
        torch.testing.assert_close(scores, expected)


def test_the_model_is_left_as_it_was():
    model = pico_model("bert").train()
    model.classifier.weight.requires_grad_(False)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mask_gradients(model, adapter_for(model), labelled(model))
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_rearrangement_separates_units_that_cancel_each_other():
    """Two units with small gradients of one sign are worse together than one of each sign."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(50, generator=generator, dtype=torch.float64)
    other = torch.randn(50, generator=generator, dtype=torch.float64)
    gradients = torch.stack([common, 1.01 * common, -1.1 * common, 5 * other], dim=1)
    assert rearranged(gradients, 2).tolist() in ([0, 3], [1, 3])
    diagonal = gradients.square().sum(dim=0)
    assert diagonal.argsort()[:2].tolist() == [0, 1]


def test_rearrangement_never_raises_the_block_estimate():
    generator = torch.Generator().manual_seed(3)
    gradients = torch.randn(30, 7, generator=generator, dtype=torch.float64)
    gradients += torch.randn(30, 1, generator=generator, dtype=torch.float64)

    def estimate(gone):
        return float(gradients[:, sorted(gone)].sum(dim=1).square().sum())

    for removed in range(1, 7):
        kept = rearranged(gradients, removed).tolist()
        gone = set(range(7)) - set(kept)
        assert len(gone) == removed
        first = gradients.square().sum(dim=0).argsort()[:removed].tolist()
        assert estimate(gone) <= estimate(first) + 1e-9
        best = min(estimate(c) for c in itertools.combinations(range(7), removed))
        assert estimate(gone) <= 3 * best


def test_fisher_prunes_what_the_loss_does_not_see():
    """Neurons whose consumer columns are zero have no gradient: they go first."""
    model = pico_model("bert", dtype=torch.float64)
    for site in adapter_for(model).of_kind("ffn"):
        linear(model, site.consumer).weight.data[:, ::2] = 0
    batches = labelled(model)
    result = stat_repro.compress(model, batches, ratio=0.1, method="fisher", correction="none")
    dropped = [set(range(20)) - set(layer.kept_neurons) for layer in result.plan.layers]
    assert sum(map(len, dropped)) > 10
    assert all(index % 2 == 0 for layer in dropped for index in layer)
    with torch.no_grad():
        pruned, dense = (m(**batches[0]).logits for m in (result.model, model))
    torch.testing.assert_close(pruned, dense)


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForQuestionAnswering", "Model"])
def test_unknown_losses_are_refused(head):
    model = pico_model("bert", head)
    with pytest.raises(UnsupportedModelError, match=r"ForSequenceClassification.* or ForCausalLM"):
        stat_repro.compress(model, pico_batches(model), method="fisher", correction="none")


def test_missing_labels_and_batches_are_told():
    model = pico_model("bert")
    with pytest.raises(CalibrationError, match="needs the key labels"):
        stat_repro.compress(model, pico_batches(model), method="fisher")
    with pytest.raises(CalibrationError, match="no tokens"):
        stat_repro.compress(model, [], method="fisher")


def test_gradients_that_are_not_finite_name_the_site():
    model = pico_model("bert")
    linear(model, "bert.encoder.layer.1.output.dense").weight.data[0, 0] = float("nan")
    with pytest.raises(CalibrationError, match=r"layer 0 attention .*gradients"):
        mask_gradients(model, adapter_for(model), labelled(model))


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_ratios_of_one_calibration_share_the_gradients_but_other_labels_do_not(name):
    model = pico_model(name, dtype=torch.float64)
    batches = labelled(model) if name == "bert" else pico_batches(model, count=2)
    calibration = stat_repro.calibrate(model, batches)
    points = [(batches, 0.3, False), (batches, 0.5, True)]
    if name == "bert":
        others = [{**batch, "labels": 1 - batch["labels"]} for batch in batches]
        points.append((others, 0.5, False))
    for data, ratio, shared in points:
        options = {"ratio": ratio, "method": "fisher"}
        assert shares_and_agrees(model, data, calibration, **options) == shared
