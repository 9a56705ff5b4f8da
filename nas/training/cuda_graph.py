"""Repeated work, recorded once as a CUDA graph and replayed from then on.

Small networks launch hundreds of kernels that take microseconds each; a graph launches them together. On a CPU, and
where a graph cannot be recorded, the work runs eagerly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

WARM_UP_CALLS = 3
"""Eager calls before recording, in which optimizers create their state and libraries choose their kernels."""

log = logging.getLogger(__name__)


class CudaGraph:
    """Calls a function, as a CUDA graph where possible.

    The function must take its input from tensors at fixed addresses, leave its output in such tensors, and never wait
    for the device.

    Attributes:
        fallback: why the work runs without a graph on a CUDA device, or None.

    Args:
        work: the function.
        device: of its tensors.
        generators: random generators of that device which it uses.
        allowed: False to run eagerly.
    """

    def __init__(
        self,
        work: Callable[[], None],
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
        *,
        allowed: bool = True,
    ) -> None:
        self.fallback: str | None = None
        self._work, self._generators = work, generators
        self._eager = not allowed or device.type != "cuda"
        self._calls = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self) -> None:
        """Run the work once."""
        if self._eager:
            self._work()
            return
        self._calls += 1
        if self._calls <= WARM_UP_CALLS:
            self._warm_up()
            return
        if self._replay is None:
            self._replay = self._capture()
            self._eager = self._replay is None
        (self._replay or self._work)()

    def _warm_up(self) -> None:
        """Run the work eagerly, on a side stream, as CUDA graphs require."""
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            self._work()
        current.wait_stream(side)

    def _capture(self) -> Callable[[], None] | None:
        """Record the work, which does not run it; return the replay function, or None if it cannot be recorded."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            # Other threads (progress, heartbeat) may use CUDA meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._work()
        except RuntimeError as error:  # an operation that cannot be recorded, or too little memory
            self.fallback = f"training without a CUDA graph: {str(error).splitlines()[0]}"
            log.warning(self.fallback)
            torch.cuda.synchronize()
            return None
        replay: Callable[[], None] = graph.replay
        return replay
