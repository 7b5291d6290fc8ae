"""What a model says on calibration batches, and runs of it that start in the middle."""

import pytest
import torch
import transformers as hf
from method_requests import folded, stat_plus_request
from pico_models import PICO_NAMES, pico_batches, pico_model

import stat_repro
from stat_repro.calibration import divergence as all_predictions
from stat_repro.calibration.divergence import POSITIONS, DenseRun, divergence, predictions
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear
from stat_repro.surgery.edit import temporarily_pruned

OPTIONS = {"method": "stat_plus", "sensitivity_tokens": 20}


@pytest.mark.parametrize("name", PICO_NAMES)
def test_a_run_resumed_at_a_layer_is_the_whole_run(name):
    request = stat_plus_request(name)
    dense = DenseRun(request.model, request.adapter, request.batches, 30)
    edits = folded(request, 0.5)
    for site in request.adapter.sites:
        assert dense.divergence(site.layer) == 0.0
        if site.units == 1:
            continue
        with temporarily_pruned(request.model, [edits[site.layer, site.kind]]):
            resumed = dense.divergence(site.layer)
            assert resumed > 0
            assert resumed == pytest.approx(dense.divergence(0), rel=1e-9)
    assert all("forward" not in m.__dict__ for m in request.model.modules())


HEADS = {
    "classes": hf.BertForSequenceClassification,
    "answers": hf.BertForQuestionAnswering,
    "tokens": hf.BertForTokenClassification,
    "vocabulary": hf.BertForMaskedLM,
    "no head": hf.BertModel,
}


@pytest.mark.parametrize("head", HEADS)
def test_predictions_of_every_head(head):
    torch.manual_seed(0)
    config = hf.BertConfig(**pico_model("bert").config.to_dict() | {"initializer_range": 0.5})
    model = HEADS[head](config).eval()
    batch = pico_batches(model, count=1)[0]
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        found = predictions(model(**batch), mask)[0]
        model.base_model.encoder.layer[1].output.dense.weight.mul_(8.0)
        other = predictions(model(**batch), mask)[0]
    examples, tokens = mask.shape[0], int(mask.sum())
    rows = {"classes": [examples], "answers": [examples] * 2}.get(head, [tokens])
    assert [len(part) for part in found] == rows
    distributions = head != "no head"
    if distributions:
        for part in found:
            torch.testing.assert_close(part.exp().sum(dim=1), torch.ones(len(part)))
    assert divergence(found, found, probabilities=distributions) == 0.0
    assert divergence(found, other, probabilities=distributions) > 0.0


def test_long_examples_are_compared_at_evenly_spread_tokens():
    class Output:
        logits = torch.arange(2 * 200 * 3, dtype=torch.float32).view(2, 200, 3)

    mask = torch.ones(2, 200, dtype=torch.bool)
    mask[1, 100:] = False
    (rows,) = predictions(Output(), mask)[0]
    assert len(rows) == 200 // 4 + 100 // 2
    assert len(rows) <= 2 * POSITIONS


def test_the_first_examples_with_enough_tokens_are_measured():
    request = stat_plus_request("bert")
    sizes = torch.cat([batch["attention_mask"].sum(dim=1) for batch in request.batches])
    for wanted in (1, int(sizes[0]), int(sizes[:6].sum()) - 1, int(sizes.sum()) + 5):
        found = DenseRun(
            request.model, request.adapter, request.batches, wanted
        ).rows  # one per example
        reached = int(sizes[:found].sum())
        assert reached >= min(wanted, int(sizes.sum()))
        assert found == 1 or reached - int(sizes[found - 1]) < wanted


@pytest.mark.parametrize("name", ["llama_grouped", "opt"])
def test_only_the_compared_logits_are_computed_where_no_row_is_padded(name, monkeypatch):
    monkeypatch.setattr(all_predictions, "POSITIONS", 4)
    model = pico_model(name, dtype=torch.float64)
    adapter = adapter_for(model)
    padded, whole = pico_batches(model, count=1)[0], pico_batches(model, count=1, batch_size=1)[0]
    whole = {key: torch.cat([value, value.roll(1, 1)]) for key, value in whole.items()}
    seen = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, args, out: seen.append(out.shape[1])
    )
    for batch, positions in ((padded, 9), (whole, 3)):
        mask = batch["attention_mask"].bool()
        with torch.no_grad():
            reference = predictions(model(**batch), mask)[0]
        seen.clear()
        dense = DenseRun(model, adapter, [batch], 1000)
        weight = linear(model, adapter.site(1, "ffn").consumer).weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(0.5)
        found = dense.divergence(1)
        assert seen == [positions, positions]
        with torch.no_grad():
            now = predictions(model(**batch), mask)[0]
            weight.copy_(before)
        expected = divergence(reference, now, probabilities=True) / len(reference[0])
        assert found == pytest.approx(expected, rel=1e-5)
        assert found > 0
        assert dense.rows == len(reference[0])


def test_multiple_choice_is_measured_by_its_choices():
    torch.manual_seed(0)
    config = hf.BertConfig(**pico_model("bert").config.to_dict() | {"initializer_range": 0.5})
    model = hf.BertForMultipleChoice(config).double().eval()
    batch = pico_batches(model, count=1)[0]
    choices = {key: value.view(2, 2, -1) for key, value in batch.items()}
    dense = DenseRun(model, adapter_for(model), [choices], 10_000)
    assert dense.rows == 2  # one distribution over the choices per example
    result = stat_repro.compress(model, [choices, choices], ratio=0.4, **OPTIONS)
    with torch.no_grad():
        assert result.model(**choices).logits.shape == (2, 2)
