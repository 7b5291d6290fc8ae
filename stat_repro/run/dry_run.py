"""What a run would do, counted from the shapes of model and data; no weight is read."""

import numpy as np
import torch

from stat_repro.allocation.allocate import allocate_ranked
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.costs import prunable_costs, unit_costs
from stat_repro.allocation.rounding import final_sizes
from stat_repro.calibration.capture import count_tokens
from stat_repro.config import METHODS, RunConfig
from stat_repro.config.pruning import counts_macs
from stat_repro.cost.latency import time_in_turns
from stat_repro.data.task_data import TaskData
from stat_repro.finetune.recipe import has_task_head
from stat_repro.finetune.training_data import TrainingSentences
from stat_repro.measure import resolve_device
from stat_repro.methods.shortgpt import layers_to_remove
from stat_repro.models import loading
from stat_repro.models.adapter import Adapter, adapter_for, drop_pooler
from stat_repro.models.tensor_files import ShardedCheckpoint
from stat_repro.plan import LayerPlan, PruningPlan
from stat_repro.reporting.tables import before_and_after, to_text
from stat_repro.run.sweep_cache import Data, load_data, within_positions, workload_of

_SIDE = 1024  # of the matrices that are multiplied to see how fast this machine is


def forecast(config: RunConfig) -> str:
    """Sizes, memory and time of a run in words; counted, except the speed of this machine."""
    config = within_positions(config)
    data = load_data(config)
    loaded = _without_weights(config, data)
    workload = workload_of(data, loaded, config)
    adapter, length = adapter_for(loaded.model), workload.sequence_length
    plan = equal_shares(adapter, config, length)
    counts = count_tokens(workload.calibration(config.calibration, config.seed).batches)
    dense, cut = prunable_costs(adapter, length), prunable_costs(adapter, length, plan)
    params = loaded.model.num_parameters()
    width = getattr(torch, config.dtype).itemsize
    saved = getattr(torch, config.save_dtype or config.dtype).itemsize
    after = params - dense.params + cut.params
    costs = {
        "params": {"dense": params, "pruned": after},
        "prunable_macs_per_token": {"dense": dense.macs, "pruned": cut.macs},
        "size_bytes": {"dense": params * saved, "pruned": after * saved},
    }
    tokens = counts.tokens
    sums = sum(8 * site.columns**2 for site in adapter.sites)
    passes, float64 = operations(adapter, plan, length, tokens)
    device = resolve_device(config.device)
    speeds = [_speed(device, kind) for kind in (getattr(torch, config.dtype), torch.float64)]
    seconds = passes / speeds[0] + float64 / speeds[1]
    trained = config.recovery.method != "none"
    further = f", {config.recovery.steps} steps of training" if trained else ""
    return "\n".join(
        [
            "Dry run: nothing was pruned or written. Counted, not measured:",
            "",
            to_text(before_and_after(costs, {"dense": {}, "pruned": {}, "fidelity": {}})),
            f"calibration: {counts.examples} examples of {config.dataset.name}, {tokens:,} tokens",
            f"plan: {_in_words(plan)}",
            f"memory: weights {(params + after) * width / 1e6:,.0f} MB, statistics "
            f"{sums / 1e6:,.0f} MB; activations and workspace come on top",
            f"work of stat: {passes / 1e12:,.2f} TFLOP in forward passes, {float64 / 1e12:,.2f} "
            "TFLOP in float64 (docs/scaling.md)",
            f"time: about {seconds:,.0f} s at the speed of large matrix products here, "
            f"timed just now ({speeds[0] / 1e9:,.0f} and {speeds[1] / 1e9:,.0f} GFLOP/s on "
            f"{device}); loading{further} and evaluation come on top",
        ]
    )


def _without_weights(config: RunConfig, data: Data) -> loading.LoadedModel:
    """The model of a run on the meta device, with the head that would be trained for sentences."""
    folder, task = loading.checkpoint_folder(config.model), config.dataset.task
    settings = loading.load_config(folder)
    if isinstance(data, TaskData) and not has_task_head(folder, task):
        settings.update(TrainingSentences(data, config.dataset.max_length).head)
    with torch.device("meta"), loading.explained_refusal(folder, task):
        model = loading.TASK_CLASSES[task].from_config(settings, dtype=getattr(torch, config.dtype))
    drop_pooler(model, ShardedCheckpoint(folder).entries)
    return loading.LoadedModel(model.eval(), loading.load_tokenizer(folder), folder)


def equal_shares(adapter: Adapter, config: RunConfig, length: float) -> PruningPlan:
    """A plan with the sizes that equal shares of every layer have.

    Raises:
        BudgetError: A ratio that cannot be met.
    """
    costs, options = unit_costs(adapter, length), config.pruning
    counts_macs(options, "a dry run times no model")
    whole = list(zip(costs.heads, costs.neurons, strict=True))
    if METHODS[options.method].whole_layers:
        of_layers = [costs.head * heads + costs.neuron * neurons for heads, neurons in whole]
        last = list(range(len(whole)))[::-1]  # which ones go depends on the calibration
        gone = layers_to_remove(of_layers, last, config.ratio)
        kept_units = [(0, 0) if i in gone else units for i, units in enumerate(whole)]
    else:
        if options.neuron_mac_share is not None:
            costs = costs.with_neuron_share(options.neuron_mac_share)
        budget = Budget(costs, config.ratio, options.min_units, options.kinds)
        heads, neurons = ([np.zeros(n) for n in units] for units in (costs.heads, costs.neurons))
        sizes = allocate_ranked(heads, neurons, budget, uniform=True, split="proportional")
        sizes = final_sizes(sizes, neurons, budget, config.round_to)
        kept_units = list(zip(sizes.heads, sizes.neurons, strict=True))
    layers = ((*kept, *units) for kept, units in zip(kept_units, whole, strict=True))
    kept = tuple(LayerPlan(tuple(range(h)), tuple(range(n)), H, N) for h, n, H, N in layers)
    return PruningPlan(kept, options.method)


def _in_words(plan: PruningPlan) -> str:
    layer, number = plan.layers[0], len(plan.layers)
    if METHODS[plan.method].whole_layers:
        gone = sum(not (one.kept_heads or one.kept_neurons) for one in plan.layers)
        return f"{gone} of {number} layers would go; which ones, the calibration decides"
    return (
        f"with equal shares the first of {number} layers would keep {len(layer.kept_heads)} of "
        f"{layer.heads} heads and {len(layer.kept_neurons)} of {layer.neurons} neurons; "
        f"{plan.method} chooses the sizes from the calibration for the same MACs, so the "
        "parameters may differ somewhat"
    )


def operations(
    adapter: Adapter, plan: PruningPlan, length: float, tokens: int
) -> tuple[float, float]:
    """FLOPs of STAT's forward passes, and those in float64: sums, pivots, folds.

    The formulas are those of docs/scaling.md.
    """
    passes = float64 = 0.0
    for site in adapter.sites:
        kept = len(plan.layers[site.layer].kept(site.kind))
        columns, rest = site.columns, kept * site.width
        dense = 2 * tokens * site.units * site.unit_macs(length)
        # The second pass runs with all heads and the neurons that are kept.
        again = 1.0 if site.kind == "attention" else kept / max(1, site.units)
        passes += dense * (1 + again)
        float64 += tokens * columns**2 * (2 if site.kind == "attention" else 1)
        float64 += columns**3 / 3 + rest**3 / 3 + 2 * columns**2 * rest
    return passes, float64


def _speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of a large matrix product, the best of a few."""
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    (seconds,) = time_in_turns([lambda: matrix @ matrix], device, warmup=1, repeats=7)
    return 2 * _SIDE**3 / min(seconds)
