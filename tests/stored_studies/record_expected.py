"""Record what a version says of the stored study: ``python record_expected.py 0.7.0.tar.xz expected.json``.

It uses command lines, Optuna and ``nas.load`` only, so that it runs under any version.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import optuna
import torch

import nas

CHECKPOINT = "runs/stored/full/trial-4/checkpoint.pt"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a stored study."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")


def command(folder: Path, name: str, *arguments: str) -> str:
    """Run ``python -m nas.<name>`` in a folder and return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    line = [sys.executable, "-m", f"nas.{name}", *arguments]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: exit code {done.returncode}: {done.stderr}")
    return done.stdout


def trials(folder: Path, study: str) -> list[dict[str, Any]]:
    """The trials of a study, as Optuna reads them."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loaded = optuna.load_study(study_name=study, storage=f"sqlite:///{folder}/runs/stored/study.db")
    return [
        {"number": t.number, "state": t.state.name, "values": t.values, "params": t.params, "attrs": t.user_attrs}
        for t in loaded.trials
    ]


def prediction(folder: Path) -> list[float]:
    """Some values of a trained network's heatmaps of a fixed image."""
    network = nas.load(folder / CHECKPOINT)
    image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        heatmaps = network(image).heatmaps[-1]
    return [float(value) for value in heatmaps.flatten()[::397]]


def as_stored(folder: Path) -> dict[str, Any]:
    """Everything that is read from the study without training."""
    data = ("--data", "people.h5", "--json")
    return {
        "report": json.loads(command(folder, "report", "--study", "stored", "--json")),
        "trials": {name: trials(folder, name) for name in ("stored", "stored-full", "stored-repeats")},
        "evaluation": json.loads(command(folder, "evaluate", CHECKPOINT, *data)),
        "prediction": prediction(folder),
        "retrained": json.loads(command(folder, "retrain", "--study", "stored", "--pick", "knee", "--json")),
    }


def machine() -> list[str]:
    """What the rounding of training depends on: processor and PyTorch."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return [next((line for line in lines if line.startswith("model name")), ""), torch.__version__]


def continued(folder: Path) -> dict[str, Any]:
    """The report and the trials after the search has continued to its end with one worker."""
    command(folder, "search", "--study", "stored.toml", "--trials", "21", "--workers", "1", "--quiet")
    report = json.loads(command(folder, "report", "--study", "stored", "--json"))
    return {"report": report, "trials": trials(folder, "stored")}


def main(archive: str, output: str) -> None:
    """Unpack the study, and write what this version says of it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        unpack(Path(archive), folder)
        expected = {"as_stored": as_stored(folder), "machine": machine(), "continued": continued(folder)}
    Path(output).write_text(json.dumps(expected, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
