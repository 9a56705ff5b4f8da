"""The heap of a process that computes on a CPU."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

STEPS = """
import json, resource, sys, threading
import psutil, torch
from nas.training.devices import release_memory, use_threads

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    torch.ones(12_500_000)  # 50 MB: 12,208 pages

def steps():
    before = faults()
    for _ in range(60):
        step()
    found.append(faults() - before)

found = []
if sys.argv[1] == "ours":
    use_threads(1)
steps()
thread = threading.Thread(target=steps)
thread.start()
thread.join()
kept = psutil.Process().memory_info().rss
release_memory()
print(json.dumps([*found, kept - psutil.Process().memory_info().rss]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_what_a_step_frees_is_kept_for_the_next_and_given_back_when_asked() -> None:
    def run(whose: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", STEPS, whose], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        faults: list[int] = json.loads(done.stdout)
        return faults

    *faults, given_back = run("ours")
    *by_default, _ = run("default")
    assert min(by_default) > 60 * 12_000  # every step
    # At first the heap grows: an aligned block does not fit where one like it was.
    assert max(faults) < min(by_default) / 2
    assert given_back > 45e6
