r"""FTRL-Proximal with per-coordinate learning rates, and AdaGrad's dual averaging.

H. B. McMahan and M. Streeter, "Adaptive bound optimization for online convex optimization", COLT 2010;
H. B. McMahan et al., "Ad click prediction: a view from the trenches", KDD 2013, Algorithm 1
(``centre="iterate"``); J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods for online learning
and stochastic optimization", JMLR 12 (2011), Figure 1, primal-dual update with diagonal matrices
(``centre="origin"``).

    x' = argmin_x  g_{1:t} x + 1/2 sum_{s<=t} sigma_s (x - c_s)^2 + l1 |x| + l2 x^2 / 2,   h = sum of sigma_s

with c_s = x_s, the iterate at which g_s was taken, or c_s = x_1, the initial point. Solved:

    sigma = (sqrt(n + g^2) - sqrt(n)) / lr,    n <- n + g^2,    h = (beta + sqrt(n)) / lr
    iterate:   z <- z + g - sigma w,     w <- -(z - clip(z, -l1, l1)) / (h + l2)
    origin:    z <- z + g,               w <- argmin h/2 (w - y)^2 + l1 |w| + l2 w^2 / 2,    y = x_1 - z / h

With l1 = l2 = beta = 0 the iterate form from x_1 = 0 is AdaGrad, and the origin form is Duchi's RDA, where
beta is the paper's delta. As in Algorithm 1 of 2013, beta and ``initial_accumulator`` pull the iterate form
towards 0, not towards an iterate; so it forgets an initial point other than 0, and an entry without any
gradient goes to 0.

Conventions: Keras counts l2 and ``l2_shrinkage`` twice (its formulas hold l2 |x|^2 without the half);
pytorch_optimizer divides by sqrt(n) even if ``lr_power`` is not -1/2; river's steps use the weights of one
gradient earlier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import HyperparameterError
from ..parts import fields
from ..parts.metric import Metric
from ..parts.scalar import maximum, minimum, power, ratio, select, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, like_parameter
from .elementwise import Elementwise, Expression, returns


@returns("w", "z", "n", "sigma", "h")
def iterate(
    w: Any, g: Any, z: Any, n: Any, learning_rate: Any, beta: Any, l1: Any, l2: Any, shrinkage: Any
) -> tuple[Any, ...]:
    """Algorithm 1 of the 2013 paper."""
    root = sqrt(n)
    n = n + g * g
    sigma = (sqrt(n) - root) / learning_rate
    z = z + (g + shrinkage * w) - sigma * w
    h = (beta + sqrt(n)) / learning_rate
    return ratio(maximum(minimum(z, l1), -l1) - z, h + l2), z, n, sigma, h


@returns("w", "z", "n", "sigma", "h")
def iterate_power(
    w: Any,
    g: Any,
    z: Any,
    n: Any,
    learning_rate: Any,
    beta: Any,
    l1: Any,
    l2: Any,
    shrinkage: Any,
    exponent: Any,
) -> tuple[Any, ...]:
    """The same with n to another power than 1/2."""
    root = power(n, exponent)
    n = n + g * g
    sigma = (power(n, exponent) - root) / learning_rate
    z = z + (g + shrinkage * w) - sigma * w
    h = (beta + power(n, exponent)) / learning_rate
    return ratio(maximum(minimum(z, l1), -l1) - z, h + l2), z, n, sigma, h


@returns("w", "z", "n", "x1", "y", "h")
def origin(
    w: Any,
    g: Any,
    z: Any,
    n: Any,
    x1: Any,
    learning_rate: Any,
    beta: Any,
    l1: Any,
    l2: Any,
    shrinkage: Any,
    zero: Any,
) -> tuple[Any, ...]:
    """Dual averaging around the initial point; without l1 and l2 the weights are ``y`` itself."""
    n = n + g * g
    z = z + (g + shrinkage * w)
    h = (beta + sqrt(n)) / learning_rate
    y = x1 - ratio(z, h)
    hy = h * y
    shrunk = ratio(hy - maximum(minimum(hy, l1), -l1), h + l2)
    return select(l1 + l2 == zero, y, shrunk), z, n, x1, y, h


@dataclasses.dataclass(frozen=True, kw_only=True)
class FTRLProximal(Elementwise):
    """Follow the regularised leader, with AdaGrad's rates and exact zeros from l1.

    Parameters
    ----------
    learning_rate : float or Schedule
        alpha, > 0.
    beta : float or Schedule
        Added to the root of n, >= 0; the papers use 1 (2013) or delta (RDA).
    l1, l2 : float or Schedule
        Coefficients of |x| and x^2 / 2, >= 0.
    centre : {"iterate", "origin"}
        FTRL-Proximal, or dual averaging around the initial point.
    lr_power : float
        Exponent of 1 / n in the learning rate, in [-1, 0]; only -1/2 with ``centre="origin"``.
    initial_accumulator : float
        n before the first step, >= 0.
    l2_shrinkage : float or Schedule
        Adds l2_shrinkage * w to the gradient in z, but not in n, >= 0 (Keras, half its value there).
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 8 bytes a float32 parameter (12 with ``centre="origin"``). Numerics: bitwise, except that
    ``lr_power`` other than -1/2 needs the machine's ``pow``. One pass. With ``centre="origin"`` the incoming
    weights do not matter (but for ``l2_shrinkage``).

    References
    ----------
    McMahan and Streeter 2010; on a box |x_i| <= R_i and with lr = sqrt(2) R_i the regret is at most
    2 sqrt(2) sum_i R_i sqrt(n_T(i)). Duchi, Hazan and Singer 2011, Theorem 5 (needs delta >= max |g|).

    Examples
    --------
    >>> import numpy as np
    >>> rule = FTRLProximal(learning_rate=0.1, beta=0.0, l1=2.0)
    >>> rule.values(np.zeros(3), np.array([4.0, -4.0, 1.0]), rule.init(np.zeros(3)))["w"]
    array([-0.05,  0.05,  0.  ])
    """

    learning_rate: Number = fields.number(0.1, open_low=True)
    beta: Number = fields.number(1.0)
    l1: Number = fields.number(0.0)
    l2: Number = fields.number(0.0)
    centre: str = fields.choice("iterate", "origin")
    lr_power: float = fields.number(-0.5, -1.0, 0.0, scheduled=False)
    initial_accumulator: float = fields.number(0.0, scheduled=False)
    l2_shrinkage: Number = fields.number(0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.centre == "origin" and self.lr_power != -0.5:
            advice = "Dual averaging is defined with the square root: leave lr_power at -0.5."
            raise HyperparameterError("FTRLProximal.lr_power", repr(self.lr_power), "-0.5", advice)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``z`` and ``n``; the initial point ``x1`` for dual averaging."""
        slots = {
            "z": like_parameter(shape, dtype),
            "n": like_parameter(shape, dtype, self.initial_accumulator),
        }
        if self.centre == "origin":
            slots["x1"] = like_parameter(shape, dtype, start=lambda w, seed: w)
        return slots

    def expression(self, slots: Collection[str]) -> Expression:
        """One of three: the power is a square root unless asked otherwise."""
        if "x1" in slots:
            return origin
        return iterate if self.lr_power == -0.5 else iterate_power

    def coefficients(self, t: int) -> dict[str, float]:
        """The conventions as numbers."""
        return {
            "learning_rate": self.learning_rate,
            "beta": self.beta,
            "l1": self.l1,
            "l2": self.l2,
            "shrinkage": self.l2_shrinkage,
            "exponent": -self.lr_power,
            "zero": 0.0,
        }

    def rests(self) -> bool:
        """Dual averaging without penalties finds the same point; the iterate form sends new entries to 0."""
        penalties = (self.l1, self.l2, self.l2_shrinkage, self.weight_decay)
        return self.centre == "origin" and all(penalty == 0 for penalty in penalties)

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = diag(h): w' = w - H^{-1} g (iterate, no penalties), w' = x_1 - H^{-1} g_{1:t} (origin)."""
        return Metric.diagonal(values["h"])
