r"""The matrix H of a step w' = w - H^{-1} m, learning rate included: what a regret analysis needs.

H is held as eigenvalues and an orthonormal basis. The basis is the identity (scalar and diagonal metrics),
one matrix over the flattened tensor (full), or one matrix an axis (Kronecker: Shampoo).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Metric:
    """A positive semi-definite H on tensors of one shape.

    Use the constructors :meth:`scalar`, :meth:`diagonal`, :meth:`full` and :meth:`kronecker`.

    Parameters
    ----------
    kind : {"scalar", "diagonal", "full", "kronecker"}
        What a proof may use: a scalar metric pairs with the Euclidean diameter, a diagonal one with the
        sup-norm.
    weights : array
        Eigenvalues, in the shape of the tensor (full: flattened).
    bases : sequence of arrays
        Full: one orthonormal matrix, columns are eigenvectors. Kronecker: one an axis.

    Examples
    --------
    >>> h = Metric.diagonal(np.array([4.0, 0.0]))
    >>> h.mul(np.ones(2)), h.solve(np.array([2.0, 0.0])), float(h.trace())
    (array([4., 0.]), array([0.5, 0. ]), 4.0)
    """

    kind: str
    weights: Any
    bases: tuple[Any, ...] = ()

    @classmethod
    def scalar(cls, h: Any, shape: tuple[int, ...]) -> Metric:
        """``h`` times the identity on tensors of ``shape``."""
        return cls("scalar", np.broadcast_to(np.asarray(h), shape))

    @classmethod
    def diagonal(cls, h: Any) -> Metric:
        """One weight an entry."""
        return cls("diagonal", np.asarray(h))

    @classmethod
    def full(cls, eigenvalues: Any, basis: Any) -> Metric:
        """``basis @ diag(eigenvalues) @ basis.T`` on flattened tensors."""
        return cls("full", np.asarray(eigenvalues), (np.asarray(basis),))

    @classmethod
    def kronecker(cls, eigenvalues: Sequence[Any], bases: Sequence[Any], scale: Any = 1.0) -> Metric:
        """``scale`` times the Kronecker product of one symmetric matrix an axis, each by its eigenpairs."""
        weights = np.asarray(scale)
        for a, d in enumerate(eigenvalues):
            weights = weights * np.asarray(d).reshape([-1 if b == a else 1 for b in range(len(eigenvalues))])
        return cls("kronecker", weights, tuple(np.asarray(q) for q in bases))

    def _rotate(self, x: Any, transpose: bool) -> Any:
        if self.kind == "full":
            (q,) = self.bases
            return (q.T if transpose else q) @ np.ravel(x)
        for axis, q in enumerate(self.bases):
            x = np.moveaxis(np.tensordot(q.T if transpose else q, x, axes=(1, axis)), 0, axis)
        return x

    def into(self, x: Any) -> Any:
        """Coordinates of ``x`` in the eigenbasis."""
        return self._rotate(np.asarray(x), transpose=True)

    def back(self, y: Any, shape: tuple[int, ...]) -> Any:
        """The tensor of ``shape`` with the coordinates ``y`` in the eigenbasis."""
        return self._rotate(np.asarray(y), transpose=False).reshape(shape)

    def mul(self, x: Any) -> Any:
        """H x."""
        return self.back(self.weights * self.into(x), np.shape(x))

    def solve(self, x: Any) -> Any:
        """H^+ x, the pseudo-inverse: a direction of weight zero gives zero."""
        h = self.weights
        inverse = np.where(h == 0, 0 * h, 1 / np.where(h == 0, 1, h))
        return self.back(inverse * self.into(x), np.shape(x))

    def quad(self, x: Any) -> Any:
        """<x, H x>."""
        return np.sum(self.weights * self.into(x) ** 2)

    def dual(self, x: Any) -> Any:
        """<x, H^+ x>."""
        return np.sum(np.asarray(x) * self.solve(x))

    def trace(self) -> Any:
        """Trace of H over all entries of the tensor."""
        return np.sum(self.weights)
