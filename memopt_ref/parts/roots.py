r"""Powers of symmetric positive semi-definite matrices, by eigen-decomposition.

H = Q diag(d) Q^T gives H^p = Q diag(d^p) Q^T. With p < 0 a direction of eigenvalue zero stays zero
(pseudo-inverse). The decomposition is made in float64 whatever the matrix is stored in, and its result is
rounded once by the caller: in float32 the small eigenvalues, which are what a negative power magnifies,
would be noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def eigenpairs(h: Any, eps: float = 0.0) -> tuple[Any, Any]:
    """Eigenvalues and eigenvectors of ``h + eps I``, in float64, ascending.

    Parameters
    ----------
    h : array, shape [n, n]
        Symmetric positive semi-definite but for rounding; the lower triangle is read.
    eps : float
        Added to the eigenvalues of ``h``, >= 0: more exact than adding it to the diagonal.

    Returns
    -------
    d : array of float64, shape [n]
        Not negative. An eigenvalue of ``h`` that is rounding of its own dtype, at most n ulp of the
        largest, counts as zero if ``eps`` is zero; a negative one always does.
    q : array of float64, shape [n, n]
        Orthonormal columns.

    Examples
    --------
    >>> d, q = eigenpairs(np.array([[2.0, 2.0], [2.0, 2.0]]))
    >>> d
    array([0., 4.])
    """
    d, q = np.linalg.eigh(np.asarray(h, dtype=np.float64))
    if eps == 0:
        noise = len(d) * np.finfo(h.dtype).eps * np.max(d, initial=0.0)
        return np.where(d > noise, d, 0.0), q
    return np.maximum(d, 0.0) + eps, q


def eigen_power(d: Any, p: float) -> Any:
    """``d ** p`` entry by entry, zero where ``d`` is zero and p < 0.

    Examples
    --------
    >>> eigen_power(np.array([0.0, 16.0]), -0.25)
    array([0. , 0.5])
    """
    if p >= 0:
        return d**p
    return np.where(d == 0, 0.0, np.where(d == 0, 1.0, d) ** p)


def assemble(d: Any, q: Any) -> Any:
    """``Q diag(d) Q^T`` for d >= 0, symmetric to the last bit.

    Examples
    --------
    >>> assemble(np.array([1.0, 4.0]), np.eye(2))
    array([[1., 0.],
           [0., 4.]])
    """
    half = q * np.sqrt(d)
    lower = np.tril(half @ half.T)
    return lower + np.tril(lower, -1).T


def symmetric_power(h: Any, p: float, eps: float = 0.0) -> Any:
    """``(h + eps I) ** p``, rounded once to the dtype of ``h``; pseudo-inverse at zero eigenvalues.

    Examples
    --------
    >>> symmetric_power(np.array([[2.0, 2.0], [2.0, 2.0]]), -0.5)
    array([[0.25, 0.25],
           [0.25, 0.25]])
    """
    d, q = eigenpairs(h, eps)
    return assemble(eigen_power(d, p), q).astype(h.dtype)
