r"""SM3-I and SM3-II: adaptive steps from one accumulator a cover set instead of one a parameter.

R. Anil, V. Gupta, T. Koren and Y. Singer, "Memory-efficient adaptive optimization", NeurIPS 2019, algorithms
SM3-I and SM3-II. The name: Square-root of Minima of Sums of Maxima of Squared gradients.

S_1, ..., S_k are sets of entries whose union is [d] (a cover, see ``memopt_ref.parts.covers``), R(i) are the
sets that contain i, mu_0 = mu'_0 = 0, and 0/0 = 0. For t = 1, ..., T, every set r and every entry i:

    SM3-I                                                SM3-II

    mu_t(r) <- mu_{t-1}(r) + max_{j in S_r} g_t(j)^2     nu'_t(i) <- min_{r in R(i)} mu'_{t-1}(r) + g_t(i)^2
    nu_t(i) <- min_{r in R(i)} mu_t(r)                   w_{t+1}(i) <- w_t(i) - eta g_t(i) / sqrt(nu'_t(i))
    w_{t+1}(i) <- w_t(i) - eta g_t(i) / sqrt(nu_t(i))    mu'_t(r) <- max_{j in S_r} nu'_t(j)

With gamma_t(i) = sum_{s <= t} g_s(i)^2, AdaGrad's statistic: gamma <= nu' <= nu, all three non-decreasing in
t, and mu' <= mu. Minima and maxima do not round and floating-point addition is monotone, so this holds to the
last bit.

Beyond the algorithms (the authors' code and its README):

    momentum   m <- momentum m + (1 - momentum) g / sqrt(nu),  w <- w - eta m: a mean of preconditioned steps.
    beta2 < 1  nu'(i) <- beta2 min mu'(r) + (1 - beta2) g(i)^2, then mu' as above ("overwrite"), or
               mu'(r) <- max(mu'(r), max nu'(j)) ("ratchet": an accumulator never falls).
               No bias correction: the first step is eta sign(g) / sqrt(1 - beta2). No theorem covers it.

Deviation: with momentum, a row-sparse gradient moves m on the touched rows; the authors' code has no m there.

Ports: torch-SM3 0.1.0 and pytorch_optimizer 4.1.0 zero the accumulators of untouched rows on a sparse
gradient, so that these rows start over with steps of size eta; torch-SM3 steps duplicate rows twice. Both
ratchet under the name beta, so their accumulators never decay. optax has eps = 1e-8 inside the root, which
shrinks the steps of gradients below about 1e-3, and cannot step a 0-d array. The README's warm-up formula is
inverted: the rate it prescribes falls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from ..parts import fields
from ..parts.covers import AxisCover, Cover
from ..parts.metric import Metric
from ..parts.scalar import ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, like_parameter
from .base import LeafState, Rule, Values
from .elementwise import returns

Accumulators = dict[str, Any]


@returns("nu")
def accumulated(least: Any, g: Any, kept: Any, fresh: Any) -> tuple[Any, ...]:
    """SM3-II's nu' from the least of an entry's accumulators."""
    return (kept * least + fresh * (g * g),)


@returns("w", "denominator", "u")
def descended(w: Any, g: Any, nu: Any, learning_rate: Any, eps_root: Any, eps: Any) -> tuple[Any, ...]:
    """w' = w - lr g / sqrt(nu)."""
    denominator = sqrt(nu + eps_root) + eps
    u = ratio(g, denominator)
    return w - learning_rate * u, denominator, u


@returns("w", "m", "denominator", "u")
def descended_along_mean(
    w: Any, g: Any, nu: Any, m: Any, learning_rate: Any, momentum: Any, share: Any, eps_root: Any, eps: Any
) -> tuple[Any, ...]:
    """The same along the mean of such steps."""
    denominator = sqrt(nu + eps_root) + eps
    u = ratio(g, denominator)
    m = momentum * m + share * u
    return w - learning_rate * m, m, denominator, u


@dataclasses.dataclass(frozen=True, kw_only=True)
class SM3(Rule):
    """SM3: AdaGrad's step with the sum of squares bounded from above by accumulators of cover sets.

    u = g / (sqrt(nu + eps_root) + eps), w' = w - lr u; with momentum w' = w - lr m.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta, >= 0.
    momentum : float or Schedule
        beta_1 of the mean of preconditioned gradients, in [0, 1). 0 keeps no state for it.
    variant : {"II", "I"}
        SM3-II is tighter, and is what every library has.
    cover : Cover
        :class:`~memopt_ref.parts.covers.AxisCover` (default: one set for each index of each axis),
        :class:`~memopt_ref.parts.covers.IndexCover` or :class:`~memopt_ref.parts.covers.HashCover`.
    beta2 : float or Schedule
        1 adds, as in the paper; in [0, 1) a moving average (SM3-II only).
    ema : {"overwrite", "ratchet"}
        What the moving average does with the old accumulators; without effect when beta2 = 1.
    eps_root : float or Schedule
        Added inside the root, >= 0. 0 is the paper's 0/0 = 0; the authors' code has 1e-30, which damps
        gradients below about 1e-15.
    eps : float or Schedule
        Added to the root, >= 0 (trax).
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Raises
    ------
    HyperparameterError
        ``variant="I"`` with beta2 < 1, which nothing defines.

    Notes
    -----
    State for float32 [n_1, ..., n_p] and AxisCover: 4 (n_1 + ... + n_p) bytes if p >= 2, 4 bytes a parameter
    for a vector or scalar; momentum adds 4 bytes a parameter. One pass: reads w, g (and m), writes w (and m).
    Numerics: bitwise. Without momentum and weight decay a row-sparse gradient is stepped on its rows, bit for
    bit as the dense step; a matrix that forgets (``ema="overwrite"``) and other covers are stepped densely.

    |u| <= 1 when beta2 = 1, so no entry moves further than eta; |u| <= 1 / sqrt(1 - beta2) otherwise.

    References
    ----------
    Anil, Gupta, Koren and Singer 2019. With D the sup-norm diameter of the domain, regret is at most
    (D^2 / (2 eta) + eta) sum_i sqrt(nu_T(i)) in either variant, since diag(sqrt(nu_t)) does not decrease and
    g_t^2 / sqrt(nu_t) <= g_t^2 / sqrt(gamma_t); eta = D gives 3/2 D, below the paper's factor.

    Examples
    --------
    >>> import numpy as np
    >>> rule, w, g = SM3(learning_rate=0.1), np.zeros((2, 2)), np.array([[3.0, 4.0], [0.0, 1.0]])
    >>> values = rule.values(w, g, rule.init(w))
    >>> values["nu"]
    array([[ 9., 16.],
           [ 0.,  1.]])
    >>> values["mu_0"], values["mu_1"]
    (array([16.,  1.]), array([ 9., 16.]))
    >>> values["w"]
    array([[-0.1, -0.1],
           [ 0. , -0.1]])
    """

    learning_rate: Number = fields.number(0.1)
    momentum: Number = fields.number(0.0, 0, 1, open_high=True)
    variant: str = fields.choice("II", "I")
    cover: Cover = fields.instance(AxisCover(), Cover)
    beta2: Number = fields.number(1.0, 0, 1)
    ema: str = fields.choice("overwrite", "ratchet")
    eps_root: Number = fields.number(0.0)
    eps: Number = fields.number(0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "I" and self.beta2 != 1:
            got, wanted = repr(self.beta2), "1 with variant='I'"
            raise HyperparameterError("SM3.beta2", got, wanted, "Use variant='II' for an average.")

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """The cover's accumulators (``mu_0``, ``mu_1``, ... or ``mu``), and ``m`` if there is momentum."""
        # Where accumulators can fall, rows without a gradient lower a column's maximum, and a join would not.
        merge = "max" if self._never_falls() else None
        mu = self.cover.slots(shape, dtype, merge)
        return mu if self.momentum == 0 else mu | {"m": like_parameter(shape, dtype)}

    def sm3_i(self, g: Any, mu: Accumulators) -> tuple[Any, Accumulators]:
        """``(nu_t, mu_t)`` of SM3-I."""
        mu = {r: mu[r] + top for r, top in self.cover.reduce(g * g).items()}
        nu = self.cover.gather(mu, g.shape)
        return nu, mu

    def sm3_ii(self, g: Any, mu: Accumulators) -> tuple[Any, Accumulators]:
        """``(nu'_t, mu'_t)`` of SM3-II; the minimum is over the *old* accumulators."""
        kept, fresh = (1, 1) if self.beta2 == 1 else (self.beta2, 1.0 - self.beta2)
        (nu,) = accumulated(self.cover.gather(mu, g.shape), g, kept, fresh)
        top = self.cover.reduce(nu)
        if self.beta2 != 1 and self.ema == "ratchet":
            top = {r: np.maximum(mu[r], top[r]) for r in top}
        return nu, top

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """Accumulate, precondition, descend."""
        mu = {name: array for name, array in state.items() if name != "m"}
        nu, mu = self.sm3_i(g, mu) if self.variant == "I" else self.sm3_ii(g, mu)
        offsets = self.eps_root, self.eps
        if "m" not in state:
            w, denominator, u = descended(w, g, nu, self.learning_rate, *offsets)
            return {"w": w, **mu, "nu": nu, "denominator": denominator, "u": u}
        rates = self.learning_rate, self.momentum, 1.0 - self.momentum
        w, m, denominator, u = descended_along_mean(w, g, nu, state["m"], *rates, *offsets)
        return {"w": w, "m": m, **mu, "nu": nu, "denominator": denominator, "u": u}

    def metric(self, values: Mapping[str, Any]) -> Metric | None:
        """H = diag(sqrt(nu + eps_root) + eps) / lr for the direction g; none with momentum."""
        return None if "m" in values else Metric.diagonal(values["denominator"] / self.learning_rate)

    def rests(self) -> bool:
        """A zero gradient moves nothing unless there is momentum, weight decay or an average that decays."""
        return self.momentum == 0 and self.weight_decay == 0 and self._never_falls()

    def _never_falls(self) -> bool:
        return bool(self.beta2 == 1 or self.ema == "ratchet")
