r"""What a cover is: sets S_1, ..., S_k of parameter entries that share one accumulator each.

The sets are not empty, may overlap, and their union is all entries [d], numbered in C order. R(i) denotes the
sets that contain entry i. A rule needs two operations,

    gather:  mu -> min over r in R(i) of mu(r),  for every entry i
    reduce:  x  -> max over j in S_r of x(j),    for every set r, never below 0

and neither rounds: minima and maxima are exact in any order, and a NaN wins both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HyperparameterError, ShapeError
from .row_sparse import RowSparse
from .slots import Slot
from .sums import over_tensor

Indices = NDArray[np.int64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cover:
    """What SM3 asks of a cover; ``mu`` is a mapping of the arrays that :meth:`slots` declares."""

    def slots(self, shape: Shape, dtype: Any, merge: str | None = "max") -> dict[str, Slot]:
        """The accumulators of a parameter of this shape, all zero at the start.

        Raises
        ------
        ShapeError
            The cover does not fit the shape.
        """
        raise NotImplementedError

    def gather(self, mu: Mapping[str, Any], shape: Shape) -> Any:
        """For every entry the least accumulator of the sets that contain it, in the parameter's shape."""
        raise NotImplementedError

    def reduce(self, x: Any) -> dict[str, Any]:
        """For every set the largest of 0 and its members' ``x``, as arrays named like the slots."""
        raise NotImplementedError

    def members(self, shape: Shape) -> list[Indices]:
        """The members of every set, numbered in C order: for readers and tests, not for large tensors."""
        raise NotImplementedError

    def slack(self, gradients: Iterable[Any], variant: str = "II") -> float:
        r"""How much looser SM3's regret bound is with this cover than AdaGrad's: 1 is a perfect fit.

        sum_i sqrt(nu_T(i)) / sum_i sqrt(gamma_T(i)), where gamma_T(i) is the sum of g_t(i)^2 over the
        gradients g_1, ..., g_T and nu_T(i) is what the variant keeps instead, at the last step. Both bounds
        are the same multiple of these sums.

        Parameters
        ----------
        gradients : iterable of arrays or RowSparse
            All of one shape; cast to float64.
        variant : {"II", "I"}
            SM3-II, which is never looser than SM3-I.

        Returns
        -------
        float
            At least 1, without rounding slack; 1.0 if every gradient is zero or there is none.

        Examples
        --------
        >>> from memopt_ref.parts.covers import AxisCover
        >>> rows = np.array([[3.0, 3.0], [1.0, 1.0]])
        >>> AxisCover().slack([rows, rows])
        1.0
        >>> round(AxisCover().slack([1 - np.eye(2), np.eye(2)]), 3)
        1.207
        """
        if variant not in ("I", "II"):
            raise HyperparameterError("slack", repr(variant), "'I' or 'II'", "Choose one of these.")
        gamma: Any = None
        nu: Any = None
        mu: dict[str, Any] = {}
        for g in gradients:
            g = np.asarray(g.to_dense() if isinstance(g, RowSparse) else g, np.float64)
            if gamma is None:
                mu = {name: slot.begin(g, 0) for name, slot in self.slots(g.shape, g.dtype).items()}
                gamma = np.zeros_like(g)
            if g.shape != gamma.shape:
                raise ShapeError(
                    "slack", f"gradients of {gamma.shape} and {g.shape}", "one shape", "Sort them."
                )
            gamma = gamma + g * g
            if variant == "I":
                mu = {name: mu[name] + top for name, top in self.reduce(g * g).items()}
                nu = self.gather(mu, g.shape)
            else:
                nu = self.gather(mu, g.shape) + g * g
                mu = self.reduce(nu)
        total = 0.0 if gamma is None else float(over_tensor(np.sqrt(gamma)))
        return 1.0 if total == 0 else float(over_tensor(np.sqrt(nu))) / total
