"""stat_plus: its parts, and the method as a whole."""

import pytest
import torch
import transformers as hf
from pico_models import PICO_NAMES, REPRESENTATIVES, pico_batches, pico_model

import stat_repro
from stat_repro.calibration import predictions as all_predictions
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.blockwise import BlockPasses
from stat_repro.calibration.capture import collect_statistics
from stat_repro.calibration.predictions import POSITIONS, divergence, predictions
from stat_repro.calibration.resume import DenseRun
from stat_repro.calibration.spill import MemoryStore
from stat_repro.calibration.streams import StreamRecorder
from stat_repro.config import ConfigError, PruningConfig
from stat_repro.linalg.refit import RefitSums
from stat_repro.methods.base import MethodInput
from stat_repro.methods.correction import fold_site
from stat_repro.methods.gains import site_losses
from stat_repro.methods.stat_plus import FEW_TOKENS, FEW_TOKENS_RIDGE
from stat_repro.methods.stream_refit import refit_to_stream
from stat_repro.models.adapter import adapter_for, linear
from stat_repro.models.residency import AllResident
from stat_repro.surgery import temporarily_pruned

OPTIONS = {"method": "stat_plus", "sensitivity_tokens": 20}


def task_of(name, count=3, **options):
    model = pico_model(name, dtype=torch.float64)
    batches = pico_batches(model, count=count)
    adapter = adapter_for(model)
    calibration = collect_statistics(model, adapter, batches)
    config = PruningConfig(method="stat_plus", correction="affine", refit=True, **options)
    return MethodInput(
        model=model,
        adapter=adapter,
        batches=batches,
        ratio=0.4,
        sequence_length=calibration.mean_length,
        config=config,
        statistics="gram",
        calibration=calibration,
    )


def folded(task, share):
    """Edits that keep the first units of every site."""
    edits = {}
    for site in task.adapter.sites:
        kept = torch.arange(max(1, round(share * site.units)))
        edit, _ = fold_site(task.model, site, kept, task.calibration, task.config)
        edits[site.layer, site.kind] = edit
    return edits


def test_refit_sums_give_the_weighted_least_squares():
    generator = torch.Generator().manual_seed(0)
    inputs, targets, weights = (
        torch.rand(shape, generator=generator, dtype=torch.float64)
        for shape in ((50, 6), (50, 4), (50,))
    )
    sums = RefitSums.empty(6, 4, torch.device("cpu"))
    for part in torch.arange(50).split(20):
        sums.add(inputs[part], targets[part], weights[part])
    weight, bias = sums.solve(1e-12)
    root = weights.sqrt()[:, None]
    design = torch.cat([inputs, torch.ones(50, 1, dtype=torch.float64)], dim=1)
    wanted = torch.linalg.lstsq(design * root, targets * root).solution
    torch.testing.assert_close(torch.cat([weight.T, bias[None]]), wanted, rtol=1e-6, atol=1e-8)
    weak, _ = sums.solve(1e6)
    assert float(weak.abs().max()) < 1e-5
    silent = RefitSums.empty(0, 4, torch.device("cpu"))
    silent.add(inputs[:, :0], targets, torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(silent.solve(0.1)[1], targets.mean(dim=0))


@pytest.mark.parametrize("name", PICO_NAMES)
def test_the_recorded_stream_is_what_the_layer_hands_on(name):
    model = pico_model(name, dtype=torch.float64)
    adapter, batches = adapter_for(model), pico_batches(model, count=2)
    device = torch.device("cpu")
    passes = BlockPasses(model, adapter, AllResident(), batches, MemoryStore(), device)
    passes.start()
    outputs, block = [], model.get_submodule(adapter.blocks[0])
    handle = block.register_forward_hook(
        lambda _, args, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    streams = {"attention": [], "ffn": []}
    recorder = StreamRecorder(
        adapter, 0, list(adapter.sites[:2]), lambda site, _, s: streams[site.kind].append(s)
    )
    passes.advance(0, recorder, "test")
    handle.remove()
    norms = [m for n, m in block.named_modules() if "norm" in n.lower()]
    for batch, out, stream in zip(batches, outputs, streams["ffn"], strict=True):
        rows = batch["attention_mask"].bool()
        with torch.no_grad():
            wanted = stream if adapter.pre_norm else norms[-1](stream)
        torch.testing.assert_close(wanted, out[rows])
    assert not block._forward_pre_hooks
    assert streams["attention"][0].shape == streams["ffn"][0].shape


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_refit_of_an_unpruned_model_changes_nothing(name):
    task = task_of(name)
    edits = folded(task, 1.0)
    for key, edit in refit_to_stream(task, edits).items():
        torch.testing.assert_close(edit.consumer_weight, edits[key].consumer_weight)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_refit_brings_the_stream_closer(name):
    """At the end of the last layer, over the calibration tokens, relative to the dense stream."""
    task = task_of(name, count=6)
    edits = folded(task, 0.7)

    def last_hidden(changed):
        backbone = task.model.get_submodule(task.adapter.backbone)
        with torch.no_grad(), temporarily_pruned(task.model, task.adapter.sites, changed):
            return torch.cat(
                [backbone(**b).last_hidden_state[b["attention_mask"].bool()] for b in task.batches]
            )

    dense = last_hidden([])
    before = (last_hidden([*edits.values()]) - dense).square().mean()
    moved = refit_to_stream(task, edits)
    after = (last_hidden([*moved.values()]) - dense).square().mean()
    assert float(after) < 0.97 * float(before)
    assert {key: edit.kept for key, edit in moved.items()} == {
        key: edit.kept for key, edit in edits.items()
    }


@pytest.mark.parametrize("name", PICO_NAMES)
def test_a_run_resumed_at_a_layer_is_the_whole_run(name):
    task = task_of(name)
    dense = DenseRun(task.model, task.adapter, task.batches, 30)
    edits = folded(task, 0.5)
    for site in task.adapter.sites:
        assert dense.divergence(site.layer) == 0.0
        if site.units == 1:
            continue
        with temporarily_pruned(task.model, [site], [edits[site.layer, site.kind]]):
            resumed = dense.divergence(site.layer)
            assert resumed > 0
            assert resumed == pytest.approx(dense.divergence(0), rel=1e-9)
    assert all("forward" not in m.__dict__ for m in task.model.modules())


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
        found = predictions(model(**batch), mask)
        model.base_model.encoder.layer[1].output.dense.weight.mul_(8.0)
        other = predictions(model(**batch), mask)
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
    (rows,) = predictions(Output(), mask)
    assert len(rows) == 200 // 4 + 100 // 2
    assert len(rows) <= 2 * POSITIONS
    with pytest.raises(TypeError, match="expected a model output with logits"):
        predictions(object(), mask)


def test_a_model_with_one_output_is_compared_by_squares():
    model = pico_model("bert", dtype=torch.float64)
    config = model.config.to_dict() | {"num_labels": 1}
    torch.manual_seed(0)
    single = hf.BertForSequenceClassification(hf.BertConfig(**config)).double().eval()
    result = stat_repro.compress(single, pico_batches(single, count=3), ratio=0.4, **OPTIONS)
    assert result.plan.details["predicted_loss"] > 0


def test_a_site_that_nothing_depends_on_is_cut_first():
    """The last layer's FFN output is multiplied by almost nothing, so its neurons go."""
    model = pico_model("bert", dtype=torch.float64)
    with torch.no_grad():
        linear(model, adapter_for(model).site(2, "ffn").consumer).weight.mul_(1e-4)
    result = stat_repro.compress(model, pico_batches(model, count=4), ratio=0.4, **OPTIONS)
    assert result.plan.neuron_counts[2] == 1
    assert min(result.plan.neuron_counts[:2]) > 1


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_ratios_of_one_calibration_share_the_analysis_and_are_those_of_separate_runs(name):
    model = pico_model(name, dtype=torch.float64)
    batches = pico_batches(model, count=3)
    calibration = stat_repro.calibrate(model, batches)
    for ratio, shared in ((0.3, False), (0.6, True)):
        options = {"ratio": ratio, **OPTIONS}
        together = stat_repro.compress(model, batches, calibration=calibration, **options)
        alone = stat_repro.compress(model, batches, **options)
        assert together.plan == alone.plan
        for key, value in alone.model.state_dict().items():
            assert torch.equal(together.model.state_dict()[key], value)
        assert (together.report.timings["shared_s"] > 0) == shared


def test_losses_are_measured_for_every_site_and_fall_with_size():
    task = task_of("bert", sensitivity_tokens=15)
    eliminations = {
        (s.layer, s.kind): task.calibration.statistics[s.layer, s.kind]
        .centred()
        .elimination(linear(task.model, s.consumer).weight.detach(), s.width, 1e-3)
        for s in task.adapter.sites
    }
    losses = site_losses(task, eliminations, 15)
    for site in task.adapter.sites:
        loss = losses[site.layer, site.kind]
        assert loss.shape == (site.units + 1,)
        assert loss[-1] == 0.0
        assert loss[0] > 0
        assert bool((loss[1:] <= loss[:-1]).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "stat", "refit": True}, "refit=True is an option of stat_plus"),
        ({"method": "flap", "sensitivity_tokens": 9}, "is an option of stat_plus"),
        (
            {"method": "stat_plus", "correction": "none", "refit": True},
            "expected correction=affine",
        ),
        (
            {"method": "stat_plus", "allocation": "uniform", "sensitivity_tokens": 9},
            "expected allocation=global",
        ),
        ({"method": "stat_plus", "sensitivity_tokens": 0}, "sensitivity_tokens"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PruningConfig(**options)


def test_the_first_examples_with_enough_tokens_are_measured():
    task = task_of("bert")
    sizes = torch.cat([batch["attention_mask"].sum(dim=1) for batch in task.batches])
    for wanted in (1, int(sizes[0]), int(sizes[:6].sum()) - 1, int(sizes.sum()) + 5):
        found = DenseRun(task.model, task.adapter, task.batches, wanted).rows  # one per example
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
            reference = predictions(model(**batch), mask)
        seen.clear()
        dense = DenseRun(model, adapter, [batch], 1000)
        weight = linear(model, adapter.site(1, "ffn").consumer).weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(0.5)
        found = dense.divergence(1)
        assert seen == [positions, positions]
        with torch.no_grad():
            now = predictions(model(**batch), mask)
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


def test_outputs_that_are_not_finite_are_told(monkeypatch):
    monkeypatch.setattr(DenseRun, "divergence", lambda self, layer: float("nan"))
    model = pico_model("bert", dtype=torch.float64)
    with pytest.raises(CalibrationError, match=r"layer 0 attention .* with 1 of 4 units"):
        stat_repro.compress(model, pico_batches(model, count=2), ratio=0.4, **OPTIONS)


@pytest.mark.parametrize("correction", ["lstsq", "affine"])
def test_few_tokens_bring_a_ridge_unless_there_is_one(correction, caplog):
    model = pico_model("bert", dtype=torch.float64)
    widest = max(site.columns for site in adapter_for(model).sites)
    few, many = pico_batches(model, count=2), pico_batches(model, count=6)
    tokens = [sum(int(b["attention_mask"].sum()) for b in batches) for batches in (few, many)]
    assert tokens[0] < FEW_TOKENS * widest <= tokens[1]

    def weights(batches, **options):
        caplog.clear()
        options = {**OPTIONS, "correction": correction, **options}
        found = stat_repro.compress(model, batches, ratio=0.4, **options).model
        return torch.cat([value.flatten() for value in found.state_dict().values()])

    by_default = weights(few)
    assert f"{tokens[0]} calibration tokens are fewer than 4 per column" in caplog.text
    assert torch.equal(by_default, weights(few, ridge=FEW_TOKENS_RIDGE))
    assert "per column" not in caplog.text
    own = weights(few, ridge=1e-6)
    assert own.shape != by_default.shape or not torch.allclose(own, by_default)
    weights(many)
    assert "per column" not in caplog.text


def test_time_that_two_analyses_shared_is_counted_for_both():
    """With STAT's sizes both its errors and the elimination were there for the second ratio."""
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model, count=2)
    calibration = stat_repro.calibrate(model, batches)
    timings = [
        stat_repro.compress(
            model, batches, ratio=r, method="stat_plus", allocation="stat", calibration=calibration
        ).report.timings
        for r in (0.3, 0.5)
    ]
    done = timings[0]["eliminate_s"] + timings[0]["errors_s"]
    assert [t["shared_s"] for t in timings] == [0.0, pytest.approx(done)]
