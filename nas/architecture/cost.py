"""Exact costs of a network without building it: parameters, multiply-adds, layers.

MAdds are fvcore's count (one multiply-add = 1; convolutions, batch norm at 2 per value, upsampling at 1 per value) of
one image in evaluation mode. The cost of a block is counted once per shape and cached: blocks of this package are run
on the meta device, other blocks are traced by fvcore; the layers between blocks are counted by formula. The sum equals
fvcore's count of the whole network (tested).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from nas.architecture.blocks import needs_resolution
from nas.architecture.dense_madds import FVCORE_NAMES, MaddsCounter, UncountableError, dense_madds
from nas.architecture.hourglass import check_input_size, make_block
from nas.architecture.spec import Architecture, BlockChoice
from nas.errors import UserError, describe_error

logging.getLogger("fvcore").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Cost:
    """Cost of a network or a part of it.

    Attributes:
        params: number of trainable values.
        madds: multiply-adds for one image.
        layers: number of leaf modules run in a forward pass, which determines training time on a GPU.
    """

    params: int = 0
    madds: int = 0
    layers: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.madds + other.madds, self.layers + other.layers)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.params * times, self.madds * times, self.layers * times)


def count_module(module: nn.Module, shape: tuple[int, ...]) -> Cost:
    """Count a module with one tensor argument by tracing it with fvcore.

    Args:
        module: set to evaluation mode meanwhile.
        shape: of its input, with the batch dimension (1 for the cost of one image).
    """
    was_training = module.training
    module.eval()
    try:
        declared = getattr(module, "madds", None)
        madds = int(declared(*shape[2:])) * shape[0] if callable(declared) else _traced_madds(module, shape)
    finally:
        module.train(was_training)
    return _size(module) + Cost(madds=madds)


def _traced_madds(module: nn.Module, shape: tuple[int, ...]) -> int:
    """fvcore's count, in which convolutions, matrix products and attention are counted in every spelling."""
    dense = dense_madds(module, torch.zeros(shape))
    analysis = FlopCountAnalysis(module, torch.zeros(shape))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        by_operation = analysis.by_operator()
    return dense + int(sum(madds for name, madds in by_operation.items() if name not in FVCORE_NAMES))


def _size(module: nn.Module) -> Cost:
    layers = sum(1 for m in module.modules() if not any(m.children()) and not isinstance(m, nn.Identity))
    return Cost(params=sum(p.numel() for p in module.parameters()), layers=layers)


Shape = tuple[BlockChoice, int, int, tuple[int, int]]
"""A block with its in_channels, width and resolution (H, W)."""

_cache: dict[Shape, Cost] = {}


def cached_costs() -> dict[Shape, Cost]:
    """Copy of this process's cache, for :func:`add_to_cache` in another process."""
    return dict(_cache)


def add_to_cache(costs: Mapping[Shape, Cost]) -> None:
    """Add another process's :func:`cached_costs` to the cache."""
    _cache.update(costs)


def block_cost(choice: BlockChoice, in_channels: int, width: int, resolution: tuple[int, int]) -> Cost:
    """Cost of a block at one shape; counted once per process.

    Raises:
        ValueError: the block cannot be built at this width.
    """
    shape = choice, in_channels, width, resolution
    if shape not in _cache:
        _cache[shape] = _count(*shape)
    return _cache[shape]


def _count(choice: BlockChoice, in_channels: int, width: int, resolution: tuple[int, int]) -> Cost:
    if ":" not in choice.kind:
        block, size = _on_meta(choice, in_channels, width, resolution if needs_resolution(choice.kind) else None)
        try:
            with torch.no_grad(), _Counter() as counter:
                block(torch.empty((1, in_channels, *resolution), device="meta"))
            return size + Cost(madds=counter.madds)
        except _UnknownOperationError:
            pass  # traced by fvcore below
    with torch.random.fork_rng(devices=[]):
        block = make_block(choice, in_channels, width, resolution)
    try:
        return count_module(block, (1, in_channels, *resolution))
    except UncountableError as error:
        raise UncountableBlockError(
            f"block {choice.kind!r}: the multiply-adds of {error} are not known; give the block a method "
            "madds(height, width) that returns its own, or use another operation"
        ) from error
    except Exception as error:  # a block of one's own, and the tracer on it, may raise anything
        shape = (1, in_channels, *resolution)
        raise UncountableBlockError(
            f"block {choice.kind!r}: its multiply-adds cannot be counted ({describe_error(error)[:300]}); it must run "
            f"on a tensor {shape}, unscripted and without reentrant checkpointing, or declare them with a method "
            "madds(height, width)"
        ) from error


@lru_cache(maxsize=4096)
def _on_meta(
    choice: BlockChoice, in_channels: int, width: int, resolution: tuple[int, int] | None
) -> tuple[nn.Module, Cost]:
    """A block on the meta device, in evaluation mode, and its parameters and layers."""
    with torch.device("meta"):
        block = make_block(choice, in_channels, width, resolution or (1, 1))
    return block.eval(), _size(block)


class UncountableBlockError(UserError):
    """A block whose cost cannot be counted; it is not a matter of its values, so no other candidate is tried."""


class _UnknownOperationError(Exception):
    """There is no rule for an operation in :class:`_Counter`."""


class _Counter(MaddsCounter):
    """Counts the operations run on meta tensors by fvcore's rules; several times faster than tracing."""

    _aten = torch.ops.aten
    _elementwise = frozenset((_aten.add, _aten.sub, _aten.mul))
    _free = frozenset(
        (
            *(_aten.relu, _aten.relu_, _aten._prelu_kernel, _aten.sigmoid, _aten.mean, _aten.max_pool2d_with_indices),
            *(_aten.cat, _aten.transpose, _aten.permute, _aten.view, _aten.clone, _aten.slice, _aten.channel_shuffle),
        )
    )

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        operation = func.overloadpacket
        # The results of common operations are created here: PyTorch's meta kernels take a second to import.
        if operation is self._aten.convolution:
            x, weight, _, stride, padding, dilation, transposed = args[:7]
            if transposed:
                raise _UnknownOperationError(str(func))
            sides = [
                (n + 2 * p - d * (k - 1) - 1) // s + 1
                for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
            ]
            self.madds += math.prod(sides) * x.shape[0] * weight.numel()
            return x.new_empty((x.shape[0], weight.shape[0], *sides))
        if operation is self._aten.native_batch_norm and not args[5]:
            self.madds += args[0].numel() * (1 if args[1] is None else 2)
            return args[0].new_empty(args[0].shape), args[0].new_empty(0), args[0].new_empty(0)
        if operation in self._elementwise and isinstance(args[1], Tensor) and args[0].ndim == args[1].ndim:
            return args[0].new_empty([max(sides) for sides in zip(args[0].shape, args[1].shape, strict=True)])
        if operation not in self._free and operation is not self._aten.empty:
            raise _UnknownOperationError(str(func))
        return func(*args, **(kwargs or {}))


def _convolution(in_channels: int, out_channels: int, pixels: int, kernel: int = 1) -> Cost:
    weights = in_channels * out_channels * kernel * kernel
    return Cost(weights + out_channels, weights * pixels, 1)


def _norm_relu(channels: int, pixels: int) -> Cost:
    return Cost(2 * channels, 2 * channels * pixels, 2)


def cost_by_part(architecture: Architecture, joints: int, input_size: tuple[int, int]) -> dict[str, Cost]:
    """Costs of the stem, the hourglasses, the heads (block, features, heatmaps) and the junctions.

    Args:
        architecture: of the network.
        joints: J.
        input_size: (H, W) of the images.

    Raises:
        ValueError: the input size does not fit the depth, or a block cannot be built at these widths.
    """
    check_input_size(architecture, input_size)
    return dict(_parts(architecture, joints, input_size))


def _parts(a: Architecture, joints: int, input_size: tuple[int, int]) -> Iterator[tuple[str, Cost]]:
    height, columns = input_size
    half, quarter = (height // 2, columns // 2), (height // 4, columns // 4)
    pixels, features = quarter[0] * quarter[1], a.features

    kernel = 7 if a.stem_kernel == "7x7" else 3
    stem = _convolution(3, a.stem, half[0] * half[1], kernel) + _norm_relu(a.stem, half[0] * half[1])
    first, second, third, last = a.trunk_shapes()
    stem += block_cost(a.trunk, *first, half) + Cost(layers=1)
    stem += block_cost(a.trunk, *second, quarter) + block_cost(a.trunk, *third, quarter)
    yield "stem", stem

    *levels, neck = a.level_blocks()
    hourglass, size = Cost(), quarter
    for choice in levels:
        hourglass += block_cost(choice, features, a.width, size)
        upsampled = Cost(madds=features * size[0] * size[1])
        size = (size[0] // 2, size[1] // 2)
        hourglass += block_cost(choice, features, a.width, size) * 2 + upsampled + Cost(layers=2)
    hourglass += block_cost(neck, features, a.width, size)
    yield "hourglasses", hourglass * a.stacks

    head = block_cost(a.trunk, *last, quarter)
    head += _convolution(features, features, pixels) + _norm_relu(features, pixels)
    head += _convolution(features, joints, pixels)
    yield "heads", head * a.stacks

    joint = _convolution(features, features, pixels) + _convolution(joints, features, pixels)
    junctions = joint * (a.stacks - 1)
    if a.junction == "resconcat":
        fuse = _convolution(2 * features, features, pixels)
        # All junctions share the weights.
        junctions += Cost(fuse.params, fuse.madds * (a.stacks - 1), fuse.layers * (a.stacks - 1))
    if a.junction == "dense":
        for earlier in range(2, a.stacks):
            junctions += _convolution(features * min(a.reach or a.stacks, earlier), features, pixels)
    yield "junctions", junctions


def network_cost(architecture: Architecture, joints: int, input_size: tuple[int, int]) -> Cost:
    """Cost of a whole network without building it; takes milliseconds once its blocks are cached.

    Args:
        architecture: of the network.
        joints: J.
        input_size: (H, W) of the images.

    Raises:
        ValueError: the input size does not fit the depth, or a block cannot be built at these widths.
    """
    return sum(cost_by_part(architecture, joints, input_size).values(), Cost())
