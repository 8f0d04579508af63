"""One Adafactor step by compiled loops. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.parts.sums import LEAF, RUN
from memopt_ref.rules.adafactor import Adafactor

from ..addresses import address_of
from . import adafactor_drive as drive
from . import adafactor_loops, panels, runtime
from .adafactor_loops import arrays as names_of
from .admit import decay_of
from .engine import fit
from .kinds import kind_of
from .leaf_sums import join

#: The passes in the order of :mod:`.adafactor_drive`.
PASSES = ("size", "squares", "update", "step")


class Form(NamedTuple):
    """What decides which loops a step needs.

    Parameters
    ----------
    place : str
        Where r and c come from, see :mod:`.adafactor_loops`.
    mean : str
        What the momentum averages, or ``"none"``.
    clamped, l2, before : bool
        Whether eps1 clamps; whether w is part of the gradient, or decays before everything.
    sized, clipped : bool
        Whether the rate is relative to RMS(X), and the update is clipped.
    """

    place: str
    mean: str
    clamped: bool
    l2: bool
    before: bool
    sized: bool
    clipped: bool

    @property
    def passes(self) -> dict[str, list[str]]:
        """The arrays of the passes that are needed, in their order."""
        named = {"size": ["w"]} if self.sized else {}
        if self.place != "own":
            named["squares"] = names_of("rows", w=self.l2)
        if self.place == "own" or self.clipped:
            named["update"] = names_of(self.place, w=self.l2)
        return named | {"step": names_of(self.place, self.mean != "none", w=True)}

    def options(self, what: str) -> tuple[Any, ...]:
        """What a pass's loop is made with."""
        return {
            "step": (self.place, self.clamped, self.mean),
            "size": (self.before,),
            "squares": (),
            "update": (self.place, self.clamped),
        }[what]


class Job(NamedTuple):
    """What the passes of one step share; ``arrays`` by the names of the loops, ``k`` the step's numbers."""

    rule: Adafactor
    form: Form
    arrays: dict[str, Any]
    native: Any
    k: dict[str, Any]
    threads: int | None


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


@functools.cache
def passes_of(form: Form, wide: bool) -> dict[str, Pass] | None:
    """The compiled passes of a step, in float64 or float32; None if one cannot be compiled."""
    found = {}
    for what, names in form.passes.items():
        loop = kernel(what, wide, form.options(what))
        prepare = kernel("decay", wide, (len(names),)) if form.l2 and what != "size" else 0
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
    form = Form(
        place,
        rule.momentum_of if "m" in own else "none",
        rule.eps_mode == "clamp",
        rule.weight_decay != 0 and rule.weight_decay_mode == "l2",
        rule.weight_decay != 0 and rule.weight_decay_mode == "before",
        rule.scale_parameter,
        rule.clip_threshold is not None,
    )
    passes = passes_of(form, bool(native == np.float64))
    if passes is None:
        return False
    k = rule.numbers(t, np.empty(0, native))
    with np.errstate(all="ignore"):
        _take(Job(rule, form, {"g": g, "w": w, **own}, native, k, threads), passes, factors, pair)
    return True


def _fit_factors(factors: Sequence[Any], shape: tuple[int, ...], pair: Any, native: Any) -> bool:
    return all(
        isinstance(x, np.ndarray)
        and x.shape == tuple(n for a, n in enumerate(shape) if a != gone)
        and x.dtype == native
        and x.flags.writeable
        for x, gone in zip(factors, reversed(pair or ()), strict=True)
    )


class Tables(NamedTuple):
    """What compiled code goes by, see :mod:`.adafactor_drive`; ``leaves``: leaf sums of the tensor."""

    passes: Any
    parts: Any
    arrays: Any
    leaves: int


def _tables(job: Job, passes: dict[str, Pass], pair: Any) -> Tables:
    """How each pass goes over the tensor, which is one matrix, several, or a vector in two parts."""
    names, axes, own = list(job.arrays), max(2, job.arrays["w"].ndim), kind_of(job.native)
    assert own is not None
    whole = list(panels.pieces(list(job.arrays.values()), job.form.place != "rows"))
    table, leaves = np.zeros((len(PASSES), 4), np.int64), 0
    parts: list[tuple[int, ...]] = []
    described: list[tuple[int, ...]] = []
    for what, (loop, prepare, wanted) in passes.items():
        first, leaves = len(parts), 0
        written = {"update": "v", "step": "wm"}.get(what, "")
        pieces = [[piece[names.index(name)] for name in wanted] for piece in whole]
        if what == "squares" and job.form.place != "rows":
            pieces = [[np.moveaxis(job.arrays[name], pair, (-2, -1)) for name in wanted]]
        for piece in pieces:
            shape, ones = piece[0].shape, (1,) * (axes - piece[0].ndim)
            parts.append((len(described), len(piece), panels.count(shape), leaves, *ones, *shape))
            leaves += prod(shape[:-1]) * -(-shape[-1] // LEAF)
            for k, (name, x) in enumerate(zip(wanted, piece, strict=True)):
                line = panels.describe(x, own, name in written, False, not (prepare and k == 0))
                described.append((*line[: panels.STEPS], *(0 for _ in ones), *line[panels.STEPS :]))
        table[PASSES.index(what)] = loop, prepare, first, len(parts)
    return Tables(table, np.array(parts, np.int64), np.array(described, np.int64), leaves)


class Factors(NamedTuple):
    """R and C [batch, m] and [batch, n], r and c alike, and room for sums; empty where nothing is factored.

    ``ends``: the state's own arrays with the axes in this order, which R and C are copies of if they do not
    lie in one piece.
    """

    ends: Sequence[Any]
    R: Any
    C: Any
    row: Any
    column: Any
    runs: Any
    pitch: int


def _factors(job: Job, state: Sequence[Any], pair: Any) -> Factors:
    """The factors of a step; where r and c are arrays, they are these from now on."""
    none = np.empty((0, 0), job.native)
    if not state:
        return Factors((), none, none, none, none, none[None], 0)
    (i, j), shape = pair, job.arrays["w"].shape
    at_i, at_j = i - (j < i), j - (i < j)
    ends = [np.moveaxis(x, a, -1) for x, a in zip(state, (at_i, at_j), strict=True)]
    R, C = (np.ascontiguousarray(x).reshape(-1, x.shape[-1]) for x in ends)
    row, column = np.empty_like(R), np.empty_like(C)
    if job.form.place == "entries":
        r = np.expand_dims(np.moveaxis(row.reshape(ends[0].shape), -1, at_i), j)
        c = np.expand_dims(np.moveaxis(column.reshape(ends[1].shape), -1, at_j), i)
        job.arrays["r"], job.arrays["c"] = (np.broadcast_to(x, shape) for x in (r, c))
    runs = np.zeros((len(R), -(-R.shape[1] // RUN), C.shape[1]), job.native)
    return Factors(ends, R, C, row, column, runs, -(-C.shape[1] // LEAF))


def _take(job: Job, passes: dict[str, Pass], state: Sequence[Any], pair: Any) -> None:
    """All passes, and what is between them, in one call."""
    rule, form, k, w, native = job.rule, job.form, job.k, job.arrays["w"], job.native
    factors = _factors(job, state, pair)
    tables = _tables(job, passes, pair)
    leaves = np.empty(max(tables.leaves, factors.row.size * factors.pitch), native)
    begins = [address_of(x) for x in (leaves, factors.runs, factors.row, factors.column)]
    before = decay_of(rule, w)[1] if form.before else 1.0
    decoupled = rule._decays_late() and rule.weight_decay_mode == "decoupled"
    keep = before if form.before else 1.0 if decoupled else rule.keep(k["one"], k)
    most = rule.most(k) if form.clamped else k["one"]
    sides = factors.R.shape[1], factors.C.shape[1]
    numbers = [*(k[name] for name in drive.NAMES), most, rule.weight_decay, w.size, *sides]
    given = [rule.weight_decay if form.l2 else 0.0, 0.0 if form.clamped else k["eps1"], before, keep]
    number = runtime.threads(w.size, job.threads)
    how = [form.sized, form.clipped, form.clamped, decoupled, tables.leaves, factors.pitch, number]
    arguments = (
        *tables[:3],
        np.array([*begins, join(bool(native == np.float64)), 0], np.int64),
        np.array(numbers, native),
        np.array(given, np.float64),
        np.array(how, np.int64),
        leaves,
        factors.runs,
        *factors[1:5],
    )
    if number > 1 and tables.parts[:, drive.PANELS].max() > 1:
        runtime.launch(drive.take, arguments, number)
    else:
        drive.take(*arguments)
    for x, flat in zip(factors.ends, factors[1:3], strict=False):
        if not x.flags.c_contiguous:
            x[...] = flat.reshape(x.shape)
