r"""RMSProp, plain or centred, with or without momentum.

T. Tieleman and G. Hinton, lecture 6.5 of "Neural networks for machine learning", Coursera 2012; the centred
form is that of A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850 (2013),
equations 38-45.

    v <- beta2 v + (1 - beta2) g^2
    a <- beta2 a + (1 - beta2) g                              (centred only; otherwise a = 0)
    u = g / (sqrt(v - a^2 + eps_root) + eps)                  (0/0 = 0)
    w <- w - lr * u
    m <- momentum m + u,   w <- w - lr * m                    (with momentum)

No guarantee holds: it is Adam with beta1 = 0, which S. Reddi, S. Kale and S. Kumar (ICLR 2018, Theorem 1)
show to diverge.

Conventions: torch puts eps outside the root and beta2 = 0.99; optax and Keras inside, beta2 = 0.9. optax,
Keras and TensorFlow keep the learning rate inside m (``rate_inside``), which differs from torch when the rate
changes. In rounding, v - a^2 may fall below 0, where other libraries make NaN; here it is floored at 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ..parts import fields
from ..parts.metric import Metric
from ..parts.scalar import maximum, ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, counter, like_parameter
from .elementwise import Elementwise, Expression, returns


@returns("w", "v", "u", "denominator")
def rmsprop(
    w: Any,
    g: Any,
    v: Any,
    learning_rate: Any,
    beta2: Any,
    fresh2: Any,
    correction: Any,
    eps_root: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """Plain."""
    v = beta2 * v + fresh2 * (g * g)
    denominator = sqrt(v / correction + eps_root) + eps
    u = ratio(g, denominator)
    return w - learning_rate * u, v, u, denominator


@returns("w", "v", "m", "u", "denominator")
def rmsprop_momentum(
    w: Any,
    g: Any,
    v: Any,
    m: Any,
    rate: Any,
    rate_inside: Any,
    momentum: Any,
    now: Any,
    ahead: Any,
    beta2: Any,
    fresh2: Any,
    correction: Any,
    eps_root: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """With momentum: the step is along now * u + ahead * m."""
    v = beta2 * v + fresh2 * (g * g)
    denominator = sqrt(v / correction + eps_root) + eps
    u = rate_inside * ratio(g, denominator)
    m = momentum * m + u
    return w - rate * (now * u + ahead * m), v, m, u, denominator


@returns("w", "v", "a", "u", "denominator")
def centred(
    w: Any,
    g: Any,
    v: Any,
    a: Any,
    learning_rate: Any,
    beta2: Any,
    fresh2: Any,
    correction: Any,
    floor: Any,
    eps_root: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """Plain, by the variance instead of the second moment."""
    v = beta2 * v + fresh2 * (g * g)
    a = beta2 * a + fresh2 * g
    mean = a / correction
    denominator = sqrt(maximum(v / correction - mean * mean, floor) + eps_root) + eps
    u = ratio(g, denominator)
    return w - learning_rate * u, v, a, u, denominator


@returns("w", "v", "a", "m", "u", "denominator")
def centred_momentum(
    w: Any,
    g: Any,
    v: Any,
    a: Any,
    m: Any,
    rate: Any,
    rate_inside: Any,
    momentum: Any,
    now: Any,
    ahead: Any,
    beta2: Any,
    fresh2: Any,
    correction: Any,
    floor: Any,
    eps_root: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """With momentum, by the variance."""
    v = beta2 * v + fresh2 * (g * g)
    a = beta2 * a + fresh2 * g
    mean = a / correction
    denominator = sqrt(maximum(v / correction - mean * mean, floor) + eps_root) + eps
    u = rate_inside * ratio(g, denominator)
    m = momentum * m + u
    return w - rate * (now * u + ahead * m), v, a, m, u, denominator


@dataclasses.dataclass(frozen=True, kw_only=True)
class RMSProp(Elementwise):
    """RMSProp: the gradient over the root of a moving average of its squares.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta, >= 0.
    beta2 : float or Schedule
        Decay of the averages (rho, alpha, decay), in [0, 1).
    eps, eps_root : float or Schedule
        Added to the root and inside it, >= 0. With both 0 the convention 0/0 = 0 holds.
    momentum : float or Schedule
        Of the preconditioned gradient, in [0, 1). 0 keeps no state.
    nesterov : bool
        Step along u + momentum * m (optax).
    rate_inside : bool
        Keep lr * u in m instead of u (optax, Keras).
    centered : bool
        Divide by the root of the variance.
    bias_correction : bool
        Divide the averages by 1 - beta2^t (optax).
    initial_accumulator : float
        v before the first step, >= 0.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 4 bytes a float32 parameter, 4 more with momentum, 4 more if centred; a counter with bias
    correction. Numerics: bitwise. One pass.

    References
    ----------
    Tieleman and Hinton 2012; Graves 2013.

    Examples
    --------
    >>> import numpy as np
    >>> rule = RMSProp(learning_rate=0.1, beta2=0.75, eps=0.0)
    >>> rule.values(np.zeros(2), np.array([3.0, -4.0]), rule.init(np.zeros(2)))["w"]
    array([-0.2,  0.2])
    """

    learning_rate: Number = fields.number(1e-2)
    beta2: Number = fields.number(0.99, 0, 1, open_high=True)
    eps: Number = fields.number(1e-8)
    eps_root: Number = fields.number(0.0)
    momentum: Number = fields.number(0.0, 0, 1, open_high=True)
    nesterov: bool = fields.flag(False)
    rate_inside: bool = fields.flag(False)
    centered: bool = fields.flag(False)
    bias_correction: bool = fields.flag(False)
    initial_accumulator: float = fields.number(0.0, scheduled=False)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``v``; ``a`` if centred, ``m`` if there is momentum, ``t`` if there is bias correction."""
        slots = {"v": like_parameter(shape, dtype, start=self.initial_accumulator)}
        if self.centered:
            slots["a"] = like_parameter(shape, dtype)
        if self.momentum != 0:
            slots["m"] = like_parameter(shape, dtype)
        return slots | ({"t": counter()} if self.bias_correction else {})

    def expression(self, slots: Collection[str]) -> Expression:
        """One of four."""
        if "a" in slots:
            return centred_momentum if "m" in slots else centred
        return rmsprop_momentum if "m" in slots else rmsprop

    def coefficients(self, t: int) -> dict[str, float]:
        """The conventions as numbers."""
        rate, inside = (1.0, self.learning_rate) if self.rate_inside else (self.learning_rate, 1.0)
        return {
            "learning_rate": self.learning_rate,
            "rate": rate,
            "rate_inside": inside,
            "momentum": self.momentum,
            "now": 1.0 if self.nesterov else 0.0,
            "ahead": self.momentum if self.nesterov else 1.0,
            "beta2": self.beta2,
            "fresh2": 1.0 - self.beta2,
            "correction": 1.0 - self.beta2**t if self.bias_correction else 1.0,
            "floor": 0.0,
            "eps_root": self.eps_root,
            "eps": self.eps,
        }

    def metric(self, values: Mapping[str, Any]) -> Metric | None:
        """H = diag(denominator) / lr without momentum; a running sum of preconditioned gradients has none."""
        return None if "m" in values else Metric.diagonal(values["denominator"] / self.learning_rate)
