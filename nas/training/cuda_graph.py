"""A piece of work that is done over and over, recorded once as a CUDA graph and replayed from then on.

Small networks launch hundreds of kernels that each take microseconds: a graph launches them all at once. On a CPU, and
where a graph cannot be recorded, the work is simply done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

WARM = 3
"""Times that the work is done eagerly first: optimisers make their state, libraries choose their kernels."""

log = logging.getLogger(__name__)


class CudaGraph:
    """Calls a function, as a CUDA graph where that is possible.

    The function takes everything from tensors that stay where they are, leaves everything in such tensors, and never
    waits for the device.

    Attributes:
        fallback: why it goes on without a graph on a CUDA device, or None.

    Args:
        work: what to do.
        device: where its tensors are.
        generators: of that device, which it draws from.
        allowed: False to do without a graph.
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
        self._done = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self) -> None:
        """Do the work once."""
        if self._eager:
            self._work()
            return
        self._done += 1
        if self._done <= WARM:
            self._warm_up()
            return
        if self._replay is None:
            self._replay = self._captured()
            self._eager = self._replay is None
        (self._replay or self._work)()

    def _warm_up(self) -> None:
        """Do the work as it stands, beside the main stream: whose work is no part of a graph."""
        beside, here = torch.cuda.Stream(), torch.cuda.current_stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            self._work()
        here.wait_stream(beside)

    def _captured(self) -> Callable[[], None] | None:
        """Record the work, which does not do it; how to replay it, or None if it cannot be recorded."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            # Other threads (progress, leases) may go on meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._work()
        except RuntimeError as error:  # what CUDA says of anything that cannot be recorded; also too little memory
            self.fallback = f"trained without a CUDA graph: {str(error).splitlines()[0]}"
            log.warning(self.fallback)
            torch.cuda.synchronize()
            return None
        replay: Callable[[], None] = graph.replay
        return replay
