"""Which output directions matter, against gradients taken one by one, and what follows."""

import pytest
import torch
from pico_models import PICO_NAMES, pico_batches, pico_model

import stat_repro
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.curvature import output_curvature
from stat_repro.config import ConfigError, PruningConfig
from stat_repro.linalg.damping import damped_root
from stat_repro.methods import stat_plus
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear

OPTIONS = {"method": "stat_plus", "curvature": "fisher"}


def token_gradients(model, site, batch, score):
    """d score / d (consumer's output), (tokens, D), by shifting what the consumer gives."""
    shift = torch.zeros(1)

    def add(module, args, output):
        nonlocal shift
        shift = torch.zeros_like(output).requires_grad_()
        return output + shift

    handle = linear(model, site.consumer).module.register_forward_hook(add)
    value = score(model(**batch).logits)
    handle.remove()
    (gradient,) = torch.autograd.grad(value, [shift])
    return gradient.reshape(-1, gradient.shape[-1])[batch["attention_mask"].bool().view(-1)]


def one_example(model):
    return {key: value[1:2] for key, value in pico_batches(model, 1)[0].items()}


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_values_are_weighted_by_their_gradients(name):
    """One output and one example: the sign has no say, so there is one right matrix."""
    model = pico_model(name, dtype=torch.float64, num_labels=1)
    adapter, batch = adapter_for(model), one_example(model)
    found = output_curvature(model, adapter, [batch], 3)
    for site in adapter.sites:
        rows = token_gradients(model, site, batch, lambda logits: logits.sum())
        torch.testing.assert_close(
            found[site.layer, site.kind], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-12
        )


def test_two_classes_are_weighted_by_the_fisher_information():
    """Of rank one: p q times the square of the gradient of the logits' difference."""
    model = pico_model("bert", dtype=torch.float64)
    adapter, batch = adapter_for(model), one_example(model)
    with torch.no_grad():
        p, q = model(**batch).logits[0].softmax(dim=-1).tolist()
    found = output_curvature(model, adapter, [batch], 0)
    for site in adapter.sites:
        rows = token_gradients(model, site, batch, lambda logits: logits[0, 0] - logits[0, 1])
        wanted = 0.5 * p * q * rows.T @ rows / len(rows)
        torch.testing.assert_close(found[site.layer, site.kind], wanted, rtol=1e-5, atol=1e-12)


def test_the_signs_of_many_classes_leave_the_fisher_information():
    """Their mean over the draws is that of the exact second moment, class by class."""
    model = pico_model("bert", dtype=torch.float64, num_labels=4)
    adapter, batch = adapter_for(model), one_example(model)
    site = adapter.site(1, "attention")
    with torch.no_grad():
        p = model(**batch).logits[0].softmax(dim=-1)
    wanted = 0.0
    for label in range(4):
        rows = token_gradients(
            model, site, batch, lambda logits, c=label: logits[0].log_softmax(dim=-1)[c]
        )
        wanted = wanted + 0.5 * p[label] * rows.T @ rows / len(rows)
    draws = [output_curvature(model, adapter, [batch], seed)[1, "attention"] for seed in range(300)]
    mean = sum(draws) / len(draws)
    assert float((mean - wanted).norm() / wanted.norm()) < 0.15
    assert not torch.allclose(draws[0], draws[1])


def test_a_small_change_costs_what_the_curvature_says():
    """KL after a small error of one consumer's output, over many draws of it."""
    model = pico_model("bert", dtype=torch.float64)
    adapter, batches = adapter_for(model), pico_batches(model, 6)
    site = adapter.site(2, "ffn")
    curvature = output_curvature(model, adapter, batches, 0)[2, "ffn"]
    generator = torch.Generator().manual_seed(0)
    told = measured = 0.0
    consumer = linear(model, site.consumer)
    for _ in range(40):
        errors, rows = [], []

        def disturb(module, args, output, errors=errors):
            errors.append(1e-3 * torch.randn(output.shape, generator=generator).to(output))
            return output + errors[-1]

        for batch in batches:
            with torch.no_grad():
                dense = model(**batch).logits.log_softmax(dim=-1)
                handle = consumer.module.register_forward_hook(disturb)
                other = model(**batch).logits.log_softmax(dim=-1)
                handle.remove()
            measured += float((dense.exp() * (dense - other)).sum())
            rows.append(errors[-1][batch["attention_mask"].bool()])
        error = torch.cat(rows)
        told += float((curvature @ error.T @ error).trace())
    examples = sum(len(batch["input_ids"]) for batch in batches)
    assert told == pytest.approx(measured / examples, rel=0.2)


@pytest.mark.parametrize("name", PICO_NAMES)
def test_every_architecture_is_pruned_and_left_as_it_was(name):
    model = pico_model(name, dtype=torch.float64)
    adapter, batches = adapter_for(model), pico_batches(model, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = output_curvature(model, adapter, batches, 0)
    assert set(found) == {(s.layer, s.kind) for s in adapter.sites if s.units}
    for matrix in found.values():
        torch.testing.assert_close(matrix, matrix.T)
        assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-9 * float(matrix.trace())
        assert float(matrix.trace()) > 0
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())
    result = stat_repro.compress(model, batches, ratio=0.2, **OPTIONS)
    assert 0.7 < result.report.mac_kept_fraction <= 0.8 + 1e-9
    assert "curvature_s" in result.report.timings
    assert "sensitivity_s" not in result.report.timings
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.2])
def test_the_predicted_loss_is_near_the_loss(ratio, monkeypatch):
    """Of a model whose neurons are cut, on the calibration examples; both span two magnitudes."""
    monkeypatch.setattr(stat_plus, "CURVATURE_FLOOR", 0.0)
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model, 20)
    result = stat_repro.compress(model, batches, ratio=ratio, kinds="ffn", refit=False, **OPTIONS)
    loss = examples = 0.0
    with torch.no_grad():
        for batch in batches:
            dense, pruned = (m(**batch).logits.log_softmax(dim=-1) for m in (model, result.model))
            loss += float((dense.exp() * (dense - pruned)).sum())
            examples += len(dense)
    assert result.plan.details["predicted_loss"] == pytest.approx(loss / examples, rel=0.5)


def test_the_draw_belongs_to_the_seed():
    model = pico_model("bert", dtype=torch.float64, num_labels=3)
    adapter, batches = adapter_for(model), pico_batches(model, 2)
    first, again = (output_curvature(model, adapter, batches, 1) for _ in range(2))
    other = output_curvature(model, adapter, batches, 2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_calibration_is_not_shared_between_seeds():
    model = pico_model("bert", dtype=torch.float64, num_labels=3)
    batches = pico_batches(model, 3)
    calibration = stat_repro.calibrate(model, batches)
    for seed in (0, 1):
        options = {"ratio": 0.5, "seed": seed, **OPTIONS}
        shared = stat_repro.compress(model, batches, calibration=calibration, **options)
        alone = stat_repro.compress(model, batches, **options)
        assert shared.plan == alone.plan


def test_a_site_that_is_cut_after_it_was_weighted_has_the_errors_of_its_own_outputs():
    """The weighting chooses units; what the report tells is the plain relative error."""
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model, 6)
    result = stat_repro.compress(model, batches, ratio=0.4, refit=False, **OPTIONS)
    for error in result.report.site_errors:
        assert 0.0 <= error.relative_error < 1.0
    dense, pruned = (m.bert.encoder.layer[0].output.dense for m in (model, result.model))
    rows = []
    handle = dense.register_forward_pre_hook(lambda module, args: rows.append(args[0]))
    for batch in batches:
        model(**batch)
        rows[-1] = rows[-1][batch["attention_mask"].bool()]
    handle.remove()
    inputs = torch.cat(rows)
    with torch.no_grad():
        wanted = dense(inputs)
        missing = wanted - pruned(inputs[:, list(result.plan.layers[0].kept_neurons)])
        relative = float(missing.norm() / (wanted - dense.bias).norm())
    (told,) = (e for e in result.report.site_errors if (e.layer, e.kind) == (0, "ffn"))
    assert 0 < told.kept < told.units
    assert told.relative_error == pytest.approx(relative, rel=1e-6)


def test_bad_outputs_are_told_with_the_site():
    model = pico_model("bert", dtype=torch.float64)
    adapter = adapter_for(model)
    with torch.no_grad():
        linear(model, adapter.site(0, "ffn").consumer).bias.fill_(torch.nan)
    with pytest.raises(CalibrationError, match=r"layer 0 attention.*NaN or infinite gradients"):
        output_curvature(model, adapter, pico_batches(model, 1), 0)


def test_the_root_of_a_damped_matrix():
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = rows.T @ rows
    root = damped_root(gram, 0.1)
    wanted = gram + 0.1 * gram.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(root @ root, wanted)
    torch.testing.assert_close(root, root.T)
    assert torch.equal(damped_root(torch.zeros_like(gram), 0.1), torch.zeros_like(gram))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "stat", "curvature": "fisher"}, "curvature=fisher is an option of stat_plus"),
        ({"method": "stat_plus", "curvature": "hessian"}, "curvature"),
        ({**OPTIONS, "sensitivity_tokens": 9}, "expected allocation=global and curvature=none"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PruningConfig(**options)


@pytest.mark.parametrize("name", ["bert", "opt"])
@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForQuestionAnswering", "Model"])
def test_the_size_of_batches_and_their_padding_change_nothing(name, head):
    """Signs were drawn batch by batch, so that another batch size gave other units."""
    model = pico_model(name, head, dtype=torch.float64, num_labels=2 + (head[3] == "S"))
    rows = [
        {
            key: value[i : i + 1, : int(batch["attention_mask"][i].sum())]
            for key, value in batch.items()
        }
        for batch in pico_batches(model, 2)
        for i in range(4)
    ]
    alone, together = (
        output_curvature(model, adapter_for(model), batches, 0)
        for batches in (rows, pico_batches(model, 2))
    )
    for key, matrix in alone.items():
        torch.testing.assert_close(together[key], matrix, rtol=1e-6, atol=1e-9)
