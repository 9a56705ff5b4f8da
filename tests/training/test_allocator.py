"""The heap of a process that computes on a CPU: page faults of repeated allocations, and what trimming releases."""

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
    counts.append(faults() - before)

counts = []
if sys.argv[1] == "configured":
    use_threads(1)
steps()
thread = threading.Thread(target=steps)
thread.start()
thread.join()
resident = psutil.Process().memory_info().rss
release_memory()
print(json.dumps([*counts, resident - psutil.Process().memory_info().rss]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_reused_by_the_next_step_and_released_on_request() -> None:
    def run(mode: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", STEPS, mode], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        faults: list[int] = json.loads(done.stdout)
        return faults

    *faults, released = run("configured")
    *by_default, _ = run("default")
    assert min(by_default) > 60 * 12_000  # every step
    # The heap grows at first: an aligned block does not fit where an equal one was.
    assert max(faults) < min(by_default) / 2
    assert released > 45e6
