r"""Stochastic gradient descent, with heavy-ball or Nesterov momentum.

M. Zinkevich, "Online convex programming and generalized infinitesimal gradient ascent", ICML 2003 (w' = w -
lr g); B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964 (heavy ball);
I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and momentum in deep
learning", ICML 2013 (Nesterov's step in the form used here).

    m <- momentum * m + (1 - dampening) g
    w <- w - lr * m                      (heavy ball)
    w <- w - lr * (g + momentum * m)     (Nesterov)

The momentum is that of the raw gradient, without a factor (1 - momentum).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ..parts import fields
from ..parts.metric import Metric
from ..parts.schedule import Number
from ..parts.slots import Slot, counter, like_parameter
from .elementwise import Elementwise, Expression, returns


@returns("w")
def sgd(w: Any, g: Any, learning_rate: Any) -> tuple[Any, ...]:
    """w' = w - lr g."""
    return (w - learning_rate * g,)


@returns("w", "m", "u")
def heavy_ball(w: Any, g: Any, m: Any, learning_rate: Any, momentum: Any, fresh: Any) -> tuple[Any, ...]:
    """The step along m."""
    m = momentum * m + fresh * g
    return w - learning_rate * m, m, m


@returns("w", "m", "u")
def nesterov(w: Any, g: Any, m: Any, learning_rate: Any, momentum: Any, fresh: Any) -> tuple[Any, ...]:
    """The step along g + momentum m."""
    m = momentum * m + fresh * g
    u = g + momentum * m
    return w - learning_rate * u, m, u


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Elementwise):
    """Gradient descent: w' = w - lr g, or along a running sum of gradients.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta > 0; theory uses D / (G sqrt T) or eta / sqrt t.
    momentum : float or Schedule
        In [0, 1). 0 keeps no state.
    nesterov : bool
        Step along g + momentum * m.
    dampening : float
        The new gradient enters m with the factor 1 - dampening, and with 1 at the first step.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: none; with momentum 4 bytes a float32 parameter (plus a counter with dampening). Numerics: bitwise.

    References
    ----------
    Zinkevich 2003, Theorem 1; Polyak 1964; Sutskever et al. 2013, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> rule = SGD(learning_rate=0.5)
    >>> w, state = rule.update(np.ones(2), np.array([1.0, -2.0]), rule.init(np.ones(2)))
    >>> w
    array([0.5, 2. ])
    """

    learning_rate: Number = fields.number(1e-2)
    momentum: Number = fields.number(0.0, 0, 1, open_high=True)
    nesterov: bool = fields.flag(False)
    dampening: Number = fields.number(0.0, 0, 1)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``m`` if there is momentum; ``t`` if there is dampening."""
        if self.momentum == 0:
            return {}
        return {"m": like_parameter(shape, dtype)} | ({"t": counter()} if self.dampening != 0 else {})

    def expression(self, slots: Collection[str]) -> Expression:
        """Plain, heavy ball or Nesterov."""
        return sgd if "m" not in slots else nesterov if self.nesterov else heavy_ball

    def coefficients(self, t: int) -> dict[str, float]:
        """``fresh`` is the factor of the new gradient."""
        fresh = 1.0 if t == 1 else 1.0 - self.dampening
        return {"learning_rate": self.learning_rate, "momentum": self.momentum, "fresh": fresh}

    def rests(self) -> bool:
        """Without momentum a zero gradient moves nothing."""
        return bool(self.momentum == 0 and self.weight_decay == 0)

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = I / lr."""
        return Metric.scalar(1.0 / self.learning_rate, values["w"].shape)
