"""Exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightEMA:
    """Exponential moving average of weights and batch norm statistics, in a network of its own.

    The decay is min(1 - 1 / horizon, (1 + step) / (10 + step)): early in training the average is short, so that the
    initial weights are soon forgotten.

    Attributes:
        network: the averaged network, in evaluation mode.

    Args:
        network: to average; copied.
        horizon: of the average, in steps; 0 to copy the last weights.
    """

    def __init__(self, network: nn.Module, horizon: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.horizon = horizon
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        floating = [(average, current) for average, current in pairs if average.is_floating_point()]
        self._averages, self._currents = [average for average, _ in floating], [current for _, current in floating]
        device = self._averages[0].device
        self._decay: float | Tensor = torch.zeros((), device=device) if device.type == "cuda" else 0.0

    def set_decay(self, step: int) -> None:
        """Set the decay of the next :meth:`update` to that of a step, from 0."""
        decay = min(1 - 1 / max(1.0, self.horizon), (1 + step) / (10 + step)) if self.horizon else 0.0
        if isinstance(self._decay, Tensor):
            self._decay.fill_(decay)
        else:
            self._decay = decay

    @torch.no_grad()
    def update(self) -> None:
        """Average in the network's current weights. Can be recorded in a CUDA graph."""
        if isinstance(self._decay, Tensor):
            torch._foreach_mul_(self._averages, self._decay)
            torch._foreach_add_(self._averages, torch._foreach_mul(self._currents, 1 - self._decay))
        else:
            get_ema_multi_avg_fn(self._decay)(self._averages, self._currents, None)
