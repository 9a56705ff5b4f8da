from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nas.data.skeletons import MPII
from nas.training.heatmaps import Decoder, decode, encode, flip_maps, inside

SIGMAS = (0.6, 0.7, 1.0, 1.5, 2.0)


def positions(size: tuple[int, int], count: int = 4000) -> Tensor:
    """Everywhere on the map, up to its very edges: (count, 2, 2)."""
    height, width = size
    return torch.rand((count, 2, 2), generator=torch.Generator().manual_seed(0)) * torch.tensor([width, height])


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("size", [(16, 16), (64, 64), (16, 24)])
def test_dark_decodes_a_perfect_peak_anywhere(size: tuple[int, int], sigma: float) -> None:
    truth = positions(size)
    decoded, peak = decode(encode(truth, size, sigma), "dark")
    assert (decoded - truth).norm(dim=-1).max() < 0.1
    assert (decoded - truth).mean(dim=(0, 1)).abs().max() < 0.002, "biased"
    assert peak.min() >= math.exp(-0.25 / sigma**2) - 1e-6  # the nearest cell's centre is at most half a cell away


@pytest.mark.parametrize("sigma", SIGMAS)
def test_quarter_decodes_a_perfect_peak_within_its_resolution(sigma: float) -> None:
    truth = positions((16, 16))
    decoded, _ = decode(encode(truth, (16, 16), sigma), "quarter")
    error = (decoded - truth).abs()
    in_border_cell = (truth < 1) | (truth > 15)
    assert error[~in_border_cell].max() < 0.3
    assert (decoded - truth)[~in_border_cell].mean().abs() < 0.02, "biased"
    # In a border cell one neighbour is missing, and the answer is the cell's centre; never beyond the map.
    assert error[in_border_cell].max() <= 0.5 + 1e-5
    assert inside(decoded, (16, 16)).all()


def test_quarter_moves_towards_the_higher_neighbour() -> None:
    maps = torch.zeros(1, 1, 5, 5)
    maps[0, 0, 2, 3] = 1.0
    maps[0, 0, 2, 2], maps[0, 0, 2, 4] = 0.5, 0.2  # higher on the left
    maps[0, 0, 1, 3], maps[0, 0, 3, 3] = 0.1, 0.3  # higher below
    decoded, peak = decode(maps, "quarter")
    assert decoded.tolist() == [[[3.25, 2.75]]]
    assert peak.tolist() == [[1.0]]


@pytest.mark.parametrize("method", ["quarter", "dark"])
def test_decoding_does_not_depend_on_the_scale_of_the_map(method: Decoder) -> None:
    truth = positions((16, 16), 100)
    maps = encode(truth, (16, 16), 1.0)
    high, peak = decode(maps, method)
    low, low_peak = decode(maps * 0.05, method)
    assert torch.allclose(high, low, atol=1e-3)
    assert torch.allclose(peak * 0.05, low_peak)


@pytest.mark.parametrize("method", ["quarter", "dark"])
def test_any_map_decodes_to_a_position_on_the_map(method: Decoder) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((50, 16, 8, 8), generator=generator)  # half of it negative
    for maps in (noise, torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), -1.0), noise * 1e20):
        decoded, _ = decode(maps, method)
        cell = maps.flatten(2).argmax(dim=-1)
        centre = torch.stack([cell % 8, cell // 8], dim=-1) + 0.5
        assert ((decoded - centre).abs() <= 0.5).all()
    assert torch.isfinite(decode(torch.full((1, 1, 8, 8), float("nan")), "dark")[0]).all()


def test_encode_puts_a_gaussian_of_height_1_around_the_position() -> None:
    maps = encode(torch.tensor([[[2.5, 1.5], [3.0, 1.5]]]), (4, 6), 1.5)
    assert maps.shape == (1, 2, 4, 6)
    assert maps.dtype == torch.float32
    assert maps[0, 0, 1, 2] == 1
    assert maps[0, 0, 1, 3] == pytest.approx(math.exp(-0.5 / 1.5**2))
    assert maps[0, 0, 3, 0] == pytest.approx(math.exp(-0.5 * (2**2 + 2**2) / 1.5**2))
    assert maps[0, 1, 1, 2] == maps[0, 1, 1, 3] == pytest.approx(math.exp(-0.5 * 0.25 / 1.5**2))


def test_inside() -> None:
    points = torch.tensor([[[0.0, 0.0], [5.99, 3.99], [6.0, 1.0], [1.0, 4.0], [-0.01, 1.0], [1.0, -0.01]]])
    assert inside(points, (4, 6)).tolist() == [[True, True, False, False, False, False]]


def test_flip_maps_reverses_mirroring() -> None:
    truth = torch.rand((3, 16, 2), generator=torch.Generator().manual_seed(0)) * 16
    order = list(MPII.flip_order)
    # The output of a perfect network for the mirrored image: mirrored positions, left and right exchanged.
    mirrored = torch.stack([16 - truth[..., 0], truth[..., 1]], dim=-1)[:, order]
    back = flip_maps(encode(mirrored, (16, 16), 1.0), MPII.flip_order)
    assert torch.allclose(back, encode(truth, (16, 16), 1.0), atol=1e-5)
