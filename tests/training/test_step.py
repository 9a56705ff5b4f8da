"""The training step compared with a simple reference, and CUDA graphs, prefetching and optimizers."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_runs import LOSSES, SHORT, build, same_weights

from nas.architecture.spec import Architecture
from nas.data.augmentation import PIXEL_MEAN, PIXEL_SCALE, centred_maps, cut_batch, cut_boxes, random_maps
from nas.data.packed.reader import PackedPeople
from nas.training.cuda_graph import WARM_UP_CALLS, CudaGraph
from nas.training.heatmaps import inside
from nas.training.host_prefetch import HostPrefetcher, crops_on_host, place_people
from nas.training.loop import TrainingResult, sample_order
from nas.training.losses import total_loss
from nas.training.optimizer import optimizer_for, restore_optimizer
from nas.training.schedule import Optimizer, ScheduleConfig
from nas.training.weight_ema import WeightEMA


def reference_losses(
    architecture: Architecture, people: PackedPeople, schedule: ScheduleConfig, seed: int
) -> list[float]:
    """Mean loss of every epoch, computed by a reference that is as simple as possible."""
    network = build(architecture).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0}])
    side, size = people.crops.shape[-1], 32
    shown = sample_order(len(people), seed, 0)
    epoch_losses = []
    for epoch in range(1, schedule.epochs + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        total = 0.0
        for number in range((epoch - 1) * schedule.steps_per_epoch, epoch * schedule.steps_per_epoch):
            maps, mirrored = random_maps(people, schedule.batch, size, schedule.augmentation, generator)
            images, cells, labelled = [], [], []
            for index, matrix, flipped in zip(islice(shown, schedule.batch), maps, mirrored, strict=True):
                at = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy"), -1) + 0.5
                grid = (at @ matrix[:, :2].T + matrix[:, 2]) * 2 / side - 1
                crop = (people.crops[index].float() - PIXEL_MEAN) / PIXEL_SCALE
                beyond = -PIXEL_MEAN / PIXEL_SCALE  # black
                images.append(F.grid_sample((crop - beyond)[None], grid[None], align_corners=False)[0] + beyond)
                joints, known = people.joints[index], people.labelled[index]
                if flipped:
                    joints, known = joints[[*people.skeleton.flip_order]], known[[*people.skeleton.flip_order]]
                cells.append(torch.linalg.solve(matrix[:, :2], (joints - matrix[:, 2]).T).T / 4)
                labelled.append(known)
            u = torch.rand((schedule.batch, 5, 1, 1), generator=generator) * 2 - 1
            colour = schedule.augmentation.colour
            gain = (1 + colour * u[:, :1]) * (1 + colour / 2 * u[:, 1:4])
            recoloured = torch.stack(images) * gain + colour * u[:, 4:] * PIXEL_MEAN / PIXEL_SCALE / 2
            where = torch.stack(cells)
            down, across = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="ij")
            distance = (across - where[..., 0, None, None]) ** 2 + (down - where[..., 1, None, None]) ** 2
            target = torch.exp(-distance / (2 * schedule.sigma**2))
            counted = torch.stack(labelled) & inside(where, (8, 8))
            loss = total_loss(network(recoloured), target, counted, LOSSES, schedule.loss)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm()
            for p in network.parameters():
                if p.grad is not None:
                    p.grad *= min(1.0, schedule.clip / (float(norm) + 1e-6))
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * schedule.lr_factor(number)
            optimizer.step()
            total += float(loss.detach())
        epoch_losses.append(total / schedule.steps_per_epoch)
    return epoch_losses


def test_losses_equal_those_of_the_reference(
    run: Callable[..., TrainingResult], tiny: Architecture, small_people: PackedPeople
) -> None:
    # At a small rate: at a larger one, rounding grows into another run within ten steps.
    schedule = replace(SHORT, images=8 * 2 * 8, epochs=8, learning_rate=5e-5)
    reference = reference_losses(tiny, small_people, schedule, seed=3)
    fast, other = ([epoch["loss"] for epoch in run(schedule=schedule, seed=seed).history] for seed in (3, 4))
    assert fast[0] == pytest.approx(reference[0], rel=1e-4)
    between_seeds = max(abs(a - b) for a, b in zip(fast, other, strict=True))
    assert max(abs(a - b) for a, b in zip(fast, reference, strict=True)) < between_seeds / 10


def test_bfloat16_learns_like_single_precision(
    run: Callable[..., TrainingResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = replace(SHORT, images=4 * 8 * 8, epochs=4)
    single, other = ([epoch["loss"] for epoch in run(schedule=schedule, seed=seed).history] for seed in (3, 4))
    monkeypatch.setattr("nas.training.devices.training_dtype", lambda device: torch.bfloat16)  # as on CUDA
    half = [epoch["loss"] for epoch in run(schedule=schedule, seed=3).history]
    assert half != single
    assert half[0] == pytest.approx(single[0], rel=0.01)
    between_seeds = max(abs(a - b) for a, b in zip(single, other, strict=True))
    assert max(abs(a - b) for a, b in zip(single, half, strict=True)) < 2 * between_seeds


def test_box_centres_equal_centred_cuts(people: PackedPeople, small_people: PackedPeople) -> None:
    indices = torch.tensor([5, 3])
    for given, size in ((people, 64), (small_people, 32), (people, 32)):
        exact = cut_batch(given, indices, size, centred_maps(given, 2, size)).images
        assert (cut_boxes(given, indices, size) - exact).abs().max() < 1e-3
        assert cut_boxes(given, indices, size).is_contiguous(memory_format=torch.channels_last)


def test_the_average_is_the_same_with_a_tensor_decay() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    as_number, as_tensor = WeightEMA(layer, 10), WeightEMA(layer, 10)
    as_tensor._decay = torch.zeros(())
    for step in range(30):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter))
        for ema in (as_number, as_tensor):
            ema.set_decay(step)
            ema.update()
    for a, b in zip(as_number.network.state_dict().values(), as_tensor.network.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "rmsprop"])
def test_a_restored_optimizer_keeps_its_own_hyperparameters(tiny: Architecture, kind: Optimizer) -> None:
    schedule = replace(SHORT, optimizer=kind)
    network = build(tiny)
    saved = optimizer_for(network, schedule)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    saved.step()
    state = deepcopy(saved.state_dict())
    state["param_groups"][0] |= {"lr": torch.tensor(7.0), "capturable": True}  # as saved on a CUDA device
    restored = optimizer_for(network, schedule)
    restore_optimizer(restored, state)
    group = restored.param_groups[0]
    assert (group["lr"], group["capturable"]) == (schedule.learning_rate, False)
    assert all(
        torch.equal(value, saved.state[parameter][name])
        for parameter, values in restored.state.items()
        for name, value in values.items()
    )
    restored.step()


class Recorded(CudaGraph):
    """A graph that pretends to be on CUDA: it counts recordings."""

    def __init__(self, work: Callable[[], None], fails: bool = False) -> None:
        super().__init__(work, torch.device("cuda"))
        self.recorded, self._fails = 0, fails

    def _warm_up(self) -> None:
        self._work()

    def _capture(self) -> Callable[[], None] | None:
        self.recorded += 1
        return None if self._fails else self._work


@pytest.mark.parametrize("fails", [False, True])
def test_every_call_runs_the_work_once_and_records_it_once(fails: bool) -> None:
    done: list[int] = []
    work = Recorded(lambda: done.append(len(done)), fails)
    for call in range(1, WARM_UP_CALLS + 4):
        work()
        assert len(done) == call
        assert work.recorded == (call > WARM_UP_CALLS)


def test_on_a_cpu_nothing_is_recorded() -> None:
    done: list[Tensor] = []
    work = CudaGraph(lambda: done.append(torch.zeros(1)), torch.device("cpu"))
    for _ in range(WARM_UP_CALLS + 3):
        work()
    assert (len(done), work.fallback) == (WARM_UP_CALLS + 3, None)


def test_prefetched_crops_train_the_same_network(
    run: Callable[..., TrainingResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = run()
    loaded, fetched = [], []
    load, fetch = HostPrefetcher.load, HostPrefetcher.fetch
    monkeypatch.setattr("nas.training.step.crops_on_host", lambda people: True)
    monkeypatch.setattr(HostPrefetcher, "load", lambda self, chosen: (loaded.append(1), load(self, chosen)))
    monkeypatch.setattr(HostPrefetcher, "fetch", lambda self, chosen: (fetched.append(1), fetch(self, chosen)))
    prefetched = run()
    assert same_weights(resident.network, prefetched.network)
    assert [epoch["loss"] for epoch in resident.history] == [epoch["loss"] for epoch in prefetched.history]
    assert len(loaded) == SHORT.steps
    assert len(fetched) == SHORT.steps  # each batch once: in advance, but for the first of an epoch


def test_crops_stay_on_the_host_if_the_device_is_too_small(
    small_people: PackedPeople, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta, crops = torch.device("meta"), small_people.crops.nbytes
    monkeypatch.setattr("nas.training.host_prefetch.free_memory", lambda device: 10 * crops)
    resident, spilled = place_people(small_people, meta, 8 * crops), place_people(small_people, meta, 9 * crops)
    assert (crops_on_host(resident), resident.crops.device) == (False, meta)
    assert (crops_on_host(spilled), spilled.crops.device, spilled.joints.device) == (True, torch.device("cpu"), meta)
