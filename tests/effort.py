"""How many examples a randomized test tries: few by default, many with ``--hypothesis-profile=stress``."""

from __future__ import annotations

from hypothesis import settings

STRESS_EXAMPLES = 1000

# Deadlines are off: how long an example takes depends on the load of the machine.
settings.register_profile("gate", deadline=None)
settings.register_profile("stress", deadline=None, max_examples=STRESS_EXAMPLES)
settings.load_profile("gate")


def examples(gate: int, stress: int) -> int:
    """Return the number of examples for the profile in force, which is set before test modules are imported."""
    return stress if settings.default is not None and settings.default.max_examples == STRESS_EXAMPLES else gate
