"""The machine that figures come from, and whether it did something else meanwhile."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib import metadata

from ..backends.tuning.machine import company, environment, processors

LIBRARIES = ("numpy", "numba", "llvmlite", "torch", "optax", "jax", "pytorch_optimizer")
#: A round has company when others used more than this part of one core during it.
COMPANY = 0.05
#: The system counts in hundredths of a second: two such ticks are not seen.
TICKS = 0.02


def describe() -> dict[str, str | int]:
    """Processor, cores, system and versions: what a figure has to be read with; no host, no paths."""
    found: dict[str, str | int] = {
        "processor": environment()["processor"],
        "cores": processors(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Quiet:
    """Asked after each round whether nothing else ran during it; counts the rounds with company.

    Parameters
    ----------
    watch : function
        Makes a function that tells how much of all processors others used since then, from 0 to 1.
    clock : function
        Seconds.
    """

    def __init__(
        self,
        watch: Callable[[], Callable[[], float]] = company,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch, self._others, self._clock, self._last = watch, watch(), clock, clock()
        self.rounds = self.disturbed = 0

    def __call__(self) -> bool:
        """Whether the time since the last call belonged to this process alone."""
        cores, now = self._others() * processors(), self._clock()
        took, self._last = now - self._last, now
        self._others = self._watch()
        self.rounds += 1
        calm = cores * took <= max(COMPANY * took, TICKS)
        self.disturbed += not calm
        return calm
