"""Optimizers whose step can be part of a CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas.training.schedule import ScheduleConfig


def optimizer_for(network: nn.Module, schedule: ScheduleConfig) -> torch.optim.Optimizer:
    """Create AdamW or RMSprop, with weight decay on convolution weights only.

    On CUDA the learning rate is a tensor, so that a recorded step can change it.
    """
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
    device = decayed[0].device
    capturable = device.type == "cuda"
    learning_rate: float | Tensor = schedule.learning_rate
    if capturable:
        learning_rate = torch.tensor(schedule.learning_rate, device=device)
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, fused=True, capturable=capturable)
    return torch.optim.RMSprop(groups, lr=learning_rate, foreach=True, capturable=capturable)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, which may have been saved on another type of device.

    The hyperparameters (``lr``, ``capturable``, ...) of ``optimizer`` are kept.
    """
    for saved, current in zip(state["param_groups"], optimizer.param_groups, strict=True):
        saved.update({name: value for name, value in current.items() if name != "params"})
    optimizer.load_state_dict(state)
