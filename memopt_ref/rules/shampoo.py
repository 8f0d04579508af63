r"""Shampoo: one preconditioner an axis.

V. Gupta, T. Koren and Y. Singer, "Shampoo: preconditioned stochastic tensor optimization", ICML 2018,
Algorithms 1 (matrices) and 2 (tensors). For a tensor W of order k with gradient G, and mat_a(G) of shape
[n_a, everything else]:

    H_a <- H_a + mat_a(G) mat_a(G)^T          for each axis a, starting at eps I
    U = G x_1 H_1^(-1/2k) x_2 ... x_k H_k^(-1/2k)
    W <- W - lr * U

For a matrix, U = L^(-1/4) G R^(-1/4); for a vector, full-matrix AdaGrad. The slots hold the sums without
eps I, which is added to the eigenvalues: the same matrix, and copies of the sums that saw parts of the data
join by addition.

Defects of ports:

* exponent -1/k instead of -1/(2k): the step's size then falls like 1/t instead of 1/sqrt t (moskomule's
  Shampoo, issue 2; torch_optimizer 0.3.0, issue 502; pytorch_optimizer before 4.1.0);
* the same ports fill the statistics of later axes from the gradient that earlier axes have already
  preconditioned;
* pytorch_optimizer 4.1.0 is exact without momentum; with it, the gradient is mixed with the last
  *preconditioned* one, and with roots every n steps its parameters stand still for the first n - 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..parts import fields
from ..parts.metric import Metric
from ..parts.roots import assemble, eigen_power, eigenpairs
from ..parts.schedule import Number
from ..parts.slots import Slot, accumulator_dtype, counter, like_parameter
from ..parts.sums import along_rows
from .base import LeafState, Rule, Values
from .elementwise import round_to


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shampoo(Rule):
    """Shampoo: the gradient, multiplied along each axis with a root of that axis's summed outer products.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta, >= 0.
    eps : float or Schedule
        H_a starts at eps times the identity, >= 0. 0 takes the pseudo-inverse.
    exponent : float, Schedule or None
        Power of every H_a, <= 0. None is -1/(2k), k the number of preconditioned axes (a 0-d parameter has
        one).
    beta2 : float or Schedule
        1 sums the outer products; less averages them: H_a <- beta2 H_a + (1 - beta2) mat_a(G) mat_a(G)^T.
    momentum : float or Schedule
        In [0, 1). 0 keeps no state.
    dampening : float or Schedule
        m <- momentum m + (1 - dampening) times the new value, in [0, 1].
    momentum_of : {"gradient", "update"}
        m collects G and takes G's place in U (the statistics see G), or it collects U and W <- W - lr m.
    interval : int
        Roots are taken at a tensor's steps 1, 1 + interval, ... and kept as state in between. With 1 they
        are not kept.
    max_axis : int or None
        An axis with more entries has no matrix; None sets no limit.
    long_axes : {"diagonal", "skip"}
        Such an axis keeps the diagonal of H_a as a vector, or has no preconditioner and does not count in k.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 4 sum n_a^2 bytes for a float32 tensor, twice that with ``interval`` > 1, 4 n_a for a long axis,
    and with momentum 4 bytes a parameter. Numerics: reassoc (matrix products and LAPACK). Roots are
    computed in float64 from the statistics as stored, and rounded once. k counts axes of one entry too. A
    row-sparse gradient is stepped on the dense one, unless every kept statistic is a vector over rows.

    The proof's key: eps I + (1/r) sum_t vec(G_t) vec(G_t)^T <= L^(1/2) (x) R^(1/2) for rank(G_t) <= r.

    References
    ----------
    Gupta, Koren and Singer 2018, Algorithms 1 and 2; the regret for matrices is at most
    (D^2 / (2 lr) + lr r) Tr(L^(1/4)) Tr(R^(1/4)), D the largest Frobenius distance to the comparator.

    Examples
    --------
    >>> import numpy as np
    >>> rule, w = Shampoo(learning_rate=0.5, eps=0.0), np.zeros((2, 2))
    >>> w, state = rule.update(w, np.diag([4.0, 9.0]), rule.init(w))
    >>> w                                       # at the first step U is the orthogonal factor of G
    array([[-0.5,  0. ],
           [ 0. , -0.5]])
    """

    learning_rate: Number = fields.number(1e-1)
    eps: Number = fields.number(1e-6)
    exponent: Number = fields.number(None, -math.inf, 0.0, optional=True)
    beta2: Number = fields.number(1.0, 0, 1)
    momentum: Number = fields.number(0.0, 0, 1, open_high=True)
    dampening: Number = fields.number(0.0, 0, 1)
    momentum_of: str = fields.choice("gradient", "update")
    interval: int = fields.integer(1, 1)
    max_axis: int | None = fields.integer(None, 0, optional=True)
    long_axes: str = fields.choice("diagonal", "skip")

    def is_long(self, n: int) -> bool:
        """Whether an axis of n entries keeps no matrix."""
        return self.max_axis is not None and n > self.max_axis

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``h_a`` for each preconditioned axis a, ``root_a`` if roots are kept; ``m`` and ``t`` if needed."""
        kind, slots = accumulator_dtype(dtype), {}
        for a, n in enumerate(shape or (1,)):
            if not self.is_long(n):
                slots[f"h_{a}"] = Slot((n, n), kind, merge="sum")
            elif self.long_axes == "diagonal":
                slots[f"h_{a}"] = Slot((n,), kind, axes=(a,) if shape else None, merge="sum")
        if self.interval > 1:
            for a, n in enumerate(shape or (1,)):
                if not self.is_long(n):
                    slots[f"root_{a}"] = Slot((n, n), kind, merge="same", start=_identity(n))
            slots["t"] = counter()
        return slots | ({} if self.momentum == 0 else {"m": like_parameter(shape, dtype)})

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """Algorithm 2. ``d_a`` and ``q_a`` are the eigenpairs of H_a if its root was taken at this step."""
        t = int(state["t"]) + 1 if "t" in state else 1
        G = np.ascontiguousarray(g)  # one memory layout, so that matrix products round alike; 0-d becomes 1-d
        axes = [a for a in range(G.ndim) if f"h_{a}" in state]
        exponent = -1.0 / (2 * max(len(axes), 1)) if self.exponent is None else self.exponent
        old = round_to(G, self.beta2)
        new = round_to(G, 1.0 if self.beta2 == 1 else 1.0 - self.beta2)
        fresh = round_to(G, 1.0 - self.dampening)
        values: Values = {}
        for a in axes:
            values[f"h_{a}"] = old * state[f"h_{a}"] + new * outer(G, a, diagonal=state[f"h_{a}"].ndim == 1)
        for a in axes:
            values |= self._root(a, values[f"h_{a}"], state, exponent, due=(t - 1) % self.interval == 0)
        U = G
        if "m" in state and self.momentum_of == "gradient":
            values["m"] = round_to(G, self.momentum) * state["m"] + fresh * g
            U = np.ascontiguousarray(values["m"])
        for a in axes:
            U = multiply(values[f"root_{a}"], U, a)
        u = U.reshape(w.shape)
        direction = u
        if "m" in state and self.momentum_of == "update":
            values["m"] = direction = round_to(G, self.momentum) * state["m"] + fresh * u
        values |= {"t": np.int64(t)} if "t" in state else {}
        return {"w": w - round_to(G, self.learning_rate) * direction, **values, "u": u}

    def _root(self, a: int, h: Any, state: LeafState, exponent: float, due: bool) -> Values:
        if h.ndim == 1:
            d = h + round_to(h, self.eps)
            return {f"d_{a}": d, f"root_{a}": eigen_power(d, exponent).astype(h.dtype)}
        if not due:
            return {f"root_{a}": state[f"root_{a}"]}
        d, q = eigenpairs(h, self.eps)
        root = assemble(eigen_power(d, exponent), q)
        return {f"d_{a}": d.astype(h.dtype), f"q_{a}": q.astype(h.dtype), f"root_{a}": root.astype(h.dtype)}

    def metric(self, values: Mapping[str, Any]) -> Metric | None:
        """H = (1 / lr) H_1^(1/2k) (x) ... (x) H_k^(1/2k); none if momentum is of the update."""
        if "m" in values and self.momentum_of == "update":
            return None
        shape = values["w"].shape
        axes = [a for a in range(len(shape) or 1) if f"root_{a}" in values]
        exponent = -1.0 / (2 * max(len(axes), 1)) if self.exponent is None else self.exponent
        weights, bases = [], []
        for a, n in enumerate(shape or (1,)):
            d, q = np.ones(n), np.eye(n)
            if f"d_{a}" in values:
                d, q = values[f"d_{a}"] ** -exponent, values.get(f"q_{a}", q)
            elif a in axes:  # a root kept from an earlier step
                d, q = eigenpairs(values[f"root_{a}"])
                d = eigen_power(d, -1.0)
            weights.append(d)
            bases.append(q)
        if not shape:
            return Metric.diagonal(weights[0].reshape(()) / self.learning_rate)
        return Metric.kronecker(weights, bases, 1.0 / self.learning_rate)


def outer(G: Any, a: int, diagonal: bool = False) -> Any:
    """mat_a(G) mat_a(G)^T: outer products of the slices along axis ``a``, summed; or its diagonal alone.

    Examples
    --------
    >>> outer(np.array([[1.0, 2.0], [3.0, 4.0]]), 0)
    array([[ 5., 11.],
           [11., 25.]])
    """
    rest = math.prod(G.shape[:a] + G.shape[a + 1 :])
    x = np.ascontiguousarray(np.moveaxis(G, a, 0)).reshape(G.shape[a], rest)
    return along_rows(x * x) if diagonal else x @ x.T


def multiply(root: Any, G: Any, a: int) -> Any:
    """G x_a root: every fibre along axis ``a`` times the matrix, or entry by entry the vector, ``root``.

    Examples
    --------
    >>> multiply(np.array([2.0, 3.0]), np.ones((2, 2)), 0)
    array([[2., 2.],
           [3., 3.]])
    """
    if root.ndim == 1:
        return G * root.reshape([-1 if b == a else 1 for b in range(G.ndim)])
    return np.ascontiguousarray(np.moveaxis(np.tensordot(root, G, axes=(1, a)), 0, a))


def _identity(n: int) -> Any:
    return lambda w, seed: np.eye(n)
