"""Averages of the iterates, each with a state of its own: trees in, trees out, no modes.

B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control
Optim. 1992; N. Cesa-Bianchi, A. Conconi and C. Gentile, "On the generalization ability of on-line learning
algorithms", IEEE Trans. Inf. Theory 2004 (online-to-batch: the mean of the points that were played).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np

from . import tree
from .checks import check_parameter
from .errors import ShapeError
from .parts import fields
from .parts.schedule import Number
from .parts.slots import accumulator_dtype
from .rules.elementwise import round_to


class AverageState(TypedDict):
    """``count`` points have been seen, of ``total`` weight; ``average`` is a tree like the parameters."""

    count: int
    total: Any
    average: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Average:
    def __post_init__(self) -> None:
        fields.check_fields(self)

    def init(self, params: Any) -> AverageState:
        """The state before the first point: a copy of the parameters, in float32 for 16-bit ones."""
        return {"count": 0, "total": 0, "average": _each(_start, params)}

    def average(self, state: AverageState, like: Any = None) -> Any:
        """A copy of the averaged parameters; those of ``init`` before the first point.

        Parameters
        ----------
        state : AverageState
        like : tree, optional
            Round to the dtypes of this tree; by default accumulators come as they are (float32 for 16-bit
            ones).
        """
        if like is None:
            return _each(lambda path, a: a.copy(), state["average"])
        return _both(lambda path, a, w: a.astype(w.dtype), state["average"], like)

    def nbytes(self, state: AverageState) -> int:
        """Bytes of the average: one accumulator for each parameter."""
        return sum(a.nbytes for a in tree.flatten(state["average"]).leaves.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Polyak(_Average):
    """Moving average of the parameters: a <- d a + (1 - d) w, fed *after* each step.

    Parameters
    ----------
    decay : float or Schedule
        d, in [0, 1); a schedule is taken at the number of the update.
    num_updates : bool
        Use min(d, (1 + n) / (10 + n)) at the n-th update, the first being 1: the average forgets its start
        sooner.

    Notes
    -----
    It holds a copy: 4 bytes a float32 parameter. The average starts at the parameters given to ``init``, so
    it needs no bias correction. ``(1 - d)`` is rounded once to the compute dtype.

    References
    ----------
    Polyak and Juditsky 1992 average with equal weights; the moving form is that of TensorFlow's
    ``ExponentialMovingAverage``.

    Examples
    --------
    >>> polyak = Polyak(decay=0.75)
    >>> state = polyak.init(np.array([4.0]))
    >>> state = polyak.update(state, np.array([8.0]))
    >>> polyak.average(state)
    array([5.])
    """

    decay: Number = fields.number(0.999, 0, 1, open_high=True)
    num_updates: bool = fields.flag(False)

    def update(self, state: AverageState, params: Any) -> AverageState:
        """The state after seeing ``params``; pure."""
        n = state["count"] + 1
        d = _at(self.decay, n)
        if self.num_updates:
            d = min(d, (1 + n) / (10 + n))

        def blend(path: str, a: Any, w: Any) -> Any:
            return round_to(a, d) * a + round_to(a, 1.0 - d) * w.astype(a.dtype, copy=False)

        return {"count": n, "total": state["total"], "average": _both(blend, state["average"], params)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineToBatch(_Average):
    """Mean of the iterates w_1 ... w_T, each fed *before* its step: a <- a + (alpha_t / A_t) (w_t - a).

    By convexity the mean of the points at which the losses were paid has an expected excess risk of at most
    regret / T; the point after the last step is not among them.

    Parameters
    ----------
    weight : float or Schedule
        alpha_t > 0, equal by default; a schedule is taken at the number of the point, the first being 1.
        A_t is the sum so far.

    Notes
    -----
    State: 4 bytes a float32 parameter.

    References
    ----------
    Cesa-Bianchi, Conconi and Gentile 2004, section 3.

    Examples
    --------
    >>> mean = OnlineToBatch()
    >>> state = mean.init(np.array([0.0]))
    >>> for w in (1.0, 2.0, 6.0):
    ...     state = mean.update(state, np.array([w]))
    >>> mean.average(state)
    array([3.])
    """

    weight: Number = fields.number(1.0, 0, open_low=True)

    def update(self, state: AverageState, params: Any) -> AverageState:
        """The state after seeing the point ``params``, at which the next loss is about to be paid; pure."""
        alpha = _at(self.weight, state["count"] + 1)
        total = state["total"] + alpha

        def join(path: str, a: Any, w: Any) -> Any:
            return a + round_to(a, alpha / total) * (w.astype(a.dtype, copy=False) - a)

        return {
            "count": state["count"] + 1,
            "total": total,
            "average": _both(join, state["average"], params),
        }


def _at(value: Number, n: int) -> float:
    return float(value(n)) if callable(value) else value


def _start(path: str, w: Any) -> Any:
    check_parameter(path, w)
    return np.array(w, accumulator_dtype(w.dtype))


def _each(change: Callable[[str, Any], Any], params: Any) -> Any:
    flat = tree.flatten(params)
    return flat.rebuild({path: change(path, w) for path, w in flat.leaves.items()})


def _both(change: Callable[[str, Any, Any], Any], average: Any, params: Any) -> Any:
    flat = tree.flatten(average)
    new = tree.align(flat, params, "parameters")
    for path, w in new.items():
        check_parameter(path, w)
        if w.shape != flat.leaves[path].shape:
            got, wanted = f"shape {w.shape}", f"shape {flat.leaves[path].shape}, as at the start"
            raise ShapeError(path or "parameter", got, wanted, "Pass the parameters that init was given.")
    return flat.rebuild({path: np.asarray(change(path, a, new[path])) for path, a in flat.leaves.items()})
