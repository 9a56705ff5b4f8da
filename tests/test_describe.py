"""``python -m nas.describe``."""

import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from nas import describe
from nas.console import run

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def described(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run(describe.app, [str(a) for a in arguments])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return call


def test_hg2(in_process: Command) -> None:
    done = in_process("describe", "hg2")
    assert done.returncode == 0
    assert done.stderr == ""
    for text in (
        "from A, B, N; printed: params 6.7 M, MAdds 9.14 G, PCKh 59.76 (A), PCKh 77.84 (B)",
        "2 hourglasses of depth 4, 13 blocks 256 → 256 (inner width 128):",
        "neck, 4×4: bottleneck",
        "junction: add: x + 1×1(y) + 1×1(s)",
        "losses: on the heatmaps of every hourglass, weights 1 each",
        "MAdds at 256×256",
        "6,730,912  100.0     9,036,759,040  100.0",
    ):
        assert text in done.stdout


def test_json(described) -> None:
    code, out, _ = described("separable_resconcat_narrowres_perceptual", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["params"] == 1_417_616
    assert record["madds"] == pytest.approx(2.482e9, rel=0.005)
    assert (record["input_size"], record["joints"]) == (256, 16)
    assert record["architecture"]["junction"] == "resconcat"
    assert record["losses"]["alpha"] == 0.7
    for what in ("params", "madds", "layers"):
        assert sum(part[what] for part in record["parts"].values()) == record[what]


def test_every_published_row_as_json(described) -> None:
    code, out, _ = described("--published", "--json")
    records = json.loads(out)
    assert code == 0
    assert [r["name"] for r in records][:3] == ["hg1", "hg2", "hg3"]
    assert len(records) == 28
    for record in records:
        assert type(record["params"]) is type(record["madds"]) is int
        assert (record["input_size"], record["joints"]) == (256, 16)


def test_published_table_truncates_neither_names_nor_digits(described) -> None:
    code, out, _ = described("--published")
    assert code == 0
    assert "separable_resconcat_narrowres_perceptual  A       1,417,616   1.41 M   2.482 G   2.57 G" in out
    assert "59.76 (A), 77.84 (B)" in out
    assert "two_separable: the printed count is not reproducible" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hg1", ["1 hourglass of depth 4", "losses: on the heatmaps\n"]),
        ("dense", ["dense: x + 1×1(y) + 1×1(s), of all earlier hourglasses", "note: C's baseline"]),
        ("weights_30_70", ["weights 0.6, 1.4"]),
        ("perceptual", ["perceptual between consecutive necks (squared error), α 0.7, λ 2"]),
        ("separable_resconcat_narrowres", ["junction: ResConcat", "NarrowRes: the neck's output"]),
        ("patchify", ["stem: 3×3 convolution of stride 2, 3 → 64"]),
    ],
)
def test_description_in_words(described, name: str, words: list[str]) -> None:
    code, out, _ = described(name)
    assert code == 0
    assert all(text in out for text in words)


def test_size_flags(described) -> None:
    code, out, _ = described("hg2", "--input-size", 64, "--joints", 14, "--width-scale", 0.25, "--json")
    record = json.loads(out)
    assert code == 0
    assert (record["input_size"], record["joints"]) == (64, 14)
    assert (record["architecture"]["stem"], record["architecture"]["width"]) == (16, 32)
    assert record["params"] < 500_000


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("mine.json", json.dumps({"architecture": {"width": 84, "stem": 48}, "losses": {"weights": [0.5, 1.5]}})),
        ("mine.json", json.dumps({"width": 84, "stem": 48})),
        ("mine.toml", "[architecture]\nwidth = 84\nstem = 48\n"),
        ("mine.toml", "width = 84\nstem = 48\n"),
    ],
)
def test_architecture_files(described, tmp_path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    code, out, _ = described(tmp_path / file, "--json")
    assert code == 0
    assert (json.loads(out)["name"], json.loads(out)["params"]) == ("mine", 2_988_152)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["hg22"], "no published network is named 'hg22'; did you mean hg2"),
        (["hg2", "--input-size", 100], "--input-size 100: both sides must be multiples of 64 at depth 4"),
        (["hg2", "--input-size", 0], "--input-size 0: both sides must be multiples of 64"),
        (["hg2", "--input-size", "big"], "Invalid value for '--input-size'"),
        (["hg2", "--joints", 0], "--joints 0: must be at least 1"),
        (["hg2", "--width-scale", "nan"], "--width-scale nan: must be from 0.01 to 100"),
        (["hg2", "--published"], "give either the NAME of a network or --published"),
        ([], "give either the NAME of a network or --published"),
        (["hg2", "--latencies"], "No such option"),
        (["nothing.json"], "NAME nothing.json does not exist"),
    ],
)
def test_bad_input_is_one_line(described, arguments: list[Any], complaint: str) -> None:
    code, out, err = described(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("x.json", "{", "not valid JSON"),
        ("x.json", "[]", "architecture: expected a table, not []"),
        ("x.json", '{"stack": 2}', "unknown key 'stack'; allowed: block"),
        ("x.json", '{"architecture": {}, "loss": {}}', "candidate: unknown key 'loss'"),
        ("x.json", '{"architecture": 3}', "architecture: expected a table, not 3"),
        ("x.json", '{"losses": {"weights": [1, 2, 3]}}', "losses: 3 weights for 2 hourglasses"),
        ("x.toml", "[", "not valid TOML"),
        ("x.toml", "block = 'nothing'", "unknown block 'nothing'; choose one of bottleneck"),
        ("x.toml", "width = 5\nblock = 'ghost'", "ghost: width 5 is odd"),
    ],
)
def test_bad_files_are_one_line(described, tmp_path, file: str, text: str, complaint: str) -> None:
    (tmp_path / file).write_text(text)
    code, out, err = described(tmp_path / file)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_printed_rows_have_the_trade_off_of_samadh_and_al_khatib(described) -> None:
    _, out, _ = described("--published", "--json")
    scores = {record["name"]: record["printed"]["tradeoff"] for record in json.loads(out)}
    assert scores["hg2"] == 0
    assert scores["separable"] == pytest.approx(14.87, abs=0.005)
    assert scores["dice"] is None  # its MAdds are not printed


@pytest.mark.slow
def test_latency_is_the_median_of_many_runs_with_its_spread(described) -> None:
    code, out, _ = described(
        "hg1", "--input-size", 64, "--width-scale", 0.0625, "--latency", "--json", "--device", "cpu", "--batch", 2
    )
    latency = json.loads(out)["latency"]
    assert code == 0
    assert (latency["batch"], latency["step_batch"], latency["device"], latency["threads"]) == (2, 2, "CPU", 1)
    for timing in (latency["forward"], latency["step"]):
        assert timing["runs"] >= 10
        assert 0 < timing["low"] <= timing["median"] <= timing["high"]
    assert latency["step"]["median"] > latency["forward"]["median"]


@pytest.mark.slow
def test_latency_in_words(described) -> None:
    code, out, _ = described("hg1", "--input-size", 64, "--width-scale", 0.0625, "--latency", "--device", "cpu")
    assert code == 0
    assert "latency on CPU, 1 thread, median of " in out
    assert "prediction of 1 image " in out
    assert "training step of 2 images " in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hourglass", "lightweight", "levels"])
def test_space_description(described, name: str) -> None:
    code, out, _ = described("--space", name)
    about = json.loads(described("--space", name, "--json")[1])
    assert code == 0
    assert f"{name}.toml: {about['architectures']:,} different architectures" in out.replace("\n", " ")
    assert about["points"] > about["architectures"] > 10_000
    for choice in about["content"]:
        assert choice.removeprefix("limits.") in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--space", "none"), "none: no such file"),
        (("hg2", "--space", "levels"), "give no NAME"),
        (("--space", "levels", "--published"), "no --published"),
        (("hg2", "--latency", "--batch", 0), "--batch 0: must be at least 1"),
        (("hg2", "--latency", "--threads", -1), "--threads -1: must be at least 1"),
        (("hg2", "--latency", "--device", "tpu"), "--device tpu: must be auto, cpu or cuda"),
    ],
)
def test_wrong_flags_about_spaces_and_latency(described, arguments: tuple[object, ...], expected: str) -> None:
    code, _, errors = described(*arguments)
    assert code == 2
    assert expected in errors
    assert errors.count("\n") == 1
