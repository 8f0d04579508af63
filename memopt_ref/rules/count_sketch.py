r"""Momentum and AdaGrad with their moments in count-sketch and count-min tensors.

R. Spring, A. Kyrillidis, V. Mohan and A. Shrivastava, "Compressing gradient optimizers via count-sketches",
ICML 2019. For each active row i (one with a gradient), x its weights and g its gradient:

    Algorithm 2, momentum      m = QUERY(M, i);  UPDATE(M, i, (gamma - 1) m + g);  m = QUERY(M, i)
                               x <- x - lr m
    Algorithm 3, AdaGrad       UPDATE(V, i, g^2);  v = QUERY(V, i)
                               x <- x - lr g / (sqrt(v) + eps)
    cleaning                   V <- clean_factor V  before every clean_every-th step

M has signs and a median, V neither signs nor, with the minimum, underestimates. Algorithm 4 (Adam) is in
:mod:`.count_sketch_adam`; ``decay``, ``delta_from`` and ``order`` are explained in :mod:`.sketch_state`.
Their defaults follow the paper except for ``order``: all rows of a gradient are processed together, as every
implementation does.

The paper as printed steps along m_t in Algorithm 2, although the queried value is called m^_t. The public
code applies the raw gradient at momentum's first step, cleans in Adam and RMSProp only, and skips the columns
beyond the last multiple of 32; none of this is done here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..parts import fields
from ..parts.metric import Metric
from ..parts.scalar import ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, counter, seed_slot
from .base import LeafState, Values
from .elementwise import returns, round_to
from .sketch_state import Manner, SketchedRule, forbid_without_count_min


@returns("w", "u")
def along_momentum(w: Any, m: Any, learning_rate: Any) -> tuple[Any, ...]:
    """Algorithm 2's last line."""
    return w - learning_rate * m, m


@returns("w", "u")
def ahead_of_momentum(w: Any, g: Any, m: Any, learning_rate: Any, momentum: Any) -> tuple[Any, ...]:
    """Nesterov's step (an option of the public code)."""
    u = g + momentum * m
    return w - learning_rate * u, u


@returns("w", "u", "denominator")
def along_adagrad(w: Any, g: Any, v: Any, learning_rate: Any, eps: Any) -> tuple[Any, ...]:
    """Algorithm 3's last line."""
    denominator = sqrt(v) + eps
    u = ratio(g, denominator)
    return w - learning_rate * u, u, denominator


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountSketchMomentum(SketchedRule):
    """Heavy-ball momentum with m in a count-sketch.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta.
    momentum : float or Schedule
        gamma, in [0, 1). The gradient enters m with the factor 1.
    nesterov : bool
        Step along g + momentum * m (an option of the public code).
    decay : {"lazy", "global"}
    delta_from : {"query", "row"}
        See :mod:`memopt_ref.rules.sketch_state`.
    compression, depth, width, hash, seed, order
        See :class:`~memopt_ref.rules.sketch_state.SketchedRule`.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`; a row-sparse gradient decays its rows only.

    Raises
    ------
    StabilityError
        ``delta_from="row"`` with lazy decay, batched, and more than 2 / (1 - gamma) active rows in a bucket.

    Notes
    -----
    State: 4 / compression bytes a float32 parameter and a seed. Numerics: bitwise.

    References
    ----------
    Spring et al. 2019, Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> rule = CountSketchMomentum(learning_rate=0.5)
    >>> table = np.zeros((100, 2))
    >>> {name: slot.shape for name, slot in rule.slots(table.shape, table.dtype).items()}
    {'M': (3, 6, 2), 'seed': ()}
    """

    learning_rate: Number = fields.number(1e-2)
    momentum: Number = fields.number(0.9, 0, 1, open_high=True)
    nesterov: bool = fields.flag(False)
    decay: str = fields.choice("lazy", "global")
    delta_from: str = fields.choice("query", "row")

    def manner(self) -> Manner:
        """As chosen."""
        return Manner(self.decay, self.delta_from, self.order)

    def keeps(self) -> dict[str, Any]:
        """gamma."""
        return {"M": self.momentum}

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """The sketch ``M``."""
        return {"M": self.table(shape, dtype), "seed": seed_slot()}

    def follow(self, items: Any, g: Any, state: LeafState) -> Values:
        """M <- gamma M + g."""
        return self.track("M", items, g, state, self.momentum)

    def finish(self, w: Any, g: Any, values: Values) -> Values:
        """Along m, or ahead of it."""
        learning_rate, momentum = round_to(w, self.learning_rate), round_to(w, self.momentum)
        if self.nesterov:
            members = ahead_of_momentum(w, g, values["m"], learning_rate, momentum)
        else:
            members = along_momentum(w, values["m"], learning_rate)
        return dict(zip(("w", "u"), members, strict=True))

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = I / lr."""
        return Metric.scalar(1.0 / self.learning_rate, values["w"].shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountSketchAdaGrad(SketchedRule):
    """AdaGrad with the sum of squares in a count-min sketch.

    Nothing decays, so the sketch is linear; for every hash each counter and each estimate is non-decreasing
    and at least the true sum, which gives the regret bound sqrt(2) D sum_i sqrt(v_i) of AdaGrad with the
    estimates v.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta.
    eps : float or Schedule
        Added to the root, >= 0; with 0 the convention 0/0 = 0 holds.
    combine : {"min", "median", "mean"}
        ``"min"`` is count-min; the others take signs, lose every guarantee, and are there for comparison.
        Signs can bring v down to 0 beside a large g: take eps = 0 (no step there) or a large one.
    conservative : bool
        Conservative update raises each bucket as little as possible; the estimates are smaller and still
        valid.
    clean_every, clean_factor
        Multiply V by ``clean_factor`` before every ``clean_every``-th step; 0 switches it off (the default).
        The paper's 125 and 0.5 make a windowed mean out of the sum, whose step jumps by 1 / sqrt(0.5) at each
        cleaning.
    compression, depth, width, hash, seed, order
        See :class:`~memopt_ref.rules.sketch_state.SketchedRule`.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`; a row-sparse gradient decays its rows only.

    Notes
    -----
    State: 4 / compression bytes a float32 parameter, a seed, and a counter if it cleans. Numerics: bitwise.

    References
    ----------
    Spring et al. 2019, Algorithm 3; Estan and Varghese 2002 (conservative update).

    Examples
    --------
    >>> import numpy as np
    >>> rule = CountSketchAdaGrad(learning_rate=1.0, depth=1, width=1)
    >>> w, state = rule.update(np.zeros((2, 1)), np.array([[3.0], [-4.0]]), rule.init(np.zeros((2, 1))))
    >>> w.ravel()
    array([-0.6,  0.8])
    """

    learning_rate: Number = fields.number(1e-2)
    eps: Number = fields.number(1e-10)
    combine: str = fields.choice("min", "median", "mean")
    conservative: bool = fields.flag(False)
    clean_every: int = fields.integer(0)
    clean_factor: Number = fields.number(0.5, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        forbid_without_count_min(self)

    def manner(self) -> Manner:
        """A sum: nothing decays."""
        return Manner(order=self.order, conservative=self.conservative)

    def keeps(self) -> dict[str, Any]:
        """A plain sum."""
        return {"V": 1.0}

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """The sketch ``V``; ``t`` if it cleans."""
        t = {"t": counter()} if self.clean_every else {}
        return {"V": self.table(shape, dtype), "seed": seed_slot()} | t

    def follow(self, items: Any, g: Any, state: LeafState) -> Values:
        """V <- V + g^2."""
        t = state["t"] + 1 if "t" in state else 0
        values = self.track("V", items, g * g, state, t=t)
        return {**values, "t": t} if "t" in state else values

    def finish(self, w: Any, g: Any, values: Values) -> Values:
        """By the root of v."""
        numbers = [round_to(w, x) for x in (self.learning_rate, self.eps)]
        return dict(zip(("w", "u", "denominator"), along_adagrad(w, g, values["v"], *numbers), strict=True))

    def rests(self) -> bool:
        """A zero gradient moves nothing."""
        return self.weight_decay == 0 and self.clean_every == 0

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = diag(denominator) / lr, of a dense step."""
        return Metric.diagonal(values["denominator"] / self.learning_rate)
