"""Error of a joint's path through crop, input, heatmap and back, for a perfect network.

The 2,958 validation people of MPII: joints → crop → heatmap → decoder → original image. Images play no part. Joints
outside the person's box have no place on a heatmap; they count like all others.

``python -m pytest tests/real/test_oracle.py -n 0 -s`` prints the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.architecture.hourglass import STRIDE, Output
from nas.data.augmentation import centred_maps, cut_batch, to_original
from nas.data.packed.crop import crop_person
from nas.data.packed.format import crop_side
from nas.data.packed.reader import PackedPeople
from nas.data.people import Person
from nas.data.readers.mpii_evaluation import predictions_mat, read_ground_truth
from nas.data.readers.mpii_hdf5 import read_mpii_hourglass_h5
from nas.data.skeletons import MPII
from nas.training.evaluation import predict
from nas.training.heatmaps import Decoder, decode, encode, inside
from nas.training.losses import HeatmapLoss
from nas.training.metrics import pckh
from nas.training.schedule import ScheduleConfig

DEFAULT = ScheduleConfig(16, 1)
SCORED = list(MPII.scored)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def persons(shared_data: Path) -> list[Person]:
    return read_mpii_hourglass_h5(shared_data / "mpii" / "annot" / "valid.h5", {"valid": 1.0})[0]


def geometry(person: Person, box: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The joints and the map back that ``crop_person`` gives, without the image."""
    scale = box / person.size
    shift = crop_side(box) / 2 - scale * person.center.astype(np.float64)
    joints = (person.joints.astype(np.float64) * scale + shift).astype(np.float32)
    return joints, np.array([[1 / scale, 0, -shift[0] / scale], [0, 1 / scale, -shift[1] / scale]])


def packed(persons: list[Person], box: int) -> PackedPeople:
    """Everybody, in black images that take no memory."""
    joints, back = (np.stack(parts) for parts in zip(*(geometry(person, box) for person in persons), strict=True))
    labelled = np.stack([person.labelled for person in persons])
    side = crop_side(box)
    return PackedPeople(
        skeleton=MPII,
        box=box,
        crops=torch.zeros(1, 3, side, side, dtype=torch.uint8).expand(len(persons), 3, side, side),
        joints=torch.from_numpy(np.where(labelled[..., None], joints, 0)),
        labelled=torch.from_numpy(labelled),
        head_size=torch.tensor([person.head_size for person in persons]),
        to_original=torch.from_numpy(back).float(),
        images=tuple(person.image for person in persons),
        checksum="made for a test",
    )


def in_input(people: PackedPeople, size: int) -> Tensor:
    """(N, 16, 2): the joints of ``cut_batch``, without the images, which are slow."""
    to_crop = centred_maps(people, len(people), size)
    return (people.joints - to_crop[:, None, :, 2]) / to_crop[:, 0, 0, None, None]


def test_the_geometry_is_that_of_crops(persons: list[Person]) -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    for person in persons[::500]:
        for box in (64, 256):
            _, joints, back = crop_person(black, person, box)
            ours, our_back = geometry(person, box)
            assert np.array_equal(joints, ours)
            assert np.array_equal(back, our_back)


@pytest.mark.slow
def test_the_oracle_table(persons: list[Person]) -> None:
    lines = []
    for size in (256, 128, 64):
        people = packed(persons, size)
        cells = size // STRIDE
        everybody = torch.arange(len(people))
        to_crop = centred_maps(people, len(people), size)
        joints = in_input(people, size)
        assert torch.allclose(joints[:8], cut_batch(people, everybody[:8], size, to_crop[:8]).joints, atol=1e-3)
        on_map = inside(joints / STRIDE, (cells, cells))
        labelled, truth = people.labelled, people.original_joints()
        assert int((labelled & ~on_map).sum()) == 189
        assert int((labelled & ~on_map)[:, SCORED].sum()) == 187
        assert int(labelled[:, SCORED].sum()) == 38_430
        for sigma in (0.7, 1.0, 1.5, 2.0):
            answers: dict[tuple[Decoder, torch.dtype], list[Tensor]] = {}
            for some in joints.split(256):
                maps = encode(some / STRIDE, (cells, cells), sigma)
                for kind in (torch.float32, torch.bfloat16):  # what GPUs compute in
                    rounded = maps.to(kind).float()
                    for decoder in get_args(Decoder):
                        answers.setdefault((decoder, kind), []).append(decode(rounded, decoder)[0])
            for (decoder, kind), parts in answers.items():
                at = torch.cat(parts)
                found = to_original(people, everybody, at * STRIDE, to_crop)
                half, tenth, half_on, tenth_on = (
                    pckh(found, truth, who, people.head_size, MPII, threshold).mean
                    for who in (labelled, labelled & on_map)
                    for threshold in (0.5, 0.1)
                )
                error = (at - joints / STRIDE)[labelled & on_map]
                bias, rms = error.mean(dim=0), float(error.square().sum(-1).mean().sqrt())
                lines.append(
                    f"{size:>5} {decoder:>8} {sigma:>5} {str(kind)[6:]:>9} {half:>9.3f} {tenth:>9.3f} {half_on:>11.3f} "
                    f"{tenth_on:>8.3f} {bias[0]:>+8.4f} {bias[1]:>+8.4f} {rms:>7.4f}"
                )
                assert half_on == 100 or decoder == "quarter"
                assert bias.abs().max() < 0.02
                if decoder == "dark":
                    assert half >= 99.7
                    assert tenth >= 99
                    assert error.abs().max() < (0.01 if kind == torch.float32 else 0.1)
                elif size == 256:
                    assert half >= 99.7
                    assert tenth >= 99
                    assert rms < 0.25
    print("\n187 of 38,430 scored joints lie outside of the box; 'on map' leaves them out")
    print("input  decoder sigma      maps  PCKh@0.5      @0.1  on map @0.5     @0.1   bias x   bias y     rms (cells)")
    print("\n".join(lines))


class Oracle(nn.Module):
    """Returns perfect heatmaps for everybody in order, each batch twice: unchanged, then mirrored."""

    def __init__(self, people: PackedPeople, size: int, kind: HeatmapLoss, batch: int) -> None:
        super().__init__()
        self.joints, self.order = in_input(people, size), list(people.skeleton.flip_order)
        self.size, self.kind, self.batch, self.calls = size, kind, batch, 0

    def forward(self, images: Tensor) -> Output:
        start, mirror = self.calls // 2 * self.batch, self.calls % 2
        self.calls += 1
        joints = self.joints[start : start + len(images)]
        if mirror:
            joints = torch.stack([self.size - joints[..., 0], joints[..., 1]], dim=-1)[:, self.order]
        maps = encode(joints / STRIDE, (self.size // STRIDE,) * 2, DEFAULT.sigma)
        return Output((maps.clamp_min(1e-30).log() if self.kind == "cross_entropy" else maps,), ())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
def test_the_whole_path_with_the_flipped_copy(persons: list[Person], kind: HeatmapLoss) -> None:
    people = packed(persons, 64)
    schedule = ScheduleConfig(16, 1, loss=kind)
    answers = predict(Oracle(people, 64, kind, 128), people, schedule, 64, flips=(False, True), batch=128)
    for answer in answers:
        truth = people.original_joints()
        scored = (answer.positions[0], truth, people.labelled, people.head_size, MPII)
        assert pckh(*scored, 0.5).mean >= 99.7
        assert pckh(*scored, 0.1).mean >= 99


@pytest.mark.slow
def test_the_whole_path_at_256_up_to_the_official_evaluation(
    persons: list[Person], shared_data: Path, tmp_path: Path, command: Callable[..., CompletedProcess[str]]
) -> None:
    people = packed(persons, 256)
    _, flipped = predict(Oracle(people, 256, "mse", 64), people, DEFAULT, 256, flips=(False, True), batch=64)
    positions = flipped.positions[0].numpy()
    official = shared_data / "mpii" / "annot" / "valid_head_boxes.mat"
    truth = read_ground_truth(official)
    # The annotations that are packed are the official ones cut to integers; a wrong origin would show as 0.5 or 1.
    on_map = inside(people.joints - (crop_side(256) - 256) / 2, (256, 256)).numpy()
    off = (positions - truth.joints)[truth.labelled & on_map & (truth.joints > 1).all(-1)]
    assert np.abs(off.mean(axis=0)).max() < 0.02
    assert np.abs(off).max() < 0.6

    file = tmp_path / "preds.mat"
    file.write_bytes(predictions_mat(positions, people.images, MPII.joints))
    done = command("evaluate", "--predictions", file, "--ground-truth", official, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    half, tenth = json.loads(done.stdout)["scores"]
    print(f"\nofficial evaluation of the oracle at 256: PCKh@0.5 {half['mean']:.3f}, @0.1 {tenth['mean']:.3f}")
    assert half["mean"] >= 99.7
    assert tenth["mean"] >= 99
