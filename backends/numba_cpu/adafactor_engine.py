"""One Adafactor step by compiled loops. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.parts.sums import LEAF, RUN
from memopt_ref.rules.adafactor import Adafactor, root_of_mean

from . import adafactor_loops, panels
from .adafactor_loops import arrays as names_of
from .admit import decay_of
from .engine import fit
from .late_sums import along_rows, down_columns
from .panels import Arrays

#: Numbers of rows and columns for which the factors are computed at once.
CHUNK = 65536


class Job(NamedTuple):
    """What the passes of one step share; ``arrays`` by the names of the loops, ``k`` the step's numbers."""

    rule: Adafactor
    arrays: dict[str, Any]
    place: str
    native: Any
    k: dict[str, Any]
    threads: int | None

    @property
    def clamped(self) -> bool:
        """Whether eps1 clamps."""
        return self.rule.eps_mode == "clamp"

    @property
    def decay(self) -> float:
        """The share of w that is part of the gradient."""
        return decay_of(self.rule, self.arrays["w"])[1] if self.l2 else 0.0

    @property
    def l2(self) -> bool:
        """Whether w is part of the gradient."""
        return self.rule.weight_decay != 0 and self.rule.weight_decay_mode == "l2"

    @property
    def mean(self) -> str:
        """What the momentum averages."""
        return self.rule.momentum_of if "m" in self.arrays else "none"

    @property
    def before(self) -> bool:
        """Whether w decays before everything."""
        return self.rule.weight_decay != 0 and self.rule.weight_decay_mode == "before"

    @property
    def passes(self) -> dict[str, list[str]]:
        """The arrays of the passes that these options ask for."""
        named = {"step": names_of(self.place, self.mean != "none", w=True)}
        if self.rule.scale_parameter:
            named["size"] = ["w"]
        if self.place != "own":
            named["squares"] = names_of("rows", w=self.l2)
        if self.place == "own" or self.rule.clip_threshold is not None:
            named["update"] = names_of(self.place, w=self.l2)
        return named

    def options(self, what: str) -> tuple[Any, ...]:
        """What a pass's loop is made with."""
        return {
            "step": (self.place, self.clamped, self.mean),
            "size": (self.before,),
            "squares": (),
            "update": (self.place, self.clamped),
        }[what]


class Pass(NamedTuple):
    """A compiled loop, what comes before it in the gradient's buffer, and its arrays."""

    loop: int
    prepare: int
    names: list[str]


@functools.cache
def kernel(what: str, wide: bool, options: tuple[Any, ...]) -> int | None:
    """The address of a loop, compiled or loaded once a process; None if that fails."""
    try:
        return int(adafactor_loops.loop(what, wide, *options).address)
    except Exception as error:
        text = f"Adafactor's {what} cannot be compiled, NumPy steps instead ({error})"
        warnings.warn(f"memopt_ref: {text}", RuntimeWarning, stacklevel=2)
        return None


def passes_of(job: Job) -> dict[str, Pass] | None:
    """The compiled passes of a step; None if one cannot be compiled."""
    wide, found = bool(job.native == np.float64), {}
    for what, names in job.passes.items():
        loop = kernel(what, wide, job.options(what))
        prepare = kernel("decay", wide, (len(names),)) if job.l2 and what != "size" else 0
        if loop is None or prepare is None:
            return None
        found[what] = Pass(loop, prepare, names)
    return found


def step(rule: Adafactor, w: Any, g: Any, state: dict[str, Any], t: int, threads: int | None = None) -> bool:
    """Step ``w`` and the slots in place; or return False, nothing done, where compiled code cannot.

    Parameters
    ----------
    rule : Adafactor
        Admitted by :mod:`.adafactor`, with numbers.
    w, g : ndarray
        Parameter and dense gradient.
    state : mapping
        ``R`` and ``C``, or ``v``; perhaps ``m``. Counters are not touched.
    t : int
        The tensor's own step, 1 at the first.
    threads : int, optional
        Instead of the rule of thumb. It never changes a bit.
    """
    native = np.dtype(np.float64) if w.dtype == np.float64 else np.dtype(np.float32)
    own: dict[str, Any] = {name: state[name] for name in ("v", "m") if name in state}
    pair = rule.factor_pair(w.shape)
    factors = [] if pair is None else [state["R"], state["C"]]
    shape = fit(w, g, list(own.values()), native, None)
    if shape is None or 0 in shape or not _fit_factors(factors, shape, pair, native):
        return False
    if any(np.may_share_memory(g, x) for x in (w, *own.values(), *factors)):
        g = g.copy()
    place = "own" if pair is None else "rows" if pair == (w.ndim - 2, w.ndim - 1) else "entries"
    one = np.empty(0, native)
    job = Job(rule, {"g": g, "w": w, **own}, place, native, rule.numbers(t, one), threads)
    passes = passes_of(job)
    if passes is None:
        return False
    with np.errstate(all="ignore"):
        _take(job, passes, factors, pair)
    return True


def _fit_factors(factors: Sequence[Any], shape: tuple[int, ...], pair: Any, native: Any) -> bool:
    return all(
        isinstance(x, np.ndarray)
        and x.shape == tuple(n for a, n in enumerate(shape) if a != gone)
        and x.dtype == native
        and x.flags.writeable
        for x, gone in zip(factors, reversed(pair or ()), strict=True)
    )


def _take(job: Job, passes: dict[str, Pass], factors: Sequence[Any], pair: Any) -> None:
    rule, k, w = job.rule, job.k, job.arrays["w"]
    most = rule.most(k) if job.clamped else k["one"]
    eps1 = 0.0 if job.clamped else k["eps1"]
    before = decay_of(rule, w)[1] if job.before else 1.0
    rms_w = k["one"]
    if "size" in passes:
        rms_w = root_of_mean(_sum(job, passes["size"], [before]), w.size)
    alpha = rule.relative(rms_w, k)
    row = column = None
    if factors:
        row, column = _factors(job, passes["squares"], [job.decay, eps1], factors, pair)
        if job.place == "entries":
            i, j = pair
            row = np.expand_dims(np.moveaxis(row, -1, i - (j < i)), j)
            column = np.expand_dims(np.moveaxis(column, -1, j - (i < j)), i)
            job.arrays["r"], job.arrays["c"] = (np.broadcast_to(x, w.shape) for x in (row, column))
            row = column = None
    shrink = k["one"]
    if "update" in passes:
        numbers = [job.decay, k["one"], most, k["beta2"], k["fresh2"], eps1]
        # The gradient's end was read last, and is met first.
        total = _sum(job, passes["update"], numbers, row, column, backwards=True)
        shrink = rule.shrink(root_of_mean(total, w.size), k)
    keep = before if job.before else rule.keep(alpha, k)
    numbers = [job.decay, k["one"], most, keep, alpha, shrink, k["beta1"], k["fresh1"]]
    loop, prepare, names = passes["step"]
    for arrays in panels.pieces([job.arrays[name] for name in names], job.place != "rows"):
        given = Arrays(arrays, [name in "wm" for name in names], row=row, column=column)
        panels.run(loop, given, numbers, job.native, job.threads, prepare=prepare)


def _sum(
    job: Job,
    one: Pass,
    numbers: Sequence[Any],
    row: Any = None,
    column: Any = None,
    backwards: bool = False,
) -> Any:
    """The sum over the tensor of what a pass sums, in the order of ``over_tensor``."""
    shape, size = job.arrays["w"].shape, job.arrays["w"].size
    width = shape[-1] if shape else 1
    leaves = np.empty(size // width * -(-width // LEAF), job.native)
    written = [name == "v" for name in one.names]
    start = 0
    for arrays in panels.pieces([job.arrays[name] for name in one.names], job.place != "rows"):
        wide = arrays[0].shape[-1]
        stop = start + arrays[0].size // wide * -(-wide // LEAF)
        given = Arrays(arrays, written, leaves[start:stop], None, row, column)
        panels.run(one.loop, given, numbers, job.native, job.threads, backwards, one.prepare)
        start = stop
    return along_rows(leaves)


def _factors(
    job: Job, one: Pass, numbers: Sequence[Any], state: Sequence[Any], pair: tuple[int, int]
) -> tuple[Any, Any]:
    """Bring R and C up to date; r [..., m] and c [..., n], where the factored axes come last."""
    i, j = pair
    arrays = [np.moveaxis(job.arrays[name], pair, (-2, -1)) for name in one.names]
    *batch, m, n = arrays[0].shape
    leaves = np.empty((*batch, m, -(-n // LEAF)), job.native)
    runs = np.zeros((*batch, -(-m // RUN), n), job.native)
    given = Arrays(arrays, [False] * len(arrays), leaves, runs)
    panels.run(one.loop, given, numbers, job.native, job.threads, prepare=one.prepare)
    R, C = np.moveaxis(state[0], i - (j < i), -1), np.moveaxis(state[1], j - (i < j), -1)
    row, column = np.empty((*batch, m), job.native), np.empty((*batch, n), job.native)
    # Many small matrices have as many rows and columns as a share of the entries: some at a time.
    count = batch[0] if batch else 1
    some = max(1, CHUNK * count // (row.size + column.size)) if batch else 1
    for first in range(0, count, some):
        part = slice(first, first + some) if batch else ...
        rows, columns = along_rows(leaves[part]), down_columns(runs[part])
        R[part], C[part], _, _, row[part], column[part] = job.rule.factors(
            rows, columns, R[part], C[part], job.k
        )
    return row, column
