r"""Adam with a rank-one second moment: the baseline that the count-sketch paper compares with.

R. Spring, A. Kyrillidis, V. Mohan and A. Shrivastava, "Compressing gradient optimizers via count-sketches",
ICML 2019 ("LR-NMF-V"); the factorisation is that of N. Shazeer and M. Stern, "Adafactor: adaptive learning
rates with sublinear memory cost", ICML 2018, section 3, where it is derived from the I-divergence of D. Lee
and H. Seung (1999). For a matrix G [n, d]:

    m <- beta1 m + (1 - beta1) G
    r <- beta2 r + (1 - beta2) rowmean(G^2 + 1e-30)
    c <- beta2 c + (1 - beta2) colmean(G^2 + 1e-30)
    v = r c^T / mean(r)
    m_hat = m / (1 - beta1^t),   v_hat = v / (1 - beta2^t)
    w <- w - lr m_hat / (sqrt(v_hat) + eps)

It serves second moments only: for momentum mean(r) passes through zero, and the estimate explodes there. r /
mean(r) is formed before it meets c, since r c^T underflows in float32 for gradients below 1e-11. A tensor of
more axes is flattened to [n, rest]; one of fewer keeps a dense v, where Adam itself remains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import prod
from typing import Any

from ..parts import fields
from ..parts.metric import Metric
from ..parts.schedule import Number
from ..parts.slots import Slot, accumulator_dtype, counter, like_parameter
from ..parts.sums import along_rows, down_columns, over_tensor
from .adam import Adam
from .base import LeafState, Rule, Values
from .count_sketch_adam import along_adam
from .elementwise import returns, round_to

FLOOR = 1e-30


@returns("m")
def averaged(m: Any, g: Any, beta1: Any, fresh1: Any) -> tuple[Any, ...]:
    """The mean of gradients; compiled code runs the same lines."""
    return (beta1 * m + fresh1 * g,)


@returns("v")
def own_moment(v: Any, g: Any, beta2: Any, fresh2: Any) -> tuple[Any, ...]:
    """The mean of squares of a tensor below two axes."""
    return (beta2 * v + fresh2 * (g * g),)


@returns("v")
def factored_moment(r: Any, c: Any) -> tuple[Any, ...]:
    """v of an entry, from its row's r / mean(r) and its column's c."""
    return (r * c,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRankAdam(Rule):
    """Adam with v = r c^T / mean(r), the best rank-one fit to the mean of g^2 in I-divergence.

    Parameters
    ----------
    learning_rate : float or Schedule
        alpha.
    beta1, beta2 : float or Schedule
        Decay of the means of g and g^2, in [0, 1). With beta1 = 0 no m is kept.
    eps : float or Schedule
        Added to the root, >= 0.
    bias_correction : {"paper", "eps_hat", "none"}
        As in :class:`~memopt_ref.rules.adam.Adam`.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State of a float32 matrix [n, d]: m of 4 n d bytes, and 4 (n + d) bytes; a counter. Numerics: bitwise
    (sums in the order of :mod:`memopt_ref.parts.sums`). A row-sparse gradient is stepped as a dense one,
    since every column mean changes.

    References
    ----------
    Spring et al. 2019, section 5 (baselines); Shazeer and Stern 2018, section 3, equations 3 and 4.

    Examples
    --------
    >>> import numpy as np
    >>> rule = LowRankAdam(learning_rate=0.1)
    >>> {name: slot.shape for name, slot in rule.slots((4, 3), np.float32).items()}
    {'m': (4, 3), 'r': (4,), 'c': (3,), 't': ()}
    >>> w, state = rule.update(np.zeros((2, 2)), np.ones((2, 2)), rule.init(np.zeros((2, 2))))
    >>> np.round(w, 6)
    array([[-0.1, -0.1],
           [-0.1, -0.1]])
    """

    learning_rate: Number = fields.number(1e-3)
    beta1: Number = fields.number(0.9, 0, 1, open_high=True)
    beta2: Number = fields.number(0.999, 0, 1, open_high=True)
    eps: Number = fields.number(1e-8)
    bias_correction: str = fields.choice("paper", "eps_hat", "none")

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``m`` unless beta1 = 0; ``r`` and ``c``, or ``v`` below two axes; ``t``."""
        slots = {} if self.beta1 == 0 else {"m": like_parameter(shape, dtype)}
        if len(shape) < 2:
            return slots | {"v": like_parameter(shape, dtype), "t": counter()}
        wide, axes = accumulator_dtype(dtype), (1,) if len(shape) == 2 else None
        factors = {"r": Slot(shape[:1], wide, axes=(0,)), "c": Slot((prod(shape[1:]),), wide, axes=axes)}
        return slots | factors | {"t": counter()}

    def coefficients(self, t: int) -> dict[str, float]:
        """Those of Adam."""
        return Adam(
            learning_rate=self.learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            bias_correction=self.bias_correction,
        ).coefficients(t)

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """The equations above."""
        t = state["t"] + 1
        number = {name: round_to(w, value) for name, value in self.coefficients(int(t)).items()}
        values: Values = {"t": t}
        m = g
        if "m" in state:
            (m,) = averaged(state["m"], g, number["beta1"], number["fresh1"])
            values["m"] = m
        if "v" in state:
            (v,) = own_moment(state["v"], g, number["beta2"], number["fresh2"])
        else:
            squares = (g * g + round_to(w, FLOOR)).reshape(len(g), prod(g.shape[1:]))
            sums = along_rows(squares), down_columns(squares)
            values["r"], values["c"], relative = self.factors(*sums, state["r"], state["c"], number)
            (v,) = factored_moment(relative[:, None], values["c"])
            v = v.reshape(g.shape)
        values["v"] = v
        names = ("learning_rate", "correction1", "correction2", "eps")
        members = along_adam(w, m, v, *(number[name] for name in names))
        return values | dict(zip(along_adam.returns, members, strict=True))  # type: ignore[attr-defined]

    def factors(self, rows: Any, columns: Any, r: Any, c: Any, number: Mapping[str, Any]) -> tuple[Any, ...]:
        """New r, c and r / mean(r), from the sums along rows and down columns."""
        n, d = max(rows.size, 1), max(columns.size, 1)
        r = number["beta2"] * r + number["fresh2"] * (rows / d)
        c = number["beta2"] * c + number["fresh2"] * (columns / n)
        return r, c, r / (over_tensor(r) / n)

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = diag(denominator) / learning rate, for the direction m_hat."""
        return Metric.diagonal(values["denominator"] / self.coefficients(int(values["t"]))["learning_rate"])
