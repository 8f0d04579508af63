"""How long a step takes, as a multiple of another step: the only figure that two machines can share.

Contestants take turns, each round one step of each, and the least of the rounds counts: a machine can only
be slower than itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Timing(NamedTuple):
    """Least seconds of a step, and the ratios to the limit: of the minima, and the median of the rounds'."""

    seconds: float
    ratio: float
    median_ratio: float


def interleaved(
    steps: Mapping[str, Callable[[], Any]],
    limit: str,
    rounds: int = 15,
    clock: Callable[[], float] = time.perf_counter,
    quiet: Callable[[], bool] | None = None,
) -> dict[str, Timing]:
    """Time functions in turn.

    Parameters
    ----------
    steps : mapping of name to function
        Each is called once before the first round.
    limit : str
        The name of the one that the others are compared with.
    rounds : int
        At least 1; every second round goes the other way round.
    clock : function
        Seconds.
    quiet : function, optional
        Asked before the first round and after each one, whether nothing else ran since it was last asked. A
        round with company is played again, and twice as many rounds are played at most.

    Examples
    --------
    >>> ticks = iter(range(100))
    >>> found = interleaved({"a": lambda: None, "b": lambda: next(ticks)}, "a", 3, lambda: next(ticks))
    >>> found["a"].ratio, found["b"].ratio
    (1.0, 2.0)
    """
    for step in steps.values():
        step()
    names, good, all_rounds = list(steps), [], []
    if quiet is not None:
        quiet()
    for k in range(rounds if quiet is None else 2 * rounds):
        seconds = {}
        for name in names if k % 2 == 0 else reversed(names):
            begin = clock()
            steps[name]()
            seconds[name] = clock() - begin
        all_rounds.append(seconds)
        if quiet is None or quiet():
            good.append(seconds)
        if len(good) == rounds:
            break
    kept = good or all_rounds
    least = {name: min(r[name] for r in kept) for name in names}
    medians = {name: float(np.median([r[name] / r[limit] for r in kept])) for name in names}
    return {name: Timing(least[name], least[name] / least[limit], medians[name]) for name in names}
