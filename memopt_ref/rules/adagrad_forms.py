r"""AdaGrad with other matrices than the diagonal one: one number, one number a row, a full matrix.

J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods for online learning and stochastic
optimization", JMLR 12 (2011), Figure 1 with full matrices (G = sum of g g^T, H = delta I + G^{1/2}).

    one number (AdaGradNorm)    s <- s + |g|_2^2            w <- w - lr g / (sqrt(s + eps_root) + eps)
    one a row (RowWiseAdaGrad)  s_i <- s_i + mean_j g_ij^2  w_i <- w_i - lr g_i / (sqrt(s_i + eps_root) + eps)
    full (FullMatrixAdaGrad)    G <- G + g g^T              w <- w - lr ((G + eps_root I)^{1/2} + eps I)^+ g

The norm form is gradient descent with a self-confident rate (P. Auer, N. Cesa-Bianchi and C. Gentile,
"Adaptive and self-confident on-line learning algorithms", JCSS 64, 2002); the row form is that of embedding
tables. Each tensor has statistics of its own, where a paper concatenates all parameters: a named deviation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..parts import fields, sums
from ..parts.metric import Metric
from ..parts.scalar import ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, accumulator_dtype
from .base import LeafState, Rule, Values
from .elementwise import returns


@returns("w", "denominator", "u")
def descended(w: Any, g: Any, s: Any, learning_rate: Any, eps_root: Any, eps: Any) -> tuple[Any, ...]:
    """w' = w - lr g / (sqrt(s + eps_root) + eps); compiled code runs the same lines."""
    denominator = sqrt(s + eps_root) + eps
    u = ratio(g, denominator)
    return w - learning_rate * u, denominator, u


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaGradNorm(Rule):
    """AdaGrad with one number a tensor: w' = w - lr g / sqrt(sum of squared norms).

    Parameters
    ----------
    learning_rate : float or Schedule
        eta, >= 0.
    eps, eps_root : float or Schedule
        Added to the root and inside it, >= 0. With both 0 the convention 0/0 = 0 holds.
    initial_accumulator : float
        s before the first step, >= 0.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 4 bytes a tensor. Numerics: bitwise, the norm in the order of :mod:`memopt_ref.parts.sums`. Two
    passes.

    References
    ----------
    Auer, Cesa-Bianchi and Gentile 2002. With lr = D / sqrt(2), D the Euclidean diameter of the domain, the
    regret is at most sqrt(2) D sqrt(s_T), by the argument of Duchi, Hazan and Singer 2011, Theorem 5, for H =
    sqrt(s) I.

    Examples
    --------
    >>> import numpy as np
    >>> rule = AdaGradNorm(learning_rate=0.5)
    >>> rule.values(np.zeros(2), np.array([3.0, 4.0]), rule.init(np.zeros(2)))["w"]
    array([-0.3, -0.4])
    """

    learning_rate: Number = fields.number(1e-2)
    eps: Number = fields.number(0.0)
    eps_root: Number = fields.number(0.0)
    initial_accumulator: float = fields.number(0.0, scheduled=False)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``s``, one number."""
        return {"s": Slot((), accumulator_dtype(dtype), start=self.initial_accumulator)}

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """The update above."""
        s = state["s"] + sums.over_tensor(g * g)
        w, denominator, u = descended(w, g, s, self.learning_rate, self.eps_root, self.eps)
        return {"w": w, "s": s, "u": u, "denominator": denominator}

    def rests(self) -> bool:
        """A zero entry stays, and adds nothing to s."""
        return bool(self.weight_decay == 0)

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = (sqrt(s + eps_root) + eps) / lr times the identity."""
        return Metric.scalar(values["denominator"] / self.learning_rate, values["w"].shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowWiseAdaGrad(AdaGradNorm):
    """AdaGrad with one number a row (first axis) of a table: the row's sum of mean squared gradients.

    Parameters
    ----------
    reduce : {"mean", "sum"}
        Of the row's squared gradients. A sum takes steps smaller by the root of the row's length.
    learning_rate, eps, eps_root, initial_accumulator
        See :class:`AdaGradNorm`.

    Notes
    -----
    State: 4 bytes a row; a tensor of rank 0 or 1 is stepped as by AdaGrad. Numerics: bitwise, a row is summed
    in the order of :mod:`memopt_ref.parts.sums`. A row-sparse gradient is stepped on its rows, bit for bit as
    the dense step.

    References
    ----------
    AdaGradNorm on each row: its bound, summed over the rows.

    Examples
    --------
    >>> import numpy as np
    >>> rule = RowWiseAdaGrad(learning_rate=1.0)
    >>> rule.values(np.zeros((2, 2)), np.array([[1.0, 7.0], [0.0, 0.0]]), rule.init(np.zeros((2, 2))))["w"]
    array([[-0.2, -1.4],
           [ 0. ,  0. ]])
    """

    reduce: str = fields.choice("mean", "sum")

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``s``, one number a row."""
        axes = tuple(range(len(shape)))[:1]
        return {"s": Slot(shape[:1], accumulator_dtype(dtype), axes=axes, start=self.initial_accumulator)}

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """The update above."""
        s = state["s"] + self.reduced(g * g)
        beside = s.reshape(g.shape[:1] + (1,) * (g.ndim - 1))
        w, denominator, u = descended(w, g, beside, self.learning_rate, self.eps_root, self.eps)
        return {"w": w, "s": s, "u": u, "denominator": denominator}

    def reduced(self, square: Any) -> Any:
        """The mean or sum of each row; an entry is its own row in a tensor of rank 0 or 1."""
        if square.ndim < 2:
            return square
        columns = prod(square.shape[1:])
        return sums.along_rows(square.reshape(square.shape[0], columns)) / self.share(columns)

    def share(self, columns: int) -> int:
        """What a row's sum is divided by: the row's length, or 1."""
        return max(columns, 1) if self.reduce == "mean" else 1

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = (sqrt(s_i + eps_root) + eps) / lr at every entry of row i."""
        return Metric.diagonal(np.broadcast_to(values["denominator"] / self.learning_rate, values["w"].shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullMatrixAdaGrad(Rule):
    """AdaGrad with the full matrix of outer products: w' = w - lr ((G + eps_root I)^{1/2} + eps I)^+ g.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta, >= 0.
    eps : float or Schedule
        The paper's delta, added to the root of G, >= 0.
    eps_root : float or Schedule
        Ridge inside the root, >= 0. With eps = eps_root = 0 the pseudo-inverse is meant, the matrix form of
        0/0 = 0.
    max_entries : int
        Tensors with more entries are refused: the state is their square.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Raises
    ------
    ShapeError
        A tensor has more than ``max_entries`` entries.

    Notes
    -----
    State: 4 P^2 bytes for a tensor of P float32 entries. Numerics: reassoc (LAPACK's ``eigh``, once a step).
    Eigenvalues of G below P ulp of the largest are rounding noise and count as 0; so a direction whose
    gradients are smaller than about sqrt(P ulp) of the largest is not moved by the pseudo-inverse.

    References
    ----------
    Duchi, Hazan and Singer 2011, Figure 1 and Theorem 7: with lr = D / sqrt(2), D the Euclidean diameter, and
    eps = 0, the regret is at most sqrt(2) D tr(G_T^{1/2}).

    Examples
    --------
    >>> import numpy as np
    >>> rule = FullMatrixAdaGrad(learning_rate=1.0)
    >>> rule.values(np.zeros(2), np.array([3.0, 4.0]), rule.init(np.zeros(2)))["w"].round(12)
    array([-0.6, -0.8])
    """

    learning_rate: Number = fields.number(1e-2)
    eps: Number = fields.number(0.0)
    eps_root: Number = fields.number(0.0)
    max_entries: int = fields.integer(4096, 1)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``G``, P x P for a tensor of P entries."""
        entries = prod(shape)
        if entries > self.max_entries:
            got, wanted = f"shape {shape} with {entries} entries", f"at most {self.max_entries} entries"
            advice = f"G would have {entries}^2 entries: use Shampoo or AdaGrad here, or raise max_entries."
            raise ShapeError(self.name, got, wanted, advice)
        return {"G": Slot((entries, entries), accumulator_dtype(dtype))}

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """The update above, in the eigenbasis of G."""
        flat = g.reshape(-1)
        G = state["G"] + flat[:, None] * flat
        eigenvalues, basis = np.linalg.eigh(G)
        noise = flat.size * np.finfo(G.dtype).eps * np.max(np.abs(eigenvalues), initial=0)
        eigenvalues = np.where(eigenvalues > noise, eigenvalues, np.zeros_like(eigenvalues))
        denominator = sqrt(eigenvalues + self.eps_root) + self.eps
        u = (basis @ ratio(basis.T @ flat, denominator)).reshape(g.shape)
        return {
            "w": w - self.learning_rate * u,
            "G": G,
            "u": u,
            "eigenvalues": eigenvalues,
            "basis": basis,
            "denominator": denominator,
        }

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = ((G + eps_root I)^{1/2} + eps I) / lr."""
        return Metric.full(values["denominator"] / self.learning_rate, values["basis"])
