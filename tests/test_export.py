"""``python -m nas.export``: the ONNX file agrees with PyTorch, and the model card with the checkpoint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from nas import export
from nas.architecture.blocks import block_kinds
from nas.architecture.cost import network_cost
from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.architecture.spec import Architecture, BlockChoice
from nas.console import run
from nas.data.packed.format import MARGIN, PackedHeader
from nas.data.packed.summary import describe_packed
from nas.data.packed.writer import PackedPerson, PackedWriter
from nas.data.skeletons import MPII
from nas.data.synthetic.render import render_person
from nas.inference import network_export
from nas.inference import onnx_export as exporting
from nas.inference.model_card import LICENCES, example
from nas.inference.onnx_export import TOLERANCE, ExportableNetwork, Session, compare, to_onnx
from nas.inference.predictor import Box, Predictor
from nas.study.space.space_file import read_space
from nas.training.checkpoint import checkpoint_metadata, load_network, save_checkpoint
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

REPOSITORY = Path(__file__).resolve().parents[1]
SIDE = 32
SCHEDULE = ScheduleConfig(32, epochs=1, batch=8, loss="cross_entropy", decoder="dark")
TINY = Architecture(stem=4, width=8, stacks=1, depth=1)
KINDS = block_kinds()


def with_batch_norm_statistics(architecture: Architecture, seed: int = 0) -> HourglassNetwork:
    """A network with non-default batch norm statistics, whose maps have peaks."""
    network = build_network(architecture, 16, (SIDE, SIDE), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.2, 1.5),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return network.eval()


def save(path: Path, network: HourglassNetwork, schedule: ScheduleConfig = SCHEDULE, **more: Any) -> Path:
    about = checkpoint_metadata(network.architecture, Losses(), schedule, MPII, SIDE)
    save_checkpoint(path, {**about, "average": network.state_dict(), **more})
    return path


def some_images(count: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (count - 2, SIDE, SIDE, 3), np.uint8)
    return np.concatenate([noise, np.stack([render_person(0, i, SIDE, 1.0).crop for i in range(2)])])


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(export.app, [str(a) for a in arguments])
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def exported(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: exit code, standard output, standard error."""
    return lambda *arguments: call(capsys, *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A checkpoint as full training writes it, its people, and its export with uint8 input and joints output."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "pilot" / "full" / "trial-7"
    folder.mkdir(parents=True)
    data = folder / "people.h5"
    with PackedWriter(data, PackedHeader(MPII, SIDE, {"dataset": "mpii", "annotations": "valid.json"}), 12) as writer:
        for i in range(12):
            person = render_person(0, i, SIDE, MARGIN)
            split = "train" if i < 6 else "valid"
            writer.put(
                i,
                PackedPerson(
                    person.crop, person.joints, person.labelled, person.head_size, np.eye(2, 3), split, f"{i}.jpg"
                ),
            )
    network = with_batch_norm_statistics(TINY)
    checkpoint = save(folder / "checkpoint.pt", network, people=[describe_packed(data).checksum, 6])
    result = {
        "result": {
            "label": "trial-7", "pckh": 61.25, "pckh_flipped": 63.5, "pckh_by_count": 60.0, "people": 6,
            "groups": {"head": 91.5}, "images": 4000, "seconds": 12.0,
        },
        "candidate": {"architecture": network.architecture.to_dict()},
        "record": {"commit": "abc123", "device": "a machine"},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    file = folder / "out" / "pose.onnx"
    with pytest.raises(SystemExit) as ended:
        run(
            export.app,
            [str(a) for a in (checkpoint, "--onnx", file, "--uint8", "--joints", "--data", data, "--json")],
        )
    assert ended.value.code == 0
    return SimpleNamespace(
        file=file, card=file.with_name("pose.onnx.md").read_text(), checkpoint=checkpoint, data=data, network=network
    )


@pytest.mark.slow
def test_the_file_agrees_with_the_predictor_at_any_batch_size(made) -> None:
    session = onnxruntime.InferenceSession(made.file, providers=["CPUExecutionProvider"])
    predictor = Predictor.load(made.checkpoint)
    pictures = some_images(7)
    wanted = predictor.poses(pictures, [Box.around(0, 0, SIDE, SIDE)] * 7)
    for batch in (1, 2, 7):
        [joints] = session.run(None, {"images": pictures[:batch]})
        assert joints.shape == (batch, 16, 3)
        assert joints.dtype == np.float32
        for mine, theirs in zip(joints, wanted, strict=False):
            assert np.abs(mine[:, :2] - theirs.joints).max() < 2e-3
            assert np.abs(mine[:, 2] - theirs.scores).max() < 1e-4
    assert len({tuple(np.round(pose.joints[0], 1)) for pose in wanted}) > 3  # they are not all alike


def test_the_file_is_small_and_holds_no_paths_of_this_machine(made) -> None:
    content = made.file.read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    assert b"site-packages" not in content
    assert str(Path.cwd()).encode() not in content
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["skeleton"])["joints"] == list(MPII.joints)
    assert "uint8" in told["input"]
    assert {path.name for path in made.file.parent.iterdir()} == {"pose.onnx", "pose.onnx.md"}


def test_the_card_states_what_is_known(made) -> None:
    cost = network_cost(TINY, 16, (SIDE, SIDE))
    for words in (
        f"| parameters | {cost.params:,} |",
        f"| multiply-adds | {cost.madds:,} ",
        f"{made.file.stat().st_size:,} bytes",
        "trial 7 of study `pilot`",
        "Commit abc123",
        "PCKh@0.5 61.25 on 6 validation people",
        "63.50 averaged",
        "head 91.5",
        "bootstrap over people) on the 6 validation people of people.h5",
        "dataset mpii",
        LICENCES["mpii"],
        "uint8 (N, 32, 32, 3)",
        "float32 (N, 16, 3)",
        "1 hourglass of depth 1",
        "9 head top",
    ):
        assert words in made.card, words
    low, high = map(float, re.search(r"95 %: ([\d.]+) to ([\d.]+)", made.card).groups())
    assert 0 <= low <= high <= 100


def test_people_without_a_validation_split_give_the_origin_only(made, exported, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(network_export, "to_onnx", lambda *_: made.file.read_bytes())
    data = tmp_path / "people.h5"
    with PackedWriter(data, PackedHeader(MPII, SIDE, {"dataset": "synthetic"}), 1) as writer:
        person = render_person(1, 0, SIDE, MARGIN)
        writer.put(0, PackedPerson(person.crop, person.joints, person.labelled, 5.0, np.eye(2, 3), "train", "a.jpg"))
    checkpoint = save(tmp_path / "checkpoint.pt", made.network, people=[describe_packed(data).checksum, 1])
    code, _, _ = exported(checkpoint, "--onnx", tmp_path / "a.onnx", "--uint8", "--joints", "--data", data)
    assert code == 0
    card = (tmp_path / "a.onnx.md").read_text()
    assert LICENCES["synthetic"] in card
    assert "95 %" not in card


def code_of(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found
    return found[1]


def run_example(folder: Path, code: str) -> str:
    picture = render_person(0, 3, 90, 1.0).crop
    cv2.imwrite(str(folder / "person.jpg"), picture[:, :, ::-1])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cards_example_runs(made) -> None:
    code = code_of(made.card)
    assert len(code.splitlines()) <= 6
    printed = np.array([float(word) for word in re.findall(r"[-+.\de]+", run_example(made.file.parent, code))])
    assert printed.shape == (16 * 3,)
    (made.file.parent / "person.jpg").unlink()


def test_a_card_states_what_is_unknown(made, exported, tmp_path, monkeypatch) -> None:
    # The file itself is not at issue here, and takes seconds to make.
    monkeypatch.setattr(network_export, "to_onnx", lambda *_: made.file.read_bytes())
    alone = tmp_path / "checkpoint.pt"
    alone.write_bytes(made.checkpoint.read_bytes())
    code, out, _ = exported(alone, "--onnx", tmp_path / "a.onnx", "--uint8", "--joints")
    assert code == 0
    assert f"of {norms(made.network)} batch norms folded" in out
    card = (tmp_path / "a.onnx.md").read_text()
    assert "Unknown: there is no `result.json` next to the checkpoint" in card
    assert "The checkpoint does not record the origin of its training data (6 people" in card
    # Another network's result is not this one's.
    other = json.loads(made.checkpoint.with_name("result.json").read_text())
    other["candidate"]["architecture"]["width"] = 12
    (tmp_path / "result.json").write_text(json.dumps(other))
    exported(alone, "--onnx", tmp_path / "a.onnx", "--uint8", "--joints")
    assert "Unknown: there is no `result.json`" in (tmp_path / "a.onnx.md").read_text()


def test_a_file_that_disagrees_with_pytorch_is_not_written(made, exported, tmp_path, monkeypatch) -> None:
    wrong = with_batch_norm_statistics(TINY)
    wrong.heads[0].heatmaps.weight.data *= 1.2
    monkeypatch.setattr(network_export, "to_onnx", lambda *_: made.file.read_bytes())
    checkpoint = save(tmp_path / "wrong.pt", wrong)
    code, out, err = exported(checkpoint, "--onnx", tmp_path / "a.onnx", "--uint8", "--joints")
    assert (code, out) == (2, "")
    assert "is not written: its joints differ from PyTorch's by up to" in err
    assert not list(tmp_path.glob("a.onnx*"))


class _StubSession(Session):
    """A session with a given function in place of an ONNX file."""

    def __init__(self, answer: Callable[[np.ndarray], np.ndarray]) -> None:
        self.answer = answer

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return self.answer(pictures)


@pytest.mark.parametrize("joints", [False, True])
def test_comparison_finds_the_largest_difference(joints: bool) -> None:
    module = ExportableNetwork(with_batch_norm_statistics(TINY), SCHEDULE, uint8=True, joints=joints).eval()

    def honest(pictures: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(pictures)).numpy()

    def with_one_fault(fault: float) -> Callable[[np.ndarray], np.ndarray]:
        def answer(pictures: np.ndarray) -> np.ndarray:
            out = honest(pictures)
            if len(pictures) == 3:
                out[2, 5].flat[1] += fault
            return out

        return answer

    pictures = some_images(6)
    assert compare(_StubSession(honest), module, pictures, (1, 3)).largest == 0
    found = compare(_StubSession(with_one_fault(0.25)), module, pictures, (1, 3))
    assert found.largest == pytest.approx(0.25, abs=1e-4)
    assert found.compared + found.unstable == 2 * 6 * 16
    assert found.unstable < 20
    assert compare(_StubSession(with_one_fault(0.25)), module, pictures, (1,)).largest == 0
    assert not compare(_StubSession(with_one_fault(float("nan"))), module, pictures, (3,)).largest < TOLERANCE


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


# Batch norms that stay in the file, of all in the network below: those that do not follow a convolution, or not alone.
BATCH_NORMS = {
    "bottleneck": (8, 26),
    "no_skip": (5, 26),
    "dice": (24, 50),
    "dilated": (8, 18),
    "dilated_separable": (8, 18),
    "ghost": (16, 34),
    "multidilated": (0, 42),
    "separable": (8, 26),
    "separable_3x3": (8, 26),
    "shuffle": (0, 26),
    "double_conv": (8, 18),
    "two_separable": (8, 18),
}


def differences(network: HourglassNetwork, schedule: ScheduleConfig = SCHEDULE, **how: bool) -> exporting.Difference:
    """The ONNX session of a network, and its difference from PyTorch."""
    return exported_session(network, schedule, **how)[1]


def exported_session(
    network: HourglassNetwork, schedule: ScheduleConfig, **how: bool
) -> tuple[Session, exporting.Difference]:
    module = ExportableNetwork(network, schedule, **{"uint8": False, "joints": False, **how}).eval()
    session = Session(to_onnx(module, SIDE, {}), 1)
    return session, compare(session, module, some_images(6), (1, 3))


def test_the_export_test_covers_every_block_of_the_spaces() -> None:
    assert set(BATCH_NORMS) == set(KINDS)
    [offered] = [
        d for name, d in read_space(REPOSITORY / "search_spaces" / "hourglass.toml").choices.items() if name == "block"
    ]
    assert set(offered.choices) <= set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_block_agrees_with_pytorch_after_folding_batch_norms(kind: str) -> None:
    block = BlockChoice(kind)
    network = with_batch_norm_statistics(Architecture(4, 8, 1, 1, block=block, trunk=block))
    # Heatmaps of squared error are exported as they are; softmax would hide an error that is the same everywhere.
    session, found = exported_session(network, ScheduleConfig(16, 1))
    print(f"{kind}: {found.largest:.1e}")
    assert (session.batch_norms, norms(network)) == BATCH_NORMS[kind]
    assert found.largest < TOLERANCE
    assert (found.compared, found.unstable) == (2 * 6 * 16, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(4, 8, 3, 2, junction="add", narrow_res=True),
        Architecture(4, 8, 3, 1, junction="resconcat"),
        Architecture(4, 8, 3, 1, junction="dense"),
        Architecture(4, 8, 1, 1, stem_kernel="patchify"),
        Architecture(4, 8, 1, 2, levels=(BlockChoice("ghost"), BlockChoice("shuffle"), BlockChoice("dice"))),
    ],
    ids=str,
)
def test_every_structure_agrees_with_pytorch(architecture: Architecture) -> None:
    assert differences(with_batch_norm_statistics(architecture), ScheduleConfig(16, 1)).largest < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "decoder", "uint8", "joints"), [
    ("mse", "quarter", False, True),
    ("cross_entropy", "quarter", True, True),
    ("mse", "dark", True, True),
    ("cross_entropy", "dark", True, False),
])  # fmt: skip
def test_every_input_and_output(loss: Any, decoder: Any, uint8: bool, joints: bool) -> None:
    schedule = ScheduleConfig(16, 1, loss=loss, decoder=decoder)
    found = differences(with_batch_norm_statistics(TINY), schedule, uint8=uint8, joints=joints)
    assert found.largest < TOLERANCE
    assert found.compared > 150


@pytest.mark.slow
def test_heatmaps_from_normalized_input_compared_on_a_photograph(shared_data, made, exported, tmp_path) -> None:
    photograph = shared_data / "mpii" / "person_running.jpg"
    code, out, _ = exported(made.checkpoint, "--onnx", tmp_path / "maps.onnx", "--picture", photograph, "--json")
    assert code == 0
    record = json.loads(out)
    assert record["difference"]["pictures"] == 7
    assert record["difference"]["largest"] < TOLERANCE
    assert record["bytes"] == (tmp_path / "maps.onnx").stat().st_size
    code_text = code_of((tmp_path / "maps.onnx.md").read_text())
    assert len(code_text.splitlines()) <= 6
    printed = np.array([float(word) for word in re.findall(r"[-+.\de]+", run_example(tmp_path, code_text))])
    assert printed.shape == (16 * 2,)
    assert (printed % 4 == 2).all()  # centres of cells


def test_examples_name_the_file_and_its_size() -> None:
    for uint8 in (False, True):
        for joints in (False, True):
            text = example("pose.onnx", 256, uint8, joints)
            assert '"pose.onnx"' in text
            assert "(256, 256)" in text


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages_are_named_with_the_command_that_installs_them(
    made, exported, tmp_path, monkeypatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    code, out, err = exported(made.checkpoint, "--onnx", tmp_path / "a.onnx")
    assert (code, out) == (2, "")
    assert err == f"error: {name} is not installed; give: pip install -e '.[export]'\n"


def test_bad_arguments_are_refused(made, exported, tmp_path) -> None:
    checkpoint, onnx_file = made.checkpoint, tmp_path / "a.onnx"
    copy = tmp_path / "a.onnx.md"  # a checkpoint in the card's place
    copy.write_bytes(checkpoint.read_bytes())
    people = tmp_path / "others.h5"
    with PackedWriter(people, PackedHeader(MPII, SIDE, {}), 1) as writer:
        person = render_person(1, 0, SIDE, MARGIN)
        writer.put(0, PackedPerson(person.crop, person.joints, person.labelled, 5.0, np.eye(2, 3), "valid", "a.jpg"))
    for arguments, complaint in (
        ((tmp_path / "none.pt", "--onnx", tmp_path / "b.onnx"), "none.pt does not exist"),
        ((made.data, "--onnx", tmp_path / "b.onnx"), "not a readable checkpoint"),
        ((checkpoint, "--onnx", checkpoint), "is one of the files to read"),
        ((copy, "--onnx", onnx_file), "a.onnx.md is one of the files to read"),
        ((checkpoint, "--onnx", tmp_path), "is a directory"),
        ((checkpoint,), "--onnx"),
        ((checkpoint, "--onnx", tmp_path / "b.onnx", "--data", people), "was not trained with these people"),
        ((checkpoint, "--onnx", tmp_path / "b.onnx", "--data", tmp_path / "no.h5"), "no.h5 does not exist"),
        ((checkpoint, "--onnx", tmp_path / "b.onnx", "--picture", people), "not an image"),
    ):
        code, out, err = exported(*arguments)
        assert (code, out) == (2, ""), complaint
        assert complaint in err
        assert err.count("\n") == 1
    assert copy.read_bytes() == checkpoint.read_bytes()
    assert not onnx_file.exists()
    assert not (tmp_path / "b.onnx").exists()


def test_a_network_without_any_peak_cannot_be_compared(made, exported, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(network_export, "to_onnx", lambda *_: made.file.read_bytes())
    monkeypatch.setattr(exporting, "_UNSTABLE", 0.0)
    code, _, err = exported(made.checkpoint, "--onnx", tmp_path / "a.onnx", "--uint8", "--joints")
    assert code == 2
    assert "nothing can be compared" in err


def test_the_exported_weights_are_the_averaged_ones(made) -> None:
    network, _ = load_network(made.checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), made.network.parameters(), strict=True))
