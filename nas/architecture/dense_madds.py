"""Counts the multiply-adds of convolutions, matrix products and attention, however a module spells them.

fvcore counts what PyTorch's tracer records, by name; it takes other spellings of the same operation for nothing. Below
the dispatcher each spelling is one of a few operations of ATen, which are counted here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FVCORE_NAMES = frozenset(("conv", "linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "einsum"))
"""What fvcore calls the operations that are counted here."""

_aten = torch.ops.aten


class UncountableError(Exception):
    """An operation whose multiply-adds are not known was run."""


def _convolution(args: Sequence[Any], out: Any) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    pixels = (x if transposed else out).shape[2:]
    return int(math.prod(pixels)) * int(x.shape[0]) * int(weight.numel())


def _product(first: int) -> Callable[[Sequence[Any], Any], int]:
    """The rule of (…, m, k) × (…, k, n), whose first factor is the argument of that index."""
    return lambda args, out: int(out.numel()) * int(args[first].shape[-1])


def _attention(args: Sequence[Any], out: Any) -> int:
    query, key, value = args[:3]
    return int(math.prod(query.shape[:-1])) * int(key.shape[-2]) * (int(key.shape[-1]) + int(value.shape[-1]))


_RULES: Mapping[Any, Callable[[Sequence[Any], Any], int]] = {
    _aten.convolution: _convolution,
    _aten.mm: _product(0),
    _aten.bmm: _product(0),
    _aten.mv: _product(0),
    _aten.dot: lambda args, out: int(args[0].numel()),
    _aten.addmm: _product(1),
    _aten.addmv: _product(1),
    _aten.baddbmm: _product(1),
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention: _attention,
    _aten._scaled_dot_product_efficient_attention: _attention,
    _aten._scaled_dot_product_cudnn_attention: _attention,
}
_COSTLY = (
    "conv",
    "mm",
    "attention",
    "fft",
    "linalg",
    "rnn",
    "lstm",
    "gru",
    "cdist",
    "trilinear",
    "grid_sampler",
    "bag",
)
"""Parts of the names of ATen's other operations that multiply and add; all others do little for each value."""
_CHEAP = frozenset(("linalg_vector_norm", "lgamma", "lgamma_", "digamma", "digamma_", "polygamma", "special_gammaln"))
"""Names that have such a part and do little for each value all the same."""


def _is_costly(name: str) -> bool:
    if name in _CHEAP or name.startswith(("_convert", "upsample")):
        return False
    return any(part in name for part in _COSTLY)


class MaddsCounter(TorchDispatchMode):
    """Counts multiply-adds as operations are run; a subclass has the rules.

    Attributes:
        madds: counted so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.madds = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # True would import PyTorch's compiler, which takes seconds; nothing is compiled here.
        return False


class _DenseCounter(MaddsCounter):
    """Counts convolutions, matrix products and attention."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        rule = _RULES.get(operation)
        if rule is not None:
            self.madds += rule(args, out)
        elif func.namespace not in ("aten", "prim", "prims") or _is_costly(operation.__name__):
            raise UncountableError(f"{func.namespace}::{operation.__name__}")
        return out


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let nn.MultiheadAttention run its parts one by one, in evaluation mode too."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def dense_madds(module: torch.nn.Module, x: Tensor) -> int:
    """The multiply-adds of a module's convolutions, matrix products and attention for an input.

    Raises:
        UncountableError: it runs another costly operation, or one that is not PyTorch's; the message is its name.
    """
    with torch.no_grad(), _plain_attention(), _DenseCounter() as counter:
        module(x)
    madds: int = counter.madds
    return madds
