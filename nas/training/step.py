"""One training step: everything between the choice of people and the averaged weights.

It works on buffers that stay where they are and never waits for the device, so that on CUDA it becomes one graph
(:mod:`nas.training.cuda_graph`); on a CPU, and with several processes, the same code runs as it stands.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nas.architecture.hourglass import STRIDE
from nas.data.augmentation import augmented, cut, recolour
from nas.data.packed.format import PackedPeople
from nas.training.cuda_graph import CudaGraph
from nas.training.devices import mixed_precision, out_of_memory, release_memory
from nas.training.heatmaps import encode, inside
from nas.training.host_prefetch import HostPrefetcher, kept_on_host
from nas.training.losses import HeatmapLoss, Losses, total_loss
from nas.training.schedule import ScheduleConfig

MIN_MICRO_BATCH = 4
"""Pictures that are shown at once at least: the statistics of batch norm are noise below it."""


def optimizer_for(network: nn.Module, schedule: ScheduleConfig) -> torch.optim.Optimizer:
    """AdamW or RMSprop; weight decay on convolution weights only. On CUDA, what changes is in tensors."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
    device = decayed[0].device
    recorded = device.type == "cuda"
    rate: float | Tensor = schedule.learning_rate
    if recorded:
        rate = torch.tensor(schedule.learning_rate, device=device)
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True, capturable=recorded)
    return torch.optim.RMSprop(groups, lr=rate, foreach=True, capturable=recorded)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, which may have been saved on a device of another kind."""
    for saved, mine in zip(state["param_groups"], optimizer.param_groups, strict=True):
        saved.update({name: value for name, value in mine.items() if name != "params"})
    optimizer.load_state_dict(state)


class WeightEMA:
    """Exponential moving average of weights and batch norm statistics, in a network of its own."""

    def __init__(self, network: nn.Module, horizon: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.horizon = horizon
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        averaged = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        self._mine, self._theirs = [mine for mine, _ in averaged], [theirs for _, theirs in averaged]
        device = self._mine[0].device
        self._decay: float | Tensor = torch.zeros((), device=device) if device.type == "cuda" else 0.0

    def update(self, step: int) -> None:
        """Take one step's weights in; early on the average is short, so that the first weights are soon forgotten."""
        self.aim(step)
        self.take_in()

    def aim(self, step: int) -> None:
        """Set how much of the average the next :meth:`take_in` keeps."""
        decay = min(1 - 1 / max(1.0, self.horizon), (1 + step) / (10 + step)) if self.horizon else 0.0
        if isinstance(self._decay, Tensor):
            self._decay.fill_(decay)
        else:
            self._decay = decay

    @torch.no_grad()
    def take_in(self) -> None:
        """Take the weights as they are in."""
        if isinstance(self._decay, Tensor):
            torch._foreach_mul_(self._mine, self._decay)
            torch._foreach_add_(self._mine, torch._foreach_mul(self._theirs, 1 - self._decay))
        else:
            get_ema_multi_avg_fn(self._decay)(self._mine, self._theirs, None)


class TrainingStep:
    """A training step that is done again and again.

    Attributes:
        generator: of augmentation, on the device; to be seeded.
        summed: () loss of all steps since it was last set to zero, on the device.
        at_once: pictures that are shown at once; fewer than a share of the batch where memory was too small for it.

    Args:
        learner: what is called: the network, or what shares its gradients between processes.
        network: being trained, on the people's device.
        average: of its weights.
        optimizer: of its weights, from :func:`optimizer_for`.
        losses: the terms' weights.
        schedule: the recipe.
        people: to train on, fitted to the input size; their crops on the device, or on the host.
        input_size: H = W.
        share: pictures a step.
        alone: False with several processes, which is done without a graph, and cannot halve what is shown at once.
    """

    def __init__(
        self,
        learner: nn.Module,
        network: nn.Module,
        average: WeightEMA,
        optimizer: torch.optim.Optimizer,
        losses: Losses,
        schedule: ScheduleConfig,
        people: PackedPeople,
        input_size: int,
        share: int,
        *,
        alone: bool = True,
    ) -> None:
        device = people.joints.device
        self.generator = torch.Generator(device)
        self.summed = torch.zeros((), device=device)
        self.at_once = share
        self._learner, self._average, self._optimizer = learner, average, optimizer
        self._losses, self._schedule, self._people, self._input_size = losses, schedule, people, input_size
        self._alone = alone
        self._weights = list(network.parameters())  # walking through a network's modules takes a millisecond
        self._chosen = torch.zeros(share, dtype=torch.long, device=device)
        # Crops on the host: a batch of them is everybody there is, in order.
        self._staged = HostPrefetcher(people, share) if kept_on_host(people) else None
        if self._staged is not None:
            self._people = self._staged.batch
            self._chosen.copy_(torch.arange(share))
        self._work = CudaGraph(self._do, device, (self.generator,), allowed=alone)

    @property
    def fallback(self) -> str | None:
        """Why there is no CUDA graph on a CUDA device, or None."""
        return self._work.fallback

    def __call__(self, chosen: Tensor, number: int, upcoming: Tensor | None = None) -> None:
        """Do one step.

        Args:
            chosen: (share,) which people, where their crops are.
            number: of the step in the schedule, from 0: decides learning rate and averaging.
            upcoming: (share,) who will be chosen next, if that is known.
        """
        if self._staged is None:
            self._chosen.copy_(chosen)
        else:
            self._staged.load(chosen)
        rate = self._schedule.learning_rate * self._schedule.rate(number)
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._average.aim(number)
        self._work()
        if self._staged is not None and upcoming is not None:
            self._staged.fetch(upcoming)  # while the device is at work

    def _do(self) -> None:
        images, target, labelled = self._batch()
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                loss = _gradients(
                    self._learner, images, target, labelled, self._losses, self._schedule.loss, self.at_once
                )
                break
            except (RuntimeError, MemoryError) as error:
                # Several processes would wait for the one that begins its step anew; and what is being recorded as a
                # graph is done without one first.
                recording = self.summed.is_cuda and torch.cuda.is_current_stream_capturing()
                if not out_of_memory(error) or not self._alone or recording or self.at_once // 2 < MIN_MICRO_BATCH:
                    raise
            release_memory()
            self.at_once //= 2
        if self._schedule.clip:
            nn.utils.clip_grad_norm_(self._weights, self._schedule.clip, foreach=True)
        self._optimizer.step()
        self._average.take_in()
        self.summed += loss

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        people, size, augmentation = self._people, self._input_size, self._schedule.augmentation
        to_crop, mirrored = augmented(people, len(self._chosen), size, augmentation, self.generator)
        batch = cut(people, self._chosen, size, to_crop, mirrored)
        images = recolour(batch.images, augmentation.colour, self.generator)  # (B, 3, H, W)
        cells, map_size = batch.joints / STRIDE, (size // STRIDE, size // STRIDE)  # (B, J, 2)
        target = encode(cells, map_size, self._schedule.sigma)  # (B, J, H/4, W/4)
        return images, target, batch.labelled & inside(cells, map_size)  # (B, J)


def _gradients(
    learner: nn.Module,
    images: Tensor,
    target: Tensor,
    labelled: Tensor,
    losses: Losses,
    kind: HeatmapLoss,
    at_once: int,
) -> Tensor:
    """Add a batch's gradients up, so many pictures at a time; gives its loss."""
    whole = torch.zeros((), device=images.device)
    for begin in range(0, len(images), at_once):
        part = slice(begin, begin + at_once)
        with mixed_precision(images.device):
            output = learner(images[part])
        loss = total_loss(output, target[part], labelled[part], losses, kind) * (len(images[part]) / len(images))
        loss.backward()
        whole += loss.detach()
    return whole
