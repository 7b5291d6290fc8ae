"""The consumers' inputs reduced to statistics as they come in forward passes."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from stat_repro.calibration.batches import (
    CalibrationBatch,
    CalibrationError,
    model_inputs,
    token_mask,
)
from stat_repro.calibration.collectors import (
    BUFFER_ROWS,
    COLLECTORS,
    GPU_BUFFER_ROWS,
    Collector,
)
from stat_repro.calibration.passes import PassEnded, Watcher, run_backbone
from stat_repro.calibration.sketch import Sketch
from stat_repro.calibration.statistics import SiteStatistics
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.projections import linear
from stat_repro.parallel import exchange, world
from stat_repro.plan import SiteKind


@dataclass(frozen=True)
class Calibration:
    """Statistics of sites over one calibration set.

    Attributes:
        statistics: Per (layer, kind).
        tokens: Tokens without padding.
        examples: Rows of the batches.
        digest: sha256 of the batches (`read_batches`); None where they were not read once.
        model: That of the model (`model_digest`); None where it is not known.
        kind: Which statistics, with their sketch (`statistics_kind`); None where it is not known.
        derived: What methods computed from the statistics and the model, if it holds for any ratio;
            by a key that names the method and the options that matter. Several ratios share it as
            they share the statistics.
    """

    statistics: Mapping[tuple[int, SiteKind], SiteStatistics]
    tokens: int
    examples: int
    digest: str | None = None
    model: str | None = None
    kind: str | None = None
    derived: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens per example."""
        return self.tokens / self.examples


def statistics_kind(statistics: str, sketch: Sketch | None) -> str:
    """The statistics in one word, of a sketch with what it was drawn by."""
    return f"{statistics} {sketch or Sketch()}" if statistics == "sketch" else statistics


class Reduction(Watcher):
    """Reduces the activations of some sites while forward passes run.

    Args:
        sites: Sites wanted; those without units are left out.
        device: Device of the model.
        statistics: `gram`, `exact` or `sketch`.
        sketch: Which sketch, for `sketch` only; Gaussian of the default size if None.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        device: torch.device,
        statistics: str = "gram",
        sketch: Sketch | None = None,
    ) -> None:
        super().__init__()
        make = _collector_maker(statistics, sketch)
        self._kind = statistics_kind(statistics, sketch)
        self.sites = [site for site in sites if site.units]
        self._collectors = {site.key: make(site, device) for site in self.sites}
        self._last = max(self.sites, key=lambda s: (s.layer, s.kind == "ffn"), default=None)

    def _handles(self, model: nn.Module) -> Iterator[RemovableHandle]:
        for site in self.sites:
            consumer = linear(model, site.consumer).module
            yield consumer.register_forward_pre_hook(partial(self._receive, site))

    def _receive(self, site: Site, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        mask, rows, value = self._mask, self._rows, args[0]
        # OPT's FFN reads the examples of a batch as one long sequence.
        if value.shape[:-1] not in (mask.shape, (mask.numel(),)):
            raise CalibrationError(
                f"{site.name}: expected input of shape {tuple(mask.shape)} + (columns,); got "
                f"{tuple(value.shape)} (chunk_size_feed_forward must be 0)"
            )
        collector = self._collectors[site.key]
        value = value.reshape(mask.numel(), -1)
        if len(rows) == len(value):
            collector.add(value)
        else:  # in parts: a copy of a large batch would need its memory twice
            size = GPU_BUFFER_ROWS if value.is_cuda else BUFFER_ROWS
            for part in rows.to(value.device).split(size):
                collector.add(value.index_select(0, part))
        if site is self._last and self._ends:
            raise PassEnded

    def finish(self) -> Calibration:
        """The statistics, summed over all processes of the run; call it once, at the end.

        Raises:
            CalibrationError: A process without tokens, sites that did not see all of them, or
                non-finite values.
        """
        tokens, examples = _counted_together(self.tokens, self.examples)
        statistics = {s.key: _finish(s, self._collectors.pop(s.key), tokens) for s in self.sites}
        return Calibration(statistics, tokens, examples, kind=self._kind)


def collect_statistics(
    model: nn.Module,
    adapter: Adapter,
    batches: Iterable[CalibrationBatch],
    *,
    sites: Sequence[Site] | None = None,
    statistics: str = "gram",
    sketch: Sketch | None = None,
    label: str = "statistics of the dense model",
) -> Calibration:
    """Run the model without its task head over the batches and reduce every site's activations.

    A forward pass ends once the last wanted site has its input. If several processes work on one
    run, each takes its share of the batches and all get the sums.

    Args:
        model: The model; left as it was, bit for bit.
        adapter: Its adapter.
        batches: Mappings with `input_ids` (B, S) and, where there is padding, `attention_mask`.
            Labels are ignored.
        sites: Sites wanted; all if None.
        statistics: `gram`, `exact` or `sketch`.
        sketch: Which sketch, for `sketch` only; Gaussian of the default size if None.
        label: Text of the progress line.

    Raises:
        CalibrationError: Unusable masks, non-finite activations, fewer batches than processes, or
            several processes with statistics that are no sums.
    """
    device = next(model.get_submodule(adapter.backbone).parameters()).device
    reduction = Reduction(adapter.sites if sites is None else sites, device, statistics, sketch)
    with reduction.hooks(model):
        around = partial(reduction.batch, ends=True)
        run_backbone(model, adapter, batches, device, around, label)
    return reduction.finish()


def count_tokens(batches: Iterable[CalibrationBatch]) -> Calibration:
    """Count the tokens of a calibration set, for methods that need no statistics."""
    tokens = examples = 0
    for batch in batches:
        mask = token_mask(model_inputs(batch))
        tokens += int(mask.sum())
        examples += mask.shape[0]
    return Calibration(statistics={}, tokens=tokens, examples=examples)


def _counted_together(tokens: int, examples: int) -> tuple[int, int]:
    """Tokens and examples of all processes together; every process must have some."""
    counts = exchange((tokens, examples))
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
            "which needs a single process"
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
            f"{site.name}: expected activations of {tokens} tokens; got {result.tokens}. Every "
            "layer must run once, in order"
        )
    if not bool(torch.isfinite(result.square_sums).all()):
        raise CalibrationError(f"{site.name}: NaN or infinite activations on the calibration data")
    return result
