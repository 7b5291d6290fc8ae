"""stat_plus: its parts, and the method as a whole."""

import pytest
import torch
import transformers as hf
from method_requests import folded, shares_and_agrees, stat_plus_request
from pico_models import PICO_NAMES, REPRESENTATIVES, pico_batches, pico_model

import stat_repro
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.divergence import DenseRun
from stat_repro.calibration.layerwise import LayerPasses, StreamRecorder
from stat_repro.calibration.spill import MemoryStore
from stat_repro.config import ConfigError, PruningConfig
from stat_repro.linalg.elimination import eliminate
from stat_repro.linalg.refit import RefitSums
from stat_repro.methods.site_losses import site_losses
from stat_repro.methods.stat_plus import FEW_TOKENS, FEW_TOKENS_RIDGE
from stat_repro.methods.stream_refit import refit_to_stream
from stat_repro.models.adapter import adapter_for
from stat_repro.models.modes import LayerWeights
from stat_repro.models.projections import linear
from stat_repro.surgery.edit import temporarily_pruned

OPTIONS = {"method": "stat_plus", "sensitivity_tokens": 20}


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
    passes = LayerPasses(model, adapter, LayerWeights(), batches, MemoryStore(), device)
    passes.start()
    inputs, outputs, block = [], [], model.get_submodule(adapter.layer_names[0])

    def keep(_, args, out):
        inputs.append(args[0])
        outputs.append(out[0] if isinstance(out, tuple) else out)

    handle = block.register_forward_hook(keep)
    streams = {"attention": [], "ffn": []}
    recorder = StreamRecorder(
        adapter, 0, list(adapter.sites[:2]), lambda site, _, s: streams[site.kind].append(s)
    )
    passes.advance(0, recorder, "test")
    handle.remove()
    norms = {n: m for n, m in block.named_modules() if "norm" in n.lower()}
    for index, (batch, out) in enumerate(zip(batches, outputs, strict=True)):
        rows = batch["attention_mask"].bool()
        attended, stream = (streams[kind][index] for kind in ("attention", "ffn"))
        with torch.no_grad():
            wanted = stream if adapter.pre_norm else [*norms.values()][-1](stream)
            if (
                adapter.layout.norm_behind
            ):  # the outputs of the consumers, not yet normalised and added
                wanted = inputs[index][rows] + norms["post_attention_layernorm"](attended)
                wanted = wanted + norms["post_feedforward_layernorm"](stream)
        torch.testing.assert_close(wanted, out[rows])
    assert not block._forward_pre_hooks
    assert streams["attention"][0].shape == streams["ffn"][0].shape


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_refit_of_an_unpruned_model_changes_nothing(name):
    request = stat_plus_request(name)
    edits = folded(request, 1.0)
    for key, edit in refit_to_stream(request, edits).items():
        torch.testing.assert_close(edit.consumer_weight, edits[key].consumer_weight)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_refit_brings_the_stream_closer(name):
    """At the end of the last layer, over the calibration tokens, relative to the dense stream."""
    request = stat_plus_request(name, count=6)
    edits = folded(request, 0.7)

    def last_hidden(changed):
        backbone = request.model.get_submodule(request.adapter.backbone)
        with torch.no_grad(), temporarily_pruned(request.model, changed):
            return torch.cat(
                [
                    backbone(**b).last_hidden_state[b["attention_mask"].bool()]
                    for b in request.batches
                ]
            )

    dense = last_hidden([])
    before = (last_hidden([*edits.values()]) - dense).square().mean()
    moved = refit_to_stream(request, edits)
    after = (last_hidden([*moved.values()]) - dense).square().mean()
    assert float(after) < 0.97 * float(before)
    assert {key: edit.kept for key, edit in moved.items()} == {
        key: edit.kept for key, edit in edits.items()
    }


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
        assert shares_and_agrees(model, batches, calibration, **options) == shared


def test_losses_are_measured_for_every_site_and_fall_with_size():
    request = stat_plus_request("bert", sensitivity_tokens=15)
    eliminations = {
        s.key: eliminate(
            request.calibration.statistics[s.key].centred().gram,
            linear(request.model, s.consumer).weight.detach(),
            s.width,
            1e-3,
        )
        for s in request.adapter.sites
    }
    losses = site_losses(request, eliminations, 15)
    for site in request.adapter.sites:
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
