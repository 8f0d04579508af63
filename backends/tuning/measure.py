"""Compared, then timed: which of the kernels is the fastest on a key's own arrays.

Every kernel first steps the same small arrays as the reference; one whose bits differ is left out, loudly.
The others take turns, and the least time of each counts: other work on the machine only ever adds. A kernel
that falls far behind leaves the race, and the default stays unless it is beaten by a margin.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.errors import BackendError
from memopt_ref.rules.base import Rule

from .. import numpy_ref
from . import inputs
from .candidates import Candidate
from .key import Key
from .where import HOST, Where

Clock = Callable[[], float]

#: How much faster than the default another has to be.
MARGIN = 0.05
#: Behind the best by this factor, a kernel leaves the race; by ``FAR`` on the small arrays, it is not in it.
BEHIND, FAR = 1.5, 3.0
#: Rounds of a race: at most; before anyone leaves it; and before the default may lose it.
ROUNDS, EARLIEST, FEWEST = 25, 2, 4
#: Seconds that one sample has to last for the clock to tell it.
SAMPLE = 2e-4


class Compared(NamedTuple):
    """Who has the reference's bits and is worth timing, the default first; who else was looked at.

    ``slow``: why others are not worth it; ``wrong``: what is wrong with the rest; ``spent``: seconds.
    """

    candidates: list[Candidate]
    slow: dict[str, str]
    wrong: dict[str, str]
    spent: float


class Result(NamedTuple):
    """Who is taken; seconds of a step of each that was timed; rounds played.

    ``company``: how much of the processors others used meanwhile, from 0 to 1.
    """

    chosen: Candidate
    seconds: dict[str, float]
    rounds: int
    company: float


def compare(
    rule: Rule,
    dtype: Any,
    key: Key,
    candidates: Sequence[Candidate],
    clock: Clock = time.perf_counter,
    where: Where = HOST,
) -> Compared:
    """Hold every kernel against the reference, on small arrays of the key's kind.

    Parameters
    ----------
    rule : Rule
        Of the key, as built.
    dtype : dtype
        The parameter's.
    key : Key
    candidates : sequence of Candidate
        The default first.
    clock : function
        Seconds; what compiling takes is not counted.
    where : Where
        For the kernels; the reference steps on the host.

    Raises
    ------
    BackendError
        No kernel is left, and the reference cannot step arrays of the device.

    Warns
    -----
    RuntimeWarning
        A kernel has other bits than the reference, or fails. It is left out; the reference itself never is.
    """
    slow: dict[str, str] = {}
    wrong: dict[str, str] = {}
    passed, seconds = _checked(rule.at(1), dtype, key, candidates, slow, wrong, clock, where)
    seconds.setdefault(numpy_ref.VARIANTS[0].name, seconds[""])
    spent = sum(seconds.values()) - seconds[""]
    return Compared(_in_sight(passed, seconds, slow), slow, wrong, spent)


def timed(
    rule: Rule,
    dtype: Any,
    key: Key,
    compared: Compared,
    limit: float,
    clock: Clock = time.perf_counter,
    where: Where = HOST,
) -> Result:
    """Race the kernels that were compared, for so many seconds, or for one round if that takes longer."""
    others = where.company()
    tensor = inputs.make(rule.at(1), key.shape, dtype, key.layout, False, where)
    default, steps = compared.candidates[0], [_repeated(c, rule, tensor) for c in compared.candidates]
    least, rounds = race(steps, 0, limit, clock)
    seconds = {c.label: s for c, s in zip(compared.candidates, least, strict=True)}
    best = compared.candidates[least.index(min(least))]
    enough = rounds >= FEWEST and seconds[best.label] < (1 - MARGIN) * seconds[default.label]
    return Result(best if enough else default, seconds, rounds, others())


def race(
    steps: Sequence[Callable[[], Any]], default: int, limit: float, clock: Clock = time.perf_counter
) -> tuple[list[float], int]:
    """Least seconds of each function, and how many whole rounds were played.

    Parameters
    ----------
    steps : sequence of functions
    default : int
        Which of them stays in the race to the end.
    limit : float
        Seconds after which no further round begins.

    Examples
    --------
    >>> now = [0.0]
    >>> def lasts(seconds):
    ...     def step():
    ...         now[0] += seconds
    ...     return step
    >>> race([lasts(2.0), lasts(1.0), lasts(9.0)], 0, 100.0, lambda: now[0])
    ([2.0, 1.0, 9.0], 25)
    """
    end = clock() + limit
    steps[default]()
    first = _sample(steps[default], 1, clock)
    inner = max(1, round(SAMPLE / max(first, 1e-7)))
    least = [float("inf")] * len(steps)
    racing, rounds = list(range(len(steps))), 0
    while rounds < ROUNDS and (rounds == 0 or clock() < end):
        for k in racing if rounds % 2 == 0 else racing[::-1]:
            least[k] = min(least[k], _sample(steps[k], inner, clock))
        rounds += 1
        if rounds >= EARLIEST:
            best = min(least)
            racing = [k for k in racing if k == default or least[k] <= BEHIND * best]
    return least, rounds


def _sample(step: Callable[[], Any], times: int, clock: Clock) -> float:
    begin = clock()
    for _ in range(times):
        step()
    return (clock() - begin) / times


def _repeated(candidate: Candidate, rule: Rule, tensor: inputs.Tensor) -> Callable[[], None]:
    w, (g,), state = tensor
    now = rule.at(1)
    return lambda: candidate.step(now, w, g, state)


def _checked(
    rule: Rule,
    dtype: Any,
    key: Key,
    candidates: Sequence[Candidate],
    slow: dict[str, str],
    wrong: dict[str, str],
    clock: Clock,
    where: Where,
) -> tuple[list[Candidate], dict[str, float]]:
    """The candidates with the reference's bits, and what their steps on the small arrays took."""
    shape = inputs.smaller(key.shape)
    (reference,) = numpy_ref.VARIANTS
    passed: list[Candidate] = []
    seconds: dict[str, float] = {}
    expected, seconds[""] = _trial(Candidate(reference, {}), rule, shape, dtype, key.layout, clock, HOST)
    for candidate in candidates:
        name = candidate.label
        if candidate.variant is reference:
            seconds[name] = seconds[""]
            passed.append(candidate)
            continue
        refusals = [candidate.variant.supports(rule, s, dtype) for s in (shape, key.shape)]
        if not all(fits for fits, _ in refusals):
            slow[name] = next(reason for fits, reason in refusals if not fits)
            continue
        try:
            found, took = _trial(candidate, rule, shape, dtype, key.layout, clock, where)
            defect = _difference(found, expected)
        except Exception as error:
            defect = f"it fails ({type(error).__name__}: {error})"
        if defect:
            wrong[name] = defect
            what = f"{name} is left out for {key.text}: {defect}"
            warnings.warn(f"memopt_ref: {what}. Please report this", RuntimeWarning, stacklevel=6)
            continue
        seconds[name] = took
        passed.append(candidate)
    if not passed and where is not HOST:
        wanted, advice = "a kernel with the bits of the reference", "Please report this."
        raise BackendError(where.about, f"none for {key.rule}", wanted, advice)
    if not passed:
        passed.append(Candidate(reference, {}))
    return passed, seconds


def _in_sight(passed: list[Candidate], seconds: dict[str, float], slow: dict[str, str]) -> list[Candidate]:
    """Without other kernels than the first that are far behind it: a race with them would only cost time."""
    first = passed[0]
    kept = []
    for candidate in passed:
        if candidate.variant is first.variant or seconds[candidate.label] <= FAR * seconds[first.label]:
            kept.append(candidate)
        else:
            slow[candidate.label] = f"more than {FAR:g} times slower than {first.label} on a small tensor"
    return kept


def _trial(
    candidate: Candidate,
    rule: Rule,
    shape: tuple[int, ...],
    dtype: Any,
    layout: str,
    clock: Clock,
    where: Where,
) -> tuple[list[dict[str, Any]], float]:
    """What three steps write, and twice the time of the faster of the last two; the first may compile."""
    w, gradients, state = inputs.make(rule, shape, dtype, layout, True, where)
    written, times = [], []
    for g in gradients:
        begin = clock()
        candidate.step(rule, w, g, state)
        times.append(clock() - begin)
        written.append({n: where.snapshot(x) for n, x in {"w": w, "the gradient": g, **state}.items()})
    return written, 2 * min(times[1:])


def _difference(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> str:
    for number, (mine, other) in enumerate(zip(found, expected, strict=True), 1):
        for name, value in other.items():
            if name not in mine or not _same(mine[name], value):
                return f"{name} has not the bits of the reference after step {number}"
    return ""


def _same(x: Any, y: Any) -> bool:
    """Equal to the last bit; any NaN equals any other, since no compiler promises which one it makes."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if x.dtype.kind in "iu":
        return bool(np.array_equal(x, y))
    bits = f"u{x.dtype.itemsize}"
    nan = np.isnan(x) & np.isnan(y)
    return bool(np.all((np.ascontiguousarray(x).view(bits) == np.ascontiguousarray(y).view(bits)) | nan))
