"""``python -m nas.predict``: boxes, predicted joints, written files and refused input."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from films import film
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from nas import predict
from nas.architecture.hourglass import Output, build_network
from nas.architecture.spec import Architecture
from nas.console import run
from nas.data.augmentation import PIXEL_MEAN, PIXEL_SCALE
from nas.data.media_io import Clip, Frame, VideoWriter, opened_video
from nas.data.readers.mpii import read_mpii
from nas.data.skeletons import MPII, Skeleton
from nas.data.visualization.drawing import LEFT, MIDDLE, RIGHT
from nas.data.visualization.pose_overlay import draw_pose
from nas.errors import UserError
from nas.inference import pose_writer
from nas.inference.predictor import Box, Predictor, target_peak
from nas.training.checkpoint import checkpoint_metadata, save_checkpoint
from nas.training.heatmaps import encode
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

Command = Callable[..., tuple[int, str, str]]

SIZE = 64
SCHEDULE = ScheduleConfig(16, epochs=1)
COLOURS = Skeleton("colours", ("red", "green", "blue"), (), ((0, 1), (1, 2)), {"all": (0, 1, 2)})
SPOTS = np.array([[610.3, 250.8], [655.6, 330.1], [700.9, 260.4]])


class Oracle(nn.Module):
    """A perfect network: the map of joint j is colour channel j of the image, shifted right by ``wrong`` cells."""

    def __init__(self, wrong: int = 0) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, images: Tensor) -> Output:
        shine = F.avg_pool2d((images * PIXEL_SCALE + PIXEL_MEAN) / 255, 4)
        return Output((shine.roll(self.wrong, -1),), ())


def shining(spots: NDArray[np.float64], width: int, height: int, sigma: float) -> NDArray[np.uint8]:
    """A dark RGB image with a Gaussian spot in each colour channel."""
    maps = encode(torch.from_numpy(spots)[None], (height, width), sigma)[0]
    return (maps * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def save(path: Path, image: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an untrained network with MPII's joints."""
    torch.set_num_threads(1)
    architecture = Architecture(stem=4, width=8, stacks=1, depth=1)
    network = build_network(architecture, 16, (SIZE, SIZE), seed=0)
    path = tmp_path_factory.mktemp("network") / "checkpoint.pt"
    about = checkpoint_metadata(architecture, Losses(), SCHEDULE, MPII, SIZE)
    save_checkpoint(path, {**about, "average": network.state_dict()})
    return path


@pytest.fixture
def predicted(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run(predict.app, [str(a) for a in arguments])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    """A perfect network in place of any checkpoint's."""
    network = Oracle()
    predictor = Predictor(network, SCHEDULE, COLOURS, SIZE)
    monkeypatch.setattr(Predictor, "load", classmethod(lambda cls, path, device: predictor))
    return network


def places(people: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Joint positions, (people, joints, 2)."""
    return np.array([[[joint["x"], joint["y"]] for joint in person["joints"]] for person in people])


@pytest.mark.parametrize(
    ("flags", "side"),
    [
        (["--box", "500,150,320,300"], 320),
        (["--box", "-100,-200,900,900"], 900),
        (["--center-scale", "650.5,250.5,1.5"], 375),
        (["--whole"], 1280),
        ([], 1280),
    ],
)
def test_joints_are_predicted_at_their_positions(oracle, checkpoint, predicted, tmp_path, flags, side) -> None:
    cell = side / SIZE * 4
    picture = save(tmp_path / "in" / "spots.png", shining(SPOTS, 1280, 720, 1.3 * cell))
    code, out, _ = predicted(checkpoint, picture, *flags, "--out", tmp_path / "out", "--json")
    [record] = json.loads(out)
    assert code == 0
    [[*_, width, height]] = [person["box"] for person in record["people"]]
    assert (width, height) == (side, side)
    assert np.abs(places(record["people"])[0] - SPOTS).max() < 0.05 * cell
    assert record["picture"] == str(picture)
    assert (record["width"], record["height"]) == (1280, 720)
    assert "(0.5, 0.5)" in record["coordinates"]
    assert all(0.8 < joint["score"] <= 1 for joint in record["people"][0]["joints"])
    assert record == json.loads((tmp_path / "out" / "spots.pose.json").read_text())


def test_a_small_box_resolves_single_pixels(oracle, checkpoint, predicted, tmp_path) -> None:
    # One input pixel a pixel: what a convention of pixel centres of its own would move by half a pixel.
    spots = np.array([[20.25, 30.5], [33.0, 18.75], [41.5, 44.0]])
    picture = save(tmp_path / "spots.png", shining(spots, SIZE, SIZE, 5.0))
    _, out, _ = predicted(checkpoint, picture, "--out", tmp_path / "out", "--json")
    assert np.abs(places(json.loads(out)[0]["people"])[0] - spots).max() < 0.15


def test_flip_averaging_cancels_a_horizontal_bias(oracle, checkpoint, predicted, tmp_path) -> None:
    cell = 1280 / SIZE * 4
    picture = save(tmp_path / "spots.png", shining(SPOTS, 1280, 720, 1.5 * cell))
    oracle.wrong = 1
    for flags, shift in (([], cell), (["--flip"], 0)):
        _, out, _ = predicted(checkpoint, picture, *flags, "--out", tmp_path / "out", "--json")
        apart = places(json.loads(out)[0]["people"])[0] - SPOTS
        assert np.abs(apart - [shift, 0]).max() < 0.05 * cell


def test_several_boxes_are_several_people(oracle, checkpoint, predicted, tmp_path) -> None:
    spots = np.array([[100.0, 100.0], [130.0, 160.0], [160.0, 100.0]])
    other = np.array([500.0, 0.0]) + spots
    double = shining(spots, 800, 300, 15) + shining(other, 800, 300, 15)
    picture = save(tmp_path / "two.png", double)
    boxes = ["--box", "10,10,240,240", "--box", "510,10,240,240"]
    _, out, _ = predicted(checkpoint, picture, *boxes, "--out", tmp_path / "out", "--json")
    people = json.loads(out)[0]["people"]
    assert np.abs(places(people) - [spots, other]).max() < 1
    assert [person["box"] for person in people] == [[10, 10, 240, 240], [510, 10, 240, 240]]


def test_center_and_scale_give_the_box_that_the_reader_of_mpii_makes(shared_data: Path) -> None:
    file = shared_data / "mpii" / "annot" / "valid.json"
    read = {person.image: person for person in read_mpii(file, {"valid": 1.0}).people}
    raw = json.loads(file.read_text())
    assert len(raw) == 5
    for person in raw:
        box, wanted = Box.mpii(*person["center"], person["scale"]), read[person["image"]]
        assert (box.x, box.y, box.side) == pytest.approx((*wanted.center, wanted.size))


def test_broken_files_of_a_folder_are_reported_and_skipped(checkpoint, predicted, tmp_path) -> None:
    folder = tmp_path / "in"
    for name in ("b.png", "a.JPG", "c.bmp"):
        save(folder / name, shining(SPOTS / 10, 128, 72, 5))
    (folder / "broken.jpg").write_bytes((folder / "a.JPG").read_bytes()[:400])
    (folder / "empty.png").touch()
    (folder / "film.mp4").write_bytes(b"not a film")
    (folder / "notes.txt").write_text("not looked at")
    (folder / "b.pose.png").write_bytes(b"an earlier answer, not looked at")
    code, out, err = predicted(checkpoint, folder, "--out", tmp_path / "out")
    assert code == 1
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [next(n for n in ("broken.jpg", "empty.png", "film.mp4") if n in line) for line in errors] == [
        "broken.jpg",
        "empty.png",
        "film.mp4",
    ]
    assert "3 of 6 could not be done" in err
    assert len(out.splitlines()) == 3
    written = {"a.pose.jpg", "a.pose.json", "b.pose.png", "b.pose.json", "c.pose.png", "c.pose.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == written
    drawn = cv2.imread(str(tmp_path / "out" / "a.pose.jpg"))
    assert drawn.shape == (72, 128, 3)


def test_images_of_equal_names_get_distinct_outputs(checkpoint, predicted, tmp_path) -> None:
    given = [save(tmp_path / name, shining(SPOTS / 10, 128, 72, 5)) for name in ("a/x.png", "b/x.png", "c/X.jpg")]
    code, out, err = predicted(checkpoint, *given, given[0], "--out", tmp_path / "out", "--json")
    assert code == 0
    records = json.loads(out)
    assert [record["drawing"] for record in records] == ["x.pose.png", "x-2.pose.png", "X-3.pose.jpg"]
    assert [record["picture"] for record in records] == [str(path) for path in given]
    assert "b/x.png is not the only x" in err
    for record in records:
        name = record["drawing"].partition(".")[0]
        assert json.loads((tmp_path / "out" / f"{name}.pose.json").read_text()) == record


def test_a_video_frame_by_frame(oracle, checkpoint, predicted, tmp_path) -> None:
    size = (160, 120)
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
    spots = np.array([[40.0, 40.0], [60.0, 80.0], [80.0, 50.0]])
    truth = [spots + np.array([3.0 * frame, 0.0]) for frame in range(20)]
    for spots in truth:
        writer.write(np.ascontiguousarray(shining(spots, *size, 10)[:, :, ::-1]))
    writer.release()
    code, out, err = predicted(checkpoint, film, "--out", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    [record] = json.loads(out)
    assert (record["width"], record["height"], record["frames_per_second"]) == (*size, 10)
    assert [frame["frame"] for frame in record["frames"]] == list(range(20))
    assert record["frames"][7]["seconds"] == 0.7
    assert np.abs(places([frame["people"][0] for frame in record["frames"]]) - truth).max() < 1.5
    with opened_video(tmp_path / "out" / "film.pose.mp4") as (clip, frames):
        shown = [frame.image for frame in frames]
    assert len(shown) == 20
    assert (clip.width, clip.height, clip.rate) == (*size, 10)
    # The drawn film shows the same scene: far from the drawing, it is as dark as before.
    assert shown[0][-20:].mean() < 12
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"film.pose.mp4", "film.pose.json"}


def test_a_camera_is_recorded_until_it_is_stopped(oracle, checkpoint, predicted, tmp_path, monkeypatch) -> None:
    @contextmanager
    def camera(source: int, *_: object) -> Iterator[tuple[Clip, Iterator[Frame]]]:
        def frames() -> Iterator[Frame]:
            for number in range(4):
                yield Frame(shining(SPOTS / 10, 129, 73, 5), number / 7)  # odd sides, which the format does not have
            raise KeyboardInterrupt

        yield Clip(129, 73, 25, 0), frames()

    monkeypatch.setattr(pose_writer, "opened_video", camera)
    code, out, _ = predicted(checkpoint, "--webcam", 0, "--out", tmp_path)
    assert code == 0
    assert "webcam-0.pose.mp4" in out
    frames = json.loads((tmp_path / "webcam-0.pose.json").read_text())["frames"]
    assert [frame["seconds"] for frame in frames] == [0.0, 0.1429, 0.2857, 0.4286]
    with opened_video(tmp_path / "webcam-0.pose.mp4") as (clip, shown):
        assert len(list(shown)) == 4
    assert (clip.width, clip.height) == (130, 74)


def test_uneven_frames_keep_their_times(oracle, checkpoint, predicted, tmp_path) -> None:
    times = [0, 1, 2, 62, 63, 64]
    path = film(tmp_path / "12:30.mp4", times, 30, turn=1)
    for flags, size in ((["--whole"], (48, 64)), (["--center-scale", "32,24,0.3"], (64, 48))):
        code, out, err = predicted(checkpoint, path, *flags, "--out", tmp_path / "out", "--json")
        assert code == 0
        [record] = json.loads(out)
        assert [frame["seconds"] for frame in record["frames"]] == pytest.approx(
            [time / 30 for time in times], abs=1e-3
        )
        assert (record["width"], record["height"]) == size
        assert "not evenly spaced" in err


def test_joints_do_not_depend_on_the_drawing(oracle, checkpoint, predicted, tmp_path, monkeypatch) -> None:
    film, out = tmp_path / "film.mp4", tmp_path / "out"
    with VideoWriter(film, Clip(128, 72, 10, 0)) as writer:
        for _ in range(3):
            writer.put(shining(SPOTS / 10, 128, 72, 5))
    picture = save(tmp_path / "photo.png", shining(SPOTS / 10, 128, 72, 5))
    for name in ("film.pose.mp4", "photo.pose.png"):
        (out / name).mkdir(parents=True)  # in the drawing's place
    code, printed, err = predicted(checkpoint, film, picture, "--out", out, "--json")
    assert code == 1
    assert [record["drawing"] for record in json.loads(printed)] == [None, None]
    assert err.count("the JSON file is written without it") == 2
    assert len(json.loads((out / "film.pose.json").read_text())["frames"]) == 3
    assert len(json.loads((out / "photo.pose.json").read_text())["people"]) == 1


@pytest.mark.parametrize("stored", ["utf-8", "latin-1"])
def test_names_of_any_bytes(checkpoint, predicted, tmp_path, stored: str) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "z.png"):
        save(folder / name, shining(SPOTS / 10, 128, 72, 5))
    name = os.fsdecode("café.png".encode(stored))
    (folder / "a.png").rename(folder / name)
    (folder / os.fsdecode(b"bad\xff.png")).write_bytes(b"not an image")
    code, out, err = predicted(checkpoint, folder, "--out", tmp_path / "out")
    assert code == 1
    shown = "café" if stored == "utf-8" else r"caf\xe9"
    assert f"in/{shown}.png: " in out
    assert r"in/bad\xff.png: not an image" in err
    record = json.loads((tmp_path / "out" / name.replace(".png", ".pose.json")).read_text(encoding="utf-8"))
    assert record["picture"] == f"{folder}/{shown}.png"
    assert record["drawing"] == f"{shown}.pose.png"
    assert (tmp_path / "out" / name.replace(".png", ".pose.png")).is_file()
    assert (tmp_path / "out" / "z.pose.json").is_file()


def test_what_is_no_file_is_not_waited_for(checkpoint, predicted, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, what in ((tmp_path / "pipe.png", "a FIFO"), ("/dev/zero", "a device")):
        code, _, err = predicted(checkpoint, path, "--out", tmp_path / "out")
        assert (code, err.count("\n")) == (2, 1)
        assert f"IMAGE {path} is {what}, not a file" in err
    save(tmp_path / "a.png", shining(SPOTS / 10, 128, 72, 5))
    code, out, _ = predicted(checkpoint, tmp_path, "--out", tmp_path / "out")
    assert (code, len(out.splitlines())) == (0, 1)
    code, _, err = predicted(checkpoint, "a" * 300, "--out", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)


def test_an_incomplete_video_is_not_kept(tmp_path) -> None:
    def film(lost: int, error: type[BaseException] | None = None) -> None:
        with VideoWriter(earlier, Clip(32, 32, 10, 0)) as writer:
            writer.put(np.zeros((32, 32, 3), np.uint8))
            writer._frames += lost  # as if a full disk had swallowed them
            if error is not None:
                raise error

    earlier = tmp_path / "a.mp4"
    earlier.write_bytes(b"what was there before")
    with pytest.raises(KeyboardInterrupt):
        film(0, KeyboardInterrupt)
    with pytest.raises(UserError, match="not all frames could be written"):
        film(1)
    assert earlier.read_bytes() == b"what was there before"
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["IN/a.png", "--box", "1,2,3"], "--box 1,2,3: must be X,Y,W,H"),
        (["IN/a.png", "--box", "1,2,x,4"], "--box 1,2,x,4: must be X,Y,W,H"),
        (["IN/a.png", "--box", "1,2,nan,4"], "--box 1,2,nan,4: must be X,Y,W,H"),
        (["IN/a.png", "--box", "1,2,0,4"], "width and height must be at least 1"),
        (["IN/a.png", "--center-scale", "1,2"], "--center-scale 1,2: must be X,Y,SCALE"),
        (["IN/a.png", "--center-scale", "1,2,0"], "the scale"),
        (["IN/a.png", "--box", "1,2,3,4", "--whole"], "--box and --whole"),
        (["IN/a.png", "--box", "1,2,3,4", "--center-scale", "1,2,3"], "--box and --center-scale"),
        (["IN/none.png"], "none.png does not exist"),
        (["IN"], "--out"),
        (["EMPTY"], "no images or videos"),
        ([], "give images, videos or folders"),
        (["IN/a.png", "--webcam", "0"], "not both"),
        (["--webcam", "97"], "--webcam 97: no such camera"),
        (["IN/a.png", "--out", "IN/a.png"], "is a file; give a directory"),
        (["IN/a.png", "IN/a.pose.png", "--out", "IN"], "a.pose.png is one of the files to read"),
        (["IN/a.png", "--device", "tpu"], "--device tpu"),
    ],
)
def test_bad_arguments_are_refused(checkpoint, predicted, tmp_path, arguments, complaint) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a.png", "a.pose.png"):
        save(tmp_path / "in" / name, shining(SPOTS / 10, 128, 72, 5))
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    line = [a.replace("IN", str(tmp_path / "in")).replace("EMPTY", str(tmp_path / "empty")) for a in arguments]
    if line == [str(tmp_path / "in")]:
        line += ["--out", str(tmp_path / "in" / "a.png" / "below")]
    elif "--out" not in line:
        line += ["--out", str(tmp_path / "out")]
    code, out, err = predicted(checkpoint, *line)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_no_checkpoint(predicted, tmp_path) -> None:
    picture = save(tmp_path / "a.png", shining(SPOTS / 10, 128, 72, 5))
    code, _, err = predicted(tmp_path / "none.pt", picture, "--out", tmp_path / "out")
    assert code == 2
    assert "none.pt does not exist" in err
    code, _, err = predicted(picture, picture, "--out", tmp_path / "out")
    assert code == 2
    assert "not a readable checkpoint" in err


def test_a_box_outside_an_image_is_an_error_of_that_image(checkpoint, predicted, tmp_path) -> None:
    small = save(tmp_path / "small.png", shining(SPOTS / 10, 100, 72, 5))
    large = save(tmp_path / "large.png", shining(SPOTS / 10, 300, 72, 5))
    code, _, err = predicted(checkpoint, small, large, "--box", "150,0,60,60", "--out", tmp_path / "out", "--quiet")
    assert code == 1
    assert err.count("\n") == 1
    assert "small.png: the box from 150,0 of side 60 lies outside the 100×72 image" in err
    assert (tmp_path / "out" / "large.pose.png").is_file()


def test_quiet_prints_nothing(checkpoint, predicted, tmp_path) -> None:
    picture = save(tmp_path / "a.png", shining(SPOTS / 10, 128, 72, 5))
    assert predicted(checkpoint, picture, "--out", tmp_path / "out", "--quiet") == (0, "", "")
    assert (tmp_path / "out" / "a.pose.json").is_file()


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    """Add an EXIF orientation tag to a JPEG."""
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + orientation.to_bytes(2, "big") + b"\0\0\0\0\0\0"
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def test_exif_rotation_is_applied_except_with_mpii_annotations(checkpoint, predicted, tmp_path) -> None:
    path = save(tmp_path / "phone.jpg", shining(SPOTS / 10, 128, 72, 5))
    path.write_bytes(with_exif(path.read_bytes(), 6))
    for flags, size in ((["--whole"], (72, 128)), (["--center-scale", "40,40,0.5"], (128, 72))):
        _, out, _ = predicted(checkpoint, path, *flags, "--out", tmp_path / "out", "--json")
        [record] = json.loads(out)
        assert (record["width"], record["height"]) == size


def test_a_bound_on_pixels_and_the_first_of_several_frames(checkpoint, predicted, tmp_path) -> None:
    frame = shining(SPOTS / 10, 128, 72, 5)
    path = tmp_path / "moving.png"
    Image.fromarray(frame).save(path, save_all=True, append_images=[Image.fromarray(frame[::-1])])
    code, _, err = predicted(checkpoint, path, "--out", tmp_path / "out", "--max-pixels", "9k")
    assert code == 1
    assert f"error: {path}: 128×72 are more than 9,000 pixels; " in err
    code, _, err = predicted(checkpoint, path, "--out", tmp_path / "out", "--max-pixels", "10k")
    assert code == 0
    assert f"note: {path} holds several frames or pages; only the first is used" in err
    assert predicted(checkpoint, path, "--out", tmp_path / "out", "--quiet") == (0, "", "")
    code, _, err = predicted(checkpoint, path, "--out", tmp_path / "out", "--max-pixels", "many")
    assert (code, err.count("\n")) == (2, 1)
    assert "--max-pixels many" in err


def test_a_photograph(shared_data: Path, checkpoint, predicted, tmp_path) -> None:
    source = shared_data / "mpii" / "person_running.jpg"
    code, _, err = predicted(checkpoint, source, "--out", tmp_path)
    assert (code, err) == (0, "")
    before, after = cv2.imread(str(source)), cv2.imread(str(tmp_path / "person_running.pose.jpg"))
    assert before.shape == after.shape
    assert (np.abs(before.astype(int) - after).max(axis=-1) > 60).mean() > 0.001


SIDES = Skeleton("sides", ("right hand", "left hand", "left foot"), ((0, 1),), ((0, 1), (1, 2)), {"all": (0, 1, 2)})


def test_drawings_show_sides_and_low_scores() -> None:
    picture = np.full((200, 300, 3), 90, np.uint8)
    joints = np.array([[50.5, 50.5], [250.5, 50.5], [250.5, 150.5]])
    drawn = draw_pose(picture, joints, np.array([0.9, 0.9, 0.1]), SIDES, 0.5)
    assert (picture == 90).all()
    assert tuple(drawn[50, 50]) == RIGHT
    assert tuple(drawn[50, 250]) == LEFT
    assert drawn[50, 150].tolist() != [90, 90, 90]  # the limb between hands
    assert tuple(drawn[150, 250]) != MIDDLE  # a ring
    assert drawn[180:, :200].tolist() == picture[180:, :200].tolist()
    sure = draw_pose(picture, joints, np.ones(3), SIDES, 0.5)
    assert tuple(sure[150, 250]) == MIDDLE
    assert (
        np.abs(sure[100, 245:255].astype(int) - 90).sum() > 2 * np.abs(drawn[100, 245:255].astype(int) - 90).sum() > 0
    )


def test_line_width_grows_with_the_person() -> None:
    picture = np.zeros((1200, 1200, 3), np.uint8)
    unit = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    thick = []
    for extent in (100, 1000):
        drawn = draw_pose(picture, 100 + extent * unit, np.ones(3), SIDES, 0.5)
        thick.append(int((drawn[:, 100 + extent // 2].max(axis=-1) > 100).sum()))
    assert thick[1] > 4 * thick[0]


def test_distant_and_coincident_joints_can_be_drawn() -> None:
    picture = np.zeros((50, 50, 3), np.uint8)
    for joints in (np.full((3, 2), 1e9), np.full((3, 2), 25.0), np.full((3, 2), -1e9)):
        assert draw_pose(picture, joints, np.ones(3), SIDES, 0.5).shape == picture.shape


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0])
def test_scores_are_relative_to_the_peak_of_the_target(sigma: float) -> None:
    schedule = ScheduleConfig(16, epochs=1, loss="cross_entropy", sigma=sigma)
    target = encode(torch.tensor([[[8.5, 8.5]]]), (16, 16), sigma)
    assert target_peak(schedule) == pytest.approx(float((target / target.sum()).max()), rel=1e-3)
    assert target_peak(ScheduleConfig(16, epochs=1, sigma=sigma)) == 1


def test_it_runs_as_a_command(checkpoint, command, tmp_path) -> None:
    picture = save(tmp_path / "a.png", shining(SPOTS / 10, 128, 72, 5))
    done = command("predict", checkpoint, picture, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "out")) == ["a.pose.json", "a.pose.png"]
