r"""AMSGrad.

S. Reddi, S. Kale and S. Kumar, "On the convergence of Adam and beyond", ICLR 2018, Algorithm 2.

    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    v_hat <- max(v_hat, v)
    w <- w - lr * m / sqrt(v_hat)             (0/0 = 0)

The paper has no bias correction and no eps, lr_t = alpha / sqrt(t), and beta1 may be a schedule (beta1_t).

Conventions (c1 = 1 - beta1^t, c2 = 1 - beta2^t), all of them with m_hat = m / c1:

    torch   v_hat <- max(v_hat, v),       sqrt(v_hat / c2) + eps    an old maximum is corrected anew
    optax   v_hat <- max(v_hat, v / c2),  sqrt(v_hat) + eps         a first gradient can rule for ever
    Keras   as torch, in Adam's second form: lr sqrt(c2) / c1 * m / (sqrt(v_hat) + eps)

They are different algorithms; torch's metric is not monotone, since v_hat / c2 can fall.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from math import sqrt as real_sqrt
from typing import Any

from ..parts import fields
from ..parts.metric import Metric
from ..parts.scalar import maximum, ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, counter, like_parameter
from .elementwise import Elementwise, Expression, returns


@returns("w", "m", "v", "v_hat", "m_hat", "denominator")
def amsgrad(
    w: Any,
    g: Any,
    m: Any,
    v: Any,
    v_hat: Any,
    learning_rate: Any,
    beta1: Any,
    fresh1: Any,
    beta2: Any,
    fresh2: Any,
    correction1: Any,
    before_max: Any,
    after_max: Any,
    eps_root: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """Algorithm 2; ``before_max`` and ``after_max`` say where v is corrected, if at all."""
    m = beta1 * m + fresh1 * g
    v = beta2 * v + fresh2 * (g * g)
    v_hat = maximum(v_hat, v / before_max)
    m_hat = m / correction1
    denominator = sqrt(v_hat / after_max + eps_root) + eps
    return w - learning_rate * ratio(m_hat, denominator), m, v, v_hat, m_hat, denominator


@dataclasses.dataclass(frozen=True, kw_only=True)
class AMSGrad(Elementwise):
    """AMSGrad: Adam whose second moment never falls.

    Parameters
    ----------
    learning_rate : float or Schedule
        alpha_t, >= 0; theory uses alpha / sqrt(t).
    beta1, beta2 : float or Schedule
        Decay of the means of g and g^2, in [0, 1). Theory asks beta1 < sqrt(beta2).
    eps, eps_root : float or Schedule
        Added to the root and inside it, >= 0. The paper has neither: 0/0 = 0.
    form : {"paper", "torch", "optax", "keras"}
        Where bias is corrected, see above; the paper does not.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 12 bytes a float32 parameter; one counter unless the form is the paper's. Numerics: bitwise. One
    pass.

    References
    ----------
    Reddi, Kale and Kumar 2018: Theorem 1 (Adam diverges), Theorem 4 (regret of AMSGrad, constant beta1; the
    proof for a decreasing beta1_t has a gap: T. P. Tran and L. T. Phong, arXiv:1904.03590).

    Examples
    --------
    >>> import numpy as np
    >>> rule = AMSGrad(learning_rate=0.1, beta1=0.5, beta2=0.75)
    >>> rule.values(np.zeros(2), np.array([3.0, 0.0]), rule.init(np.zeros(2)))["w"]
    array([-0.1,  0. ])
    """

    learning_rate: Number = fields.number(1e-3)
    beta1: Number = fields.number(0.9, 0, 1, open_high=True)
    beta2: Number = fields.number(0.999, 0, 1, open_high=True)
    eps: Number = fields.number(0.0)
    eps_root: Number = fields.number(0.0)
    form: str = fields.choice("paper", "torch", "optax", "keras")

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``m``, ``v``, ``v_hat``, element-wise, and ``t`` where bias is corrected."""
        moments = {name: like_parameter(shape, dtype) for name in ("m", "v", "v_hat")}
        return moments | ({} if self.form == "paper" else {"t": counter()})

    def expression(self, slots: Collection[str]) -> Expression:
        """One expression for all forms."""
        return amsgrad

    def coefficients(self, t: int) -> dict[str, float]:
        """The forms as numbers."""
        learning_rate, correction1, before_max, after_max = self.learning_rate, 1.0, 1.0, 1.0
        if self.form == "torch":
            correction1, after_max = 1.0 - self.beta1**t, 1.0 - self.beta2**t
        elif self.form == "optax":
            correction1, before_max = 1.0 - self.beta1**t, 1.0 - self.beta2**t
        elif self.form == "keras":
            learning_rate = learning_rate * real_sqrt(1.0 - self.beta2**t) / (1.0 - self.beta1**t)
        return {
            "learning_rate": learning_rate,
            "beta1": self.beta1,
            "fresh1": 1.0 - self.beta1,
            "beta2": self.beta2,
            "fresh2": 1.0 - self.beta2,
            "correction1": correction1,
            "before_max": before_max,
            "after_max": after_max,
            "eps_root": self.eps_root,
            "eps": self.eps,
        }

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = diag(denominator) / learning rate, for the direction m_hat."""
        learning_rate = self.coefficients(int(values.get("t", 0)))["learning_rate"]
        return Metric.diagonal(values["denominator"] / learning_rate)
