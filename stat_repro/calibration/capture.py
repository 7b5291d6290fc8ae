"""Forward passes over the calibration set with the consumers' inputs reduced on the fly.

Hooks live inside context managers only. The model's state, mode and hooks are the same afterwards,
whatever happens inside.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from stat_repro.calibration.collectors import BLOCK_ROWS, COLLECTORS, Collector
from stat_repro.calibration.sketch import Sketch
from stat_repro.calibration.statistics import SiteStatistics
from stat_repro.models.adapter import Adapter, Site, linear
from stat_repro.models.modes import evaluating
from stat_repro.parallel import exchange, own_share, world
from stat_repro.plan import SiteKind
from stat_repro.progress import track

Batch = Mapping[str, torch.Tensor]


class CalibrationError(ValueError):
    """Calibration input or activations that cannot be used; names the batch or the site."""


@dataclass(frozen=True)
class Calibration:
    """Statistics of sites over one calibration set.

    Attributes:
        statistics: Per (layer, kind).
        tokens: Tokens without padding.
        examples: Rows of the batches.
        derived: What methods worked out from the statistics and the model they were taken on, for
            any ratio; by a key that names the method and the options that matter. So several ratios
            share it as they share the statistics.
    """

    statistics: Mapping[tuple[int, SiteKind], SiteStatistics]
    tokens: int
    examples: int
    derived: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens per example."""
        return self.tokens / self.examples


class _LastSiteSeen(Exception):
    """Ends a forward pass behind the last site; nothing went wrong."""


@contextmanager
def input_hooks(
    model: nn.Module, sites: Sequence[Site], receive: Callable[[Site, torch.Tensor], None]
) -> Iterator[None]:
    """Call `receive(site, input)` with the consumer's input in every forward pass inside."""
    handles = []
    try:
        for site in sites:

            def hook(module: nn.Module, args: tuple[torch.Tensor, ...], site: Site = site) -> None:
                receive(site, args[0])

            handles.append(linear(model, site.consumer).register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def collect_statistics(
    model: nn.Module,
    adapter: Adapter,
    batches: Iterable[Batch],
    *,
    sites: Sequence[Site] | None = None,
    statistics: str = "gram",
    sketch: Sketch | None = None,
    label: str = "calibration",
) -> Calibration:
    """Run the model without its task head over the batches and reduce every site's activations.

    A forward pass ends where the last wanted site has its input. Where several processes work on
    one run, each takes its share of the batches and all get the sums.

    Args:
        model: The model; left as it was, bit for bit.
        adapter: Its adapter.
        batches: Mappings with `input_ids` (B, S) and, where there is padding, `attention_mask`.
            Labels are ignored.
        sites: Sites wanted; all if None.
        statistics: `gram`, `exact` or `sketch`.
        sketch: Which sketch, for `sketch` only; Gaussian of the default size if None.
        label: What the progress line says.

    Raises:
        CalibrationError: No batches, no tokens, unusable masks, non-finite activations, or several
            processes with statistics that are no sums, or with fewer batches.
    """
    make = _collector_maker(statistics, sketch)
    chosen = [site for site in (adapter.sites if sites is None else sites) if site.units]
    backbone = model.get_submodule(adapter.backbone)
    device = next(backbone.parameters()).device
    collectors = {(s.layer, s.kind): make(s, device) for s in chosen}
    last = max(chosen, key=lambda site: (site.layer, site.kind == "ffn"), default=None)
    tokens = examples = 0
    mask = rows = torch.empty(0)

    def receive(site: Site, value: torch.Tensor) -> None:
        # OPT's FFN reads the rows of a batch as one.
        if value.shape[:-1] not in (mask.shape, (mask.numel(),)):
            raise CalibrationError(
                f"{site.name}: expected input of shape {tuple(mask.shape)} + (columns,), got "
                f"{tuple(value.shape)} (chunk_size_feed_forward must be 0)"
            )
        collector, value = collectors[site.layer, site.kind], value.reshape(mask.numel(), -1)
        if len(rows) == len(value):
            collector.add(value)
        else:  # in parts, so that no second copy of a large batch is made
            for part in rows.to(value.device).split(BLOCK_ROWS):
                collector.add(value.index_select(0, part))
        if site is last:
            raise _LastSiteSeen

    options = {"use_cache": False} if adapter.decoder else {}
    with evaluating(model), torch.inference_mode(), input_hooks(model, chosen, receive):
        for batch in track(own_share(batches), label):
            inputs = {k: _rows(k, v) for k, v in batch.items() if k != "labels"}
            mask = token_mask(inputs)
            # Where the batch is, before it goes to the model: no question to an accelerator.
            rows = token_rows(mask).to(device)
            tokens += len(rows)
            examples += mask.shape[0]
            with suppress(_LastSiteSeen):
                backbone(**{k: v.to(device) for k, v in inputs.items()}, **options)
    tokens, examples = _counted_together(tokens, examples)
    return Calibration(
        statistics={
            (s.layer, s.kind): _finish(s, collectors[s.layer, s.kind], tokens) for s in chosen
        },
        tokens=tokens,
        examples=examples,
    )


def count_tokens(batches: Iterable[Batch]) -> Calibration:
    """The size of a calibration set without statistics, for what needs no more of it.

    Raises:
        CalibrationError: No batches, no tokens, or unusable masks.
    """
    tokens = examples = 0
    for batch in batches:
        mask = token_mask({k: _rows(k, v) for k, v in batch.items() if k != "labels"})
        tokens += int(mask.sum())
        examples += mask.shape[0]
    if not tokens:
        raise CalibrationError("the calibration set holds no tokens: expected at least one batch")
    return Calibration(statistics={}, tokens=tokens, examples=examples)


def _counted_together(tokens: int, examples: int) -> tuple[int, int]:
    """Tokens and examples of all processes, each of which must have some."""
    counts = exchange((tokens, examples))
    if not any(count for count, _ in counts):
        raise CalibrationError("the calibration set holds no tokens: expected at least one batch")
    if not all(count for count, _ in counts):
        raise CalibrationError(
            f"calibration: expected a batch for each of {len(counts)} processes; got batches for "
            f"{sum(count > 0 for count, _ in counts)}. Give smaller batches "
            "(calibration.batch_size) or start fewer processes"
        )
    return sum(count for count, _ in counts), sum(count for _, count in counts)


def _collector_maker(
    statistics: str, sketch: Sketch | None
) -> Callable[[Site, torch.device], Collector]:
    if statistics not in COLLECTORS:
        raise CalibrationError(
            f"statistics: expected one of {', '.join(COLLECTORS)}; got {statistics!r}"
        )
    if statistics != "gram" and world().size > 1:
        raise CalibrationError(
            f"several processes add up Gram matrices: expected statistics=gram; got {statistics}, "
            "which runs in one process"
        )
    if statistics == "sketch":
        return partial(COLLECTORS[statistics], sketch=sketch or Sketch())
    if sketch is not None:
        raise CalibrationError(f"a sketch was given: expected statistics=sketch; got {statistics}")
    return COLLECTORS[statistics]


def _finish(site: Site, collector: Collector, tokens: int) -> SiteStatistics:
    """The collected statistics; refused once, at the end, if any activation was not finite."""
    result = collector.finish()
    if result.tokens != tokens:
        raise CalibrationError(
            f"{site.name}: expected activations of {tokens} tokens, got {result.tokens}; the "
            "layers must run in their order, each once"
        )
    values = result.values
    # One pass without a copy; an overflow of the sum alone is looked into.
    if not (bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())):
        raise CalibrationError(f"{site.name}: NaN or infinite activations on the calibration data")
    return result


def _rows(key: str, value: torch.Tensor) -> torch.Tensor:
    """(B, choices, S) of multiple choice as (B * choices, S), which is what the backbone gets."""
    if not isinstance(value, torch.Tensor):
        raise CalibrationError(
            f"calibration batch, key {key}: expected a tensor, got {type(value).__name__}"
        )
    return value.flatten(0, 1) if value.ndim == 3 else value


def token_mask(batch: Batch) -> torch.Tensor:
    """Which positions are tokens and not padding: bool (B, S).

    Raises:
        CalibrationError: No `input_ids`, or an `attention_mask` of another shape.
    """
    if "input_ids" not in batch:
        raise CalibrationError(
            f"a calibration batch needs the key input_ids; got {', '.join(sorted(batch)) or 'none'}"
        )
    ids = batch["input_ids"]
    if "attention_mask" not in batch:
        return torch.ones(ids.shape, dtype=torch.bool, device=ids.device)
    mask = batch["attention_mask"]
    if mask.shape != ids.shape:
        raise CalibrationError(
            f"attention_mask: expected the shape of input_ids {tuple(ids.shape)}, got "
            f"{tuple(mask.shape)}"
        )
    return mask.bool()


def token_rows(mask: torch.Tensor) -> torch.Tensor:
    """Numbers of the tokens among the rows of a batch, shape (tokens,), where the mask is.

    Asks the mask's device how many there are; everything after that need not ask again.
    """
    return mask.view(-1).nonzero().view(-1)
