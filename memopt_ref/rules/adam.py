r"""Adam and AdamW.

D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, Algorithm 1;
I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019, Algorithm 2.

    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    m_hat = m / (1 - beta1^t),   v_hat = v / (1 - beta2^t)
    w <- w - lr * m_hat / (sqrt(v_hat + eps_root) + eps)

Conventions: Keras and TensorFlow use the paper's second form (section 2, "epsilon hat"), which puts eps
beside the uncorrected root: ``bias_correction="eps_hat"``. optax's ``eps_root`` is inside the root.

Theorem 4.1 of the Adam paper is false (S. Reddi, S. Kale and S. Kumar, ICLR 2018, Theorem 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from math import sqrt as real_sqrt
from typing import Any

from ..parts import fields
from ..parts.metric import Metric
from ..parts.scalar import ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, counter, like_parameter
from .elementwise import Elementwise, Expression, returns


@returns("w", "m", "v", "m_hat", "v_hat", "denominator")
def adam(
    w: Any,
    g: Any,
    m: Any,
    v: Any,
    learning_rate: Any,
    beta1: Any,
    fresh1: Any,
    beta2: Any,
    fresh2: Any,
    correction1: Any,
    correction2: Any,
    eps_root: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """Algorithm 1; ``fresh`` is 1 - beta, ``correction`` is 1 - beta^t."""
    m = beta1 * m + fresh1 * g
    v = beta2 * v + fresh2 * (g * g)
    m_hat = m / correction1
    v_hat = v / correction2
    denominator = sqrt(v_hat + eps_root) + eps
    return w - learning_rate * ratio(m_hat, denominator), m, v, m_hat, v_hat, denominator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Elementwise):
    """Adam: a bias-corrected mean of gradients over the root of a bias-corrected mean of their squares.

    Parameters
    ----------
    learning_rate : float or Schedule
        alpha, >= 0.
    beta1, beta2 : float or Schedule
        Decay of the means of g and g^2, in [0, 1).
    eps : float or Schedule
        Added to the root, >= 0. With eps = 0 the convention 0/0 = 0 holds.
    eps_root : float or Schedule
        Added inside the root, >= 0 (optax).
    bias_correction : {"paper", "eps_hat", "none"}
        ``"eps_hat"`` is the paper's second form: alpha_t m / (sqrt(v) + eps), alpha_t = alpha sqrt(1 -
        beta2^t) / (1 - beta1^t).
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 8 bytes a float32 parameter and one counter. Numerics: bitwise. A tensor's own ``t`` counts its
    steps. No regret bound holds: Theorem 4.1 is false.

    References
    ----------
    Kingma and Ba 2015, Algorithm 1 and section 2.

    Examples
    --------
    >>> import numpy as np
    >>> rule = Adam(learning_rate=0.1)
    >>> w, state = rule.update(np.zeros(2), np.array([3.0, -4.0]), rule.init(np.zeros(2)))
    >>> np.round(w, 6)
    array([-0.1,  0.1])
    """

    learning_rate: Number = fields.number(1e-3)
    beta1: Number = fields.number(0.9, 0, 1, open_high=True)
    beta2: Number = fields.number(0.999, 0, 1, open_high=True)
    eps: Number = fields.number(1e-8)
    eps_root: Number = fields.number(0.0)
    bias_correction: str = fields.choice("paper", "eps_hat", "none")

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``m`` and ``v``, element-wise, and ``t``."""
        return {"m": like_parameter(shape, dtype), "v": like_parameter(shape, dtype), "t": counter()}

    def expression(self, slots: Collection[str]) -> Expression:
        """One expression for all conventions."""
        return adam

    def coefficients(self, t: int) -> dict[str, float]:
        """The conventions as numbers."""
        learning_rate, correction1, correction2 = self.learning_rate, 1.0, 1.0
        if self.bias_correction == "paper":
            correction1, correction2 = 1.0 - self.beta1**t, 1.0 - self.beta2**t
        elif self.bias_correction == "eps_hat":
            learning_rate = learning_rate * real_sqrt(1.0 - self.beta2**t) / (1.0 - self.beta1**t)
        return {
            "learning_rate": learning_rate,
            "beta1": self.beta1,
            "fresh1": 1.0 - self.beta1,
            "beta2": self.beta2,
            "fresh2": 1.0 - self.beta2,
            "correction1": correction1,
            "correction2": correction2,
            "eps_root": self.eps_root,
            "eps": self.eps,
        }

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = diag(denominator) / learning rate, for the direction m_hat."""
        t = int(values["t"])
        return Metric.diagonal(values["denominator"] / self.coefficients(t)["learning_rate"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: w <- w (1 - lr * weight_decay) before Adam's step.

    The paper multiplies the decay with the schedule alone and not with alpha
    (``weight_decay_mode="independent"``); every library multiplies it with the learning rate, and so does the
    default here.

    Parameters
    ----------
    weight_decay : float or Schedule
        lambda, >= 0; torch's default 0.01 (optax 1e-4, Keras 4e-3).
    weight_decay_mode : {"decoupled", "independent", "l2"}
        See :class:`~memopt_ref.rules.base.Rule`.
    learning_rate, beta1, beta2, eps, eps_root, bias_correction
        See :class:`Adam`.

    References
    ----------
    Loshchilov and Hutter 2019, Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> rule = AdamW(learning_rate=0.1, weight_decay=0.5)
    >>> w, state = rule.update(np.ones(1), np.zeros(1), rule.init(np.ones(1)))
    >>> w
    array([0.95])
    """

    weight_decay: Number = fields.number(1e-2)
    weight_decay_mode: str = fields.choice("decoupled", "independent", "l2")
