"""Every published row: its counts, its shapes, and that it learns."""

import re

import pytest
import torch
from effort import examples
from torch import Tensor

from nas.architecture.cost import network_cost
from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.errors import UserError
from nas.study.space.published import INPUT_SIZE, JOINTS, named, published, read_published
from nas.training.losses import total_loss

ROWS = published()
every_row = pytest.mark.parametrize("name", ROWS)
DEEPER = ("hg3", "hg4", "hg8")
"""Rows that stack more hourglasses of ``hg2``; only ``--hypothesis-profile=stress`` overfits them."""


def small(name: str, seed: int = 0) -> HourglassNetwork:
    """The row at a quarter of its width, for images of 64×64."""
    return build_network(ROWS[name].candidate.architecture.scaled(0.25), JOINTS, (64, 64), seed)


def batch(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (N, 3, 64, 64), Gaussian targets (N, J, 16, 16) and which joints are labelled (N, J)."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 64, 64, generator=generator)
    at = torch.rand(count, JOINTS, 2, generator=generator) * 16
    cells = torch.arange(16) + 0.5
    along_x, along_y = (torch.exp(-((cells - at[..., i : i + 1]) ** 2) / 4.5) for i in (0, 1))
    return images, along_y[..., :, None] * along_x[..., None, :], torch.ones(count, JOINTS, dtype=torch.bool)


@every_row
def test_counts(name: str) -> None:
    row = ROWS[name]
    cost = network_cost(row.candidate.architecture, JOINTS, (INPUT_SIZE, INPUT_SIZE))
    if row.exact_params is not None:
        assert cost.params == row.exact_params
    if row.expected_madds is not None:
        assert cost.madds == pytest.approx(row.expected_madds, rel=0.005)


@every_row
def test_built_network_has_the_counted_parameters(name: str) -> None:
    architecture = ROWS[name].candidate.architecture
    with torch.device("meta"):
        network = HourglassNetwork(architecture, JOINTS, (INPUT_SIZE, INPUT_SIZE))
    counted = network_cost(architecture, JOINTS, (INPUT_SIZE, INPUT_SIZE)).params
    assert sum(p.numel() for p in network.parameters()) == counted


def test_rows_without_an_exact_count_are_those_that_cannot_be_reproduced() -> None:
    assert {name for name, row in ROWS.items() if row.exact_params is None} == {"shuffle", "dice", "dense"}
    assert all(ROWS[name].note for name in ("shuffle", "dice", "dense", "two_separable"))
    dice = network_cost(ROWS["dice"].candidate.architecture, JOINTS, (INPUT_SIZE, INPUT_SIZE))
    assert dice.params == pytest.approx(3.24e6, rel=0.005)


@every_row
def test_shapes_and_gradients(name: str) -> None:
    candidate = ROWS[name].candidate
    network = small(name)
    images, target, labelled = batch(4)
    output = network(images)
    stacks, features = candidate.architecture.stacks, network.architecture.features
    assert [tuple(h.shape) for h in output.heatmaps] == [(4, JOINTS, 16, 16)] * stacks
    assert [tuple(n.shape) for n in output.necks] == [(4, features, 1, 1)] * stacks

    total_loss(output, target, labelled, candidate.losses, "mse").backward()
    # No parameter is left out: every hourglass is supervised, and there is no junction after the last one.
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    # A bias that a batch norm follows at once has no effect, so only rounding; every other tensor must move.
    still = [n for n, p in network.named_parameters() if not n.endswith("bias") and not p.grad.any()]
    assert still == []


@pytest.mark.parametrize(
    "name",
    [
        name if name == "hg1" else pytest.param(name, marks=pytest.mark.slow)
        for name in ROWS
        if name not in DEEPER or examples(0, 1)
    ],
)
def test_overfits_one_batch(name: str) -> None:
    network, losses = small(name), ROWS[name].candidate.losses
    images, target, labelled = batch(2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        output = network(images)
        error = (output.heatmaps[-1].detach() - target).square().sum() / target.square().sum()  # empty maps have 1
        if error < 0.25:
            return
        optimizer.zero_grad()
        total_loss(output, target, labelled, losses, "mse").backward()
        optimizer.step()
    pytest.fail(f"the error is still {error:.2f} of that of empty maps")


def test_losses_of_the_rows() -> None:
    losses = {name: row.candidate.losses for name, row in ROWS.items()}
    for name in ("perceptual", "separable_resconcat_narrowres_perceptual"):
        assert (losses[name].alpha, losses[name].scale, losses[name].perceptual) == (0.7, 2.0, "mse")
    assert losses["weights_30_70"].weights == (0.6, 1.4)
    assert losses["weights_70_30"].weights == (1.4, 0.6)
    assert all(losses[n] == losses["hg2"] for n in ROWS if "perceptual" not in n and "weights" not in n)


def test_different_rows_are_different_candidates() -> None:
    ids = [row.candidate.id for row in ROWS.values()]
    assert len(set(ids)) == len(ids) == 28


def test_named() -> None:
    assert named("hg2").candidate.architecture.stacks == 2
    with pytest.raises(UserError, match=r"'seperable-all'; did you mean separable_all"):
        named("seperable-all")
    with pytest.raises(UserError, match=r"there are hg1, hg2"):
        named("zzz")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1", "x: expected a table"),
        ("[x]\narchitecture = {}", "x.from: missing"),
        ("[x]\nfrom = []\narchitecture = {}", "x.from: expected a list of documents"),
        ("[x]\nfrom = ['A']", "x.architecture: missing"),
        ("[x]\nfrom = ['A']\narchitecture = {}\nparams = 3", "x.params: unknown key; allowed: from, architecture"),
        ("[x]\nfrom = ['A']\narchitecture = {}\nexact_params = '3'", "x.exact_params: expected an integer, not '3'"),
        ("[x]\nfrom = ['A']\narchitecture = {}\nmadds = true", "x.madds: expected a number"),
        ("[x]\nfrom = ['A']\narchitecture = {}\nprinted_pckh = {B = 1}", "x.printed_pckh.B: expected a number for one"),
        ("[x]\nfrom = ['A']\narchitecture = {stack = 2}", "x: architecture: unknown key 'stack'; allowed: block"),
        ("[x]\nfrom = ['A']\narchitecture = {}\nlosses = {alpha = 2}", "x: losses: alpha must be above 0"),
        ("[x]\nfrom = ['A']\narchitecture = {}\nlosses = {weights = 2}", "x: "),
        ("[x", "not valid TOML"),
    ],
)
def test_bad_files_are_refused(tmp_path, text: str, complaint: str) -> None:
    file = tmp_path / "rows.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=re.escape(complaint)) as caught:
        read_published(file)
    assert str(caught.value).startswith(str(file))
