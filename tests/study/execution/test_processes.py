"""Whether a full training is on its own or one of several processes, by its environment."""

from __future__ import annotations

import pytest

from nas.errors import UserError
from nas.study.execution.full_training import processes


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("names", [(), ("RANK",), ("RANK", "WORLD_SIZE")])
def test_a_process_without_a_master_is_on_its_own(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names:
        monkeypatch.setenv(name, "1" if name == "WORLD_SIZE" else "0")
    with processes("cpu") as own:
        assert own == (0, "cpu")


def test_several_processes_that_cannot_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "WORLD_SIZE=2: several processes need RANK, MASTER_ADDR, MASTER_PORT too"
    with pytest.raises(UserError, match=message), processes("cpu"):
        pass
