"""The calibration set on its way through a model, one transformer layer at a time.

All batches pass through a layer before the next layer begins, so that the weights and statistics of
one layer are needed at a time. The arguments of a layer (masks, rotary embeddings, positions) are
those of the usual forward pass of transformers, recorded once with layers that do nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from stat_repro.calibration.batches import CalibrationBatch, layer_input, layer_output
from stat_repro.calibration.passes import PassEnded, Watcher, run_backbone
from stat_repro.calibration.spill import TensorStore
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.modes import LayerWeights, evaluating, forwards_replaced
from stat_repro.models.projections import linear
from stat_repro.progress import track


@dataclass(frozen=True)
class _Slot:
    """The place of a stored tensor in recorded arguments."""

    index: int


@dataclass
class LayerPasses:
    """Hidden states of all batches in front of one layer.

    Attributes:
        model: The model; what is not resident may be on the meta device.
        adapter: Its adapter.
        weights: Brings weights into memory. `start` loads those outside the layers; `advance`
            expects the layer to be loaded already.
        batches: Calibration batches; where several processes work on one run, each takes its share.
        store: Where hidden states and arguments wait.
        device: Where layers run.
    """

    model: nn.Module
    adapter: Adapter
    weights: LayerWeights
    batches: Iterable[CalibrationBatch]
    store: TensorStore
    device: torch.device
    _masks: list[torch.Tensor] = field(default_factory=list, init=False)
    # Of every batch: the arguments of every layer.
    _calls: list[list[Any]] = field(default_factory=list, init=False)

    def start(self) -> None:
        """Put all batches in front of the first layer."""
        self._masks, self._calls = [], []
        layers = [self.model.get_submodule(name) for name in self.adapter.layer_names]

        @contextmanager
        def recorded(mask: torch.Tensor) -> Iterator[None]:
            calls: list[Any] = []
            with _recorded(layers, calls, self.adapter), suppress(PassEnded):
                yield
            tensors: list[torch.Tensor] = []
            index = len(self._masks)
            self._masks.append(mask.cpu())
            self._calls.append([tree_map(partial(_slot, tensors), call[1:]) for call in calls])
            self.store.put(f"hidden-{index}", [calls[0][0]])
            self.store.put(f"arguments-{index}", tensors)

        with self.weights.outside():
            label = "embedding the calibration set"
            run_backbone(self.model, self.adapter, self.batches, self.device, recorded, label)

    def advance(self, layer: int, watcher: Watcher, label: str) -> None:
        """Take all batches through a layer; after the last one they are not kept.

        Args:
            layer: The layer that the batches have reached.
            watcher: Sees what happens in the layer. Where it ends a forward pass early, the batch
                stays in front of the layer.
            label: Text of the progress line.
        """
        module = self.model.get_submodule(self.adapter.layer_names[layer])
        last = layer == self.adapter.num_layers - 1
        with evaluating(module), torch.inference_mode(), watcher.hooks(self.model):
            for index in track(range(len(self._masks)), label):
                tensors = [t.to(self.device) for t in self.store.get(f"arguments-{index}")]
                call = self._calls[index][layer]
                arguments, options = tree_map(partial(_tensor, tensors), call)
                hidden = self.store.get(f"hidden-{index}")[0].to(self.device)
                with watcher.batch(self._masks[index], ends=last):
                    hidden = module(hidden, *arguments, **options)
                    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
                    if not last:
                        self.store.put(f"hidden-{index}", [hidden])


def _recorded(
    layers: list[nn.Module], calls: list[Any], adapter: Adapter
) -> AbstractContextManager[None]:
    """Make the layers hand their input on and write down how they were called.

    A call is (hidden states, further positional arguments, keyword arguments).
    """

    def record(layer: int, hidden_states: torch.Tensor, *rest: Any, **options: Any) -> Any:
        calls.append((hidden_states, rest, options))
        if layer == len(layers) - 1:
            raise PassEnded
        return layer_output(adapter, hidden_states)

    return forwards_replaced(layers, [partial(record, layer) for layer in range(len(layers))])


def _slot(tensors: list[torch.Tensor], value: Any) -> Any:
    """A slot in place of a tensor, which goes to the list if it is not there yet."""
    if not isinstance(value, torch.Tensor):
        return value
    known = [i for i, tensor in enumerate(tensors) if tensor is value]
    if not known:
        tensors.append(value)
    return _Slot(known[0] if known else len(tensors) - 1)


def _tensor(tensors: list[torch.Tensor], value: Any) -> Any:
    """The tensor of a slot."""
    return tensors[value.index] if isinstance(value, _Slot) else value


# Gets the site, what its consumer reads (n, columns), and the stream behind it (n, D), or what
# stands for it; n tokens.
Receiver = Callable[[Site, torch.Tensor, torch.Tensor], None]


@dataclass
class StreamRecorder(Watcher):
    """Watches the residual stream behind the sites of one layer; for `LayerPasses.advance`.

    A consumer's output is added to the stream in front of its site; the sum is what later layers
    read. Post-norm models (BERT) normalise the sum at once, pre-norm models (Llama) hand it on.
    Where a norm stands between the consumer and the sum (Gemma, OLMo-2), the sum is no linear
    function of the consumer any more, and the norm takes the scale of every token away: there the
    consumer's own output stands for the stream.

    Attributes:
        adapter: The model's adapter.
        layer: The layer.
        sites: Sites of it that are wanted, attention first.
        receive: Called for every wanted site in every batch.
        stop: The site where the forward pass ends, so that batches stay in front of the layer;
            None lets them pass.
    """

    adapter: Adapter
    layer: int
    sites: list[Site]
    receive: Receiver
    stop: Site | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self._before = self._between = torch.empty(0)

    def _handles(self, model: nn.Module) -> Iterator[RemovableHandle]:
        layer = model.get_submodule(self.adapter.layer_names[self.layer])
        yield layer.register_forward_pre_hook(self._enter, with_kwargs=True)
        if self.adapter.pre_norm:
            output_name = self.adapter.site(self.layer, "attention").consumer
            attention = model.get_submodule(output_name.rpartition(".")[0])
            yield attention.register_forward_hook(self._attended)
        else:
            producer = linear(model, self.adapter.site(self.layer, "ffn").producers[0].module)
            yield producer.module.register_forward_pre_hook(self._normalised)
        for site in self.sites:
            consumer = linear(model, site.consumer).module
            yield consumer.register_forward_hook(partial(self._consumed, site))

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._before = layer_input(args, kwargs)

    def _attended(self, module: nn.Module, args: Any, output: Any) -> None:
        added = output[0] if isinstance(output, tuple) else output
        self._between = self._before + added

    def _normalised(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self._between = args[0]

    def _consumed(self, site: Site, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        stream = output.reshape(-1, output.shape[-1])
        if not self.adapter.layout.norm_behind:
            start = self._before if site.kind == "attention" else self._between
            stream = start.reshape(-1, start.shape[-1]) + stream
        rows = self._rows.to(stream.device)
        inputs = args[0].reshape(len(stream), -1)
        self.receive(site, inputs.index_select(0, rows), stream.index_select(0, rows))
        if site is self.stop:
            raise PassEnded
