r"""GGT: full-matrix adaptive preconditioning from a window of gradients.

N. Agarwal, B. Bullins, X. Chen, E. Hazan, K. Singh, C. Zhang and Y. Zhang, "Efficient full-matrix adaptive
regularization", ICML 2019. For a tensor of d entries and a window of r gradients, columns missing at the
start being zero:

    G = [g_t, beta2 g_{t-1}, ..., beta2^{r-1} g_{t-r+1}]           d x r
    u = [(G G^T)^(1/2) + eps I]^{-1} g_t
    w <- w - lr * u

The r x r trick: the d x d matrix is never formed. Any function of G G^T times G is G times that function of
G^T G, and g_t is the first column of G, so

    u = G [(G^T G)^(1/2) + eps I]^{-1} e_1

exactly: nothing is divided by small singular values, and no small remainder by eps. With momentum the
vector m <- momentum m + g_t takes g_t's place; it leaves the span of the window, and the remainder is
divided by eps:

    u = U (Sigma + eps I)^{-1} U^T m + (m - U U^T m) / eps,   G = U Sigma V^T

Deviations: each tensor has its own window (the paper concatenates all parameters). The state is the window
as it came; ages are applied when it is used. A torch port that decays the cached Gram matrix but not the
stored gradients computes with a G^T G that belongs to no G. TensorFlow 1's port stores averaged gradients
and equals the formula for no setting.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..parts import fields
from ..parts.metric import Metric
from ..parts.roots import eigen_power, eigenpairs
from ..parts.schedule import Number
from ..parts.slots import Slot, accumulator_dtype, counter, like_parameter
from .base import LeafState, Rule, Values
from .elementwise import round_to


@dataclasses.dataclass(frozen=True, kw_only=True)
class GGT(Rule):
    """GGT: the gradient divided by the matrix root of the last gradients' outer products.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta, >= 0.
    window : int
        r, the number of gradients that are kept, >= 1.
    beta2 : float or Schedule
        Factor of a gradient for each step of age, in [0, 1].
    eps : float or Schedule
        Added to the root, >= 0. 0 takes the pseudo-inverse.
    momentum : float or Schedule
        In [0, 1). 0 keeps no state.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 4 r bytes a float32 parameter, with momentum 4 more; one counter. Work: O(d r^2) a step, since
    G^T G is formed anew (with momentum, a thin SVD of G: it needs U to full precision). Numerics: reassoc
    (matrix products and LAPACK): the preconditioner is applied in float64 to the window as stored, and u is
    rounded once. No regret bound for convex losses is known.

    References
    ----------
    Agarwal et al. 2019.

    Examples
    --------
    >>> import numpy as np
    >>> rule = GGT(learning_rate=0.1, window=3, eps=0.0)
    >>> w, state = rule.update(np.zeros(2), np.array([3.0, -4.0]), rule.init(np.zeros(2)))
    >>> w                                       # one gradient in the window: the step is g / |g|
    array([-0.06,  0.08])
    """

    learning_rate: Number = fields.number(1e-3)
    window: int = fields.integer(100, 1)
    beta2: Number = fields.number(1.0, 0, 1)
    eps: Number = fields.number(1e-4)
    momentum: Number = fields.number(0.0, 0, 1, open_high=True)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``window``, a ring buffer of flattened gradients; ``m`` if there is momentum; ``t``."""
        ring = Slot((self.window, math.prod(shape)), accumulator_dtype(dtype))
        momentum = {} if self.momentum == 0 else {"m": like_parameter(shape, dtype)}
        return {"window": ring, **momentum, "t": counter()}

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """Store the gradient, then precondition. ``G`` is [d, r], its columns in the order of the ring."""
        t = int(state["t"]) + 1
        newest = (t - 1) % self.window
        window = state["window"].copy()
        window[newest] = np.ravel(g)
        ages = (newest - np.arange(self.window)) % self.window
        G = window.T.astype(np.float64) * np.power(float(self.beta2), ages)
        values: Values = {"window": window, "t": np.int64(t), "G": G.astype(g.dtype)}
        if "m" in state:
            values["m"] = round_to(g, self.momentum) * state["m"] + g
            u = self._beyond_window(G, np.ravel(values["m"]).astype(np.float64))
        else:
            sigma2, V = eigenpairs(G.T @ G)
            u = G @ (V @ (eigen_power(np.sqrt(sigma2) + self.eps, -1.0) * V[newest]))
        u = u.reshape(w.shape).astype(g.dtype)
        return {"w": w - round_to(g, self.learning_rate) * u, **values, "u": u}

    def _beyond_window(self, G: Any, m: Any) -> Any:
        U, sigma, _ = np.linalg.svd(G, full_matrices=False)
        sigma = np.where(
            sigma > max(G.shape) * np.finfo(np.float64).eps * np.max(sigma, initial=0.0), sigma, 0.0
        )
        inside = U.T @ m
        u = U @ (eigen_power(sigma + self.eps, -1.0) * inside)
        return u if self.eps == 0 else u + (m - U @ inside) / self.eps

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = ((G G^T)^(1/2) + eps I) / lr, on the flattened tensor."""
        basis, sigma, _ = np.linalg.svd(values["G"], full_matrices=True)
        root = np.zeros(len(basis))
        root[: len(sigma)] = sigma
        return Metric.full((root + self.eps) / self.learning_rate, basis)
