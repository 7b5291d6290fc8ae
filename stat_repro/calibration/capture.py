"""Forward passes over the calibration set with the consumers' inputs reduced on the fly.

Hooks live inside context managers only. The model's state, mode and hooks are the same afterwards,
whatever happens inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from stat_repro.calibration.statistics import (
    ActivationStatistics,
    GramStatistics,
    SiteStatistics,
)
from stat_repro.models.adapter import Adapter, Site, linear
from stat_repro.models.modes import evaluating
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
    """

    statistics: Mapping[tuple[int, SiteKind], SiteStatistics]
    tokens: int
    examples: int

    @property
    def mean_length(self) -> float:
        """Mean number of tokens per example."""
        return self.tokens / self.examples


class _GramSum:
    """Running G and column sums of one site; float64, on the model's device if that has it."""

    def __init__(self, site: Site, device: torch.device) -> None:
        self.dtype = torch.float64
        home = torch.device("cpu") if device.type == "mps" else device
        self.gram = torch.zeros(site.columns, site.columns, dtype=torch.float64, device=home)
        self.sums = torch.zeros(site.columns, dtype=torch.float64, device=home)
        self.tokens = 0

    def add(self, rows: torch.Tensor) -> None:
        self.dtype = rows.dtype
        rows = rows.to(device=self.gram.device, dtype=torch.float64)
        self.gram.addmm_(rows.T, rows)
        self.sums += rows.sum(dim=0)
        self.tokens += rows.shape[0]

    def finish(self) -> GramStatistics:
        return GramStatistics(self.gram, self.tokens, self.dtype, self.sums)


class _RowStore:
    """All activations of one site, on the CPU."""

    def __init__(self, site: Site, device: torch.device) -> None:
        self.rows: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        self.rows.append(rows.cpu())

    def finish(self) -> ActivationStatistics:
        return ActivationStatistics(activations=torch.cat(self.rows))


_COLLECTORS: dict[str, Callable[[Site, torch.device], _GramSum | _RowStore]] = {
    "gram": _GramSum,
    "exact": _RowStore,
}


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
    label: str = "calibration",
) -> Calibration:
    """Run the model without its task head over the batches and reduce every site's activations.

    Args:
        model: The model; left as it was, bit for bit.
        adapter: Its adapter.
        batches: Mappings with `input_ids` (B, S) and, where there is padding, `attention_mask`.
            Labels are ignored.
        sites: Sites wanted; all if None.
        statistics: `gram` or `exact`.
        label: What the progress line says.

    Raises:
        CalibrationError: No batches, no tokens, unusable masks, or non-finite activations.
    """
    if statistics not in _COLLECTORS:
        raise CalibrationError(
            f"statistics: expected one of {', '.join(_COLLECTORS)}; got {statistics!r}"
        )
    chosen = [site for site in (adapter.sites if sites is None else sites) if site.units]
    backbone = model.get_submodule(adapter.backbone)
    device = next(backbone.parameters()).device
    collectors = {(s.layer, s.kind): _COLLECTORS[statistics](s, device) for s in chosen}
    tokens = examples = 0
    mask = torch.empty(0)

    def receive(site: Site, value: torch.Tensor) -> None:
        if value.shape[:-1] == (mask.numel(),):  # OPT's FFN reads the rows of a batch as one
            value = value.unflatten(0, mask.shape)
        if value.shape[:-1] != mask.shape:
            raise CalibrationError(
                f"{site.name}: expected input of shape {tuple(mask.shape)} + (columns,), got "
                f"{tuple(value.shape)} (chunk_size_feed_forward must be 0)"
            )
        collectors[site.layer, site.kind].add(value[mask.to(value.device)])

    options = {"use_cache": False} if adapter.decoder else {}
    with evaluating(model), torch.inference_mode(), input_hooks(model, chosen, receive):
        for batch in track(batches, label):
            inputs = {k: _rows(k, v).to(device) for k, v in batch.items() if k != "labels"}
            mask = token_mask(inputs)
            tokens += int(mask.sum())
            examples += mask.shape[0]
            backbone(**inputs, **options)
    if not tokens:
        raise CalibrationError("the calibration set holds no tokens: expected at least one batch")
    return Calibration(
        statistics={(s.layer, s.kind): _finish(s, collectors[s.layer, s.kind]) for s in chosen},
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


def _finish(site: Site, collector: _GramSum | _RowStore) -> SiteStatistics:
    """The collected statistics; refused once, at the end, if any activation was not finite."""
    result = collector.finish()
    values = result.gram if isinstance(result, GramStatistics) else result.activations
    if not bool(torch.isfinite(values).all()):
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
