r"""AdaGrad, diagonal form.

J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods for online learning and stochastic
optimization", JMLR 12 (2011), Figure 1, composite mirror descent with diagonal matrices; H_t = delta I +
diag(sqrt(s_t)).

    s <- s + g^2
    u = g / (sqrt(s + eps_root) + eps)        (0/0 = 0)
    w <- w - lr * u

``eps`` is the paper's delta. The primal-dual (dual averaging) form is ``FTRLProximal(centre="origin")``; the
forms with other matrices are in :mod:`memopt_ref.rules.adagrad_forms`.

Conventions: torch puts eps outside the root (1e-10, s starts at 0); optax and Keras inside (1e-7, s starts at
0.1), so that their first step is not lr * sign(g).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ..parts import fields
from ..parts.metric import Metric
from ..parts.scalar import ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, like_parameter
from .elementwise import Elementwise, Expression, returns


@returns("w", "s", "u", "denominator")
def adagrad(w: Any, g: Any, s: Any, learning_rate: Any, eps_root: Any, eps: Any) -> tuple[Any, ...]:
    """w' = w - lr g / sqrt(sum of squares)."""
    s = s + g * g
    denominator = sqrt(s + eps_root) + eps
    u = ratio(g, denominator)
    return w - learning_rate * u, s, u, denominator


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaGrad(Elementwise):
    """AdaGrad: each entry's step is divided by the root of its sum of squared gradients.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta, >= 0.
    eps : float or Schedule
        The paper's delta, added to the root, >= 0. With eps = 0 the convention 0/0 = 0 holds.
    eps_root : float or Schedule
        Added inside the root, >= 0 (optax, Keras).
    initial_accumulator : float
        s before the first step, >= 0.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 4 bytes a float32 parameter. Numerics: bitwise. One pass: reads w, g, s and writes w, s. A
    row-sparse gradient is stepped on its rows, bit for bit as the dense step.

    References
    ----------
    Duchi, Hazan and Singer 2011, Theorem 5: with lr = D / sqrt(2), D the sup-norm diameter of the domain, the
    regret is at most sqrt(2) D sum_i sqrt(s_T(i)).

    Examples
    --------
    >>> import numpy as np
    >>> rule = AdaGrad(learning_rate=0.1)
    >>> w, state = rule.update(np.zeros(3), np.array([3.0, -4.0, 0.0]), rule.init(np.zeros(3)))
    >>> w
    array([-0.1,  0.1,  0. ])
    """

    learning_rate: Number = fields.number(1e-2)
    eps: Number = fields.number(0.0)
    eps_root: Number = fields.number(0.0)
    initial_accumulator: float = fields.number(0.0, scheduled=False)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``s``, the sum of squared gradients of each entry."""
        return {"s": like_parameter(shape, dtype, start=self.initial_accumulator)}

    def expression(self, slots: Collection[str]) -> Expression:
        """One expression for all conventions."""
        return adagrad

    def coefficients(self, t: int) -> dict[str, float]:
        """The conventions as numbers."""
        return {"learning_rate": self.learning_rate, "eps_root": self.eps_root, "eps": self.eps}

    def rests(self) -> bool:
        """A zero gradient moves nothing."""
        return bool(self.weight_decay == 0)

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = diag(sqrt(s + eps_root) + eps) / lr."""
        return Metric.diagonal(values["denominator"] / self.learning_rate)
