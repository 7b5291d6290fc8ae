"""A second device without any hardware: `python second_device.py` compresses models on it.

Its tensors are kept by the CPU and computed there, but an operation that meets a tensor of the CPU
is refused, as a GPU would. So code that forgets to move something fails here too. Kernels and
memory of a real device are not imitated: `make gpu` runs on one.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from made_up_matrices import activations
from pico_models import pico_batches, pico_model
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

import stat_repro
from stat_repro.models.projections import UnsupportedModelError

NAME = "second"
MODELS = ("bert", "distilbert", "mpnet", "llama_grouped", "gpt2")
METHODS = {
    "stat": {},
    "stat_plus": {},
    "stat_plus_fisher": {"method": "stat_plus", "curvature": "fisher"},
    "flap": {},
    "shortgpt": {"ratio": 0.5},
}
DECODERS_ONLY = {"fisher": {}}  # encoders would need labels
# Of the weights, relative to the largest of a tensor; attention may take another kernel there.
TOLERANCE = 2e-4

_aten = torch.ops.aten
_MOVES = {_aten.copy_.default, _aten._to_copy.default, _aten.to.device}
# Of real numbers these have no form on a GPU that gives the same in every run.
_UNSTEADY = {_aten.cumsum.default, _aten.nll_loss2d_forward.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default}


def register() -> torch.device:
    """Make the device known to torch, which it stays for the whole process."""
    module = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda seed: None,
        get_rng_state=lambda device: torch.get_rng_state(),
        set_rng_state=lambda state, device: None,
    )
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=module)
    return torch.device(NAME, 0)


class Second(torch.Tensor):
    """A tensor of the device: `raw` has its values."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor, requires_grad: bool = False) -> "Second":
        """`raw` on the device."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(),
            dtype=raw.dtype, device=torch.device(NAME, 0), requires_grad=requires_grad,
        )  # fmt: skip
        made.raw = raw
        return made

    def tolist(self) -> list:
        """As of any tensor: subclasses have none of their own."""
        return self.raw.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Compute on the CPU if everything is on one device."""
        return _computed(func, args, kwargs or {})


def _computed(func, args, kwargs):
    tensors = [one for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)]
    here = [one for one in tensors if isinstance(one, Second)]
    indices = args[1] if func in _INDEXED and isinstance(args[0], Second) else ()
    # Scalars and indices of the CPU are taken by a GPU too.
    others = [
        one
        for one in tensors
        if one.dim() and not isinstance(one, Second) and not any(one is i for i in indices)
    ]
    if here and others and func not in _MOVES:
        raise RuntimeError(f"{func}: expected tensors on one device; got {NAME} and cpu")
    if func in _UNSTEADY and here and here[0].is_floating_point():
        raise RuntimeError(f"{func}: expected an operation that is deterministic on a GPU")
    asked = [one for one in tree_iter((args, kwargs)) if isinstance(one, torch.device)]
    there = any(one.type == NAME for one in asked) if asked else bool(here)
    if func is _aten.copy_.default:
        there = isinstance(args[0], Second)

    def plain(one):
        if isinstance(one, Second):
            return one.raw
        return torch.device("cpu") if isinstance(one, torch.device) else one

    made = func(*tree_map(plain, args), **tree_map(plain, kwargs))
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():  # the shape that the wrapper shows changes as well
            before = torch._C._meta_in_tls_dispatch_include()
            torch._C._set_meta_in_tls_dispatch_include(True)
            func(*args, **kwargs)
            torch._C._set_meta_in_tls_dispatch_include(before)
    known = {id(one.raw): one for one in here}

    def placed(one):
        if not there or not isinstance(one, torch.Tensor) or isinstance(one, Second):
            return one
        return known[id(one)] if id(one) in known else Second(one)

    return tree_map(placed, made)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


class _Constants(TorchFunctionMode):
    """Values of Python become tensors of a device where no dispatch sees it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == NAME:
            return func(*args, **{**kwargs, "device": "cpu"}).to(NAME)
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple):
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in args[1])
            args = (args[0], index)
        return func(*args, **kwargs)


@contextmanager
def second_device() -> Iterator[None]:
    """Inside, tensors can be put on the device. Its views know no inference mode."""
    with mock.patch.object(torch, "inference_mode", _no_grad), _Constants(), _Operations():
        yield


def check(name: str, method: str, device: torch.device) -> None:
    """The plan and the weights are those of the CPU, and all of them are on the device."""
    model = pico_model(name)
    batches = pico_batches(model)
    options = {"ratio": 0.3, "method": method} | (METHODS | DECODERS_ONLY)[method]
    expected = stat_repro.compress(model, batches, **options)
    with second_device():
        result = stat_repro.compress(copy.deepcopy(model).to(device), batches, **options)
        assert result.plan.layers == expected.plan.layers
        weights = expected.model.state_dict()
        for key, value in result.model.state_dict().items():
            assert value.device == device, key
            if value.numel() and value.is_floating_point():
                far = (value.cpu() - weights[key]).abs().max().item()
                assert far <= TOLERANCE * max(weights[key].abs().max().item(), 1e-3), key


def _no_grad(on: bool = True) -> AbstractContextManager[None]:
    return torch.no_grad() if on else nullcontext()


def main() -> None:
    """Refuse a mixture, then compress every model by every method."""
    device = register()
    with second_device():
        matrix = activations(8, 4)
        with pytest.raises(RuntimeError, match="expected tensors on one device"):
            matrix.to(device) @ matrix.T
        spread = pico_model("bert")
        spread.bert.encoder.layer[2].to(device)
        with pytest.raises(
            UnsupportedModelError, match=r"layer\.2.* device; got second:0 beside cpu"
        ):
            stat_repro.compress(spread, pico_batches(spread))
    for name in MODELS:
        for method in (*METHODS, *(DECODERS_ONLY if name in ("llama_grouped", "gpt2") else ())):
            check(name, method, device)
            print(f"{name} {method}: as on the CPU")


if __name__ == "__main__":
    main()
