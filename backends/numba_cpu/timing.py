"""How long a step takes, as a multiple of the plainest step: the only figure that two machines can share.

The limit is ``w -= lr * g``, twelve bytes an entry in float32. Contestants take turns, each round one step of
each, and the least of the rounds counts: a machine can only be slower than itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.base import Rule
from memopt_ref.rules.sgd import SGD

from ..registry import Variant


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

    Examples
    --------
    >>> ticks = iter(range(100))
    >>> found = interleaved({"a": lambda: None, "b": lambda: next(ticks)}, "a", 3, lambda: next(ticks))
    >>> found["a"].ratio, found["b"].ratio
    (1.0, 2.0)
    """
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for k in range(rounds):
        for name in names if k % 2 == 0 else reversed(names):
            begin = clock()
            steps[name]()
            seconds[name].append(clock() - begin)
    least = min(seconds[limit])
    return {
        name: Timing(
            min(mine),
            min(mine) / least,
            float(np.median([a / b for a, b in zip(mine, seconds[limit], strict=True)])),
        )
        for name, mine in seconds.items()
    }


def kernel_step(
    variant: Variant, rule: Rule, shape: tuple[int, ...], dtype: Any = np.float32
) -> Callable[[], None]:
    """A step of a variant on arrays of its own, ready to be timed again and again.

    The gradients are normal numbers from a fixed seed, small enough that a hundred steps stay in range.
    """
    rng = np.random.default_rng(0)
    w = rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    g = (rng.standard_normal(shape, dtype=np.float32) * np.float32(1e-2)).astype(dtype)
    state = rule.init_leaf(w)

    def step() -> None:
        variant.step(rule, w, g, state)

    return step


def against_limit(
    rules: Mapping[str, tuple[Rule, tuple[int, ...]]], rounds: int = 15, dtype: Any = np.float32
) -> dict[str, Timing]:
    """Steps of rules by the compiled kernels, as multiples of the limit ``"w -= lr * g"``.

    Parameters
    ----------
    rules : mapping of name to (Rule, shape)
    rounds : int
    dtype : dtype
        The parameters'; the limit is always float32, of as many entries as the largest shape.

    Raises
    ------
    KeyError
        No compiled kernel serves a rule.
    """
    from . import VARIANTS

    def variant_of(rule: Rule, shape: tuple[int, ...], of: Any) -> Variant:
        for variant in VARIANTS:
            if variant.supports(rule, shape, np.dtype(of))[0]:
                return variant
        raise KeyError(f"no compiled kernel for {rule.name}")

    entries = max(int(np.prod(shape)) for _, shape in rules.values())
    plain = SGD(learning_rate=1e-3)
    steps = {"w -= lr * g": kernel_step(variant_of(plain, (entries,), np.float32), plain, (entries,))}
    for name, (rule, shape) in rules.items():
        steps[name] = kernel_step(variant_of(rule, shape, dtype), rule, shape, dtype)
    return interleaved(steps, "w -= lr * g", rounds)
