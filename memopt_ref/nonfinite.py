"""Gradients before a step: cast, scaled, searched for NaN and infinity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .errors import HyperparameterError, NonFiniteError
from .parts import fields
from .parts.row_sparse import RowSparse
from .parts.slots import compute_dtype

POLICIES = ("raise", "skip", "zero", "propagate")
_positive = fields.number(low=0, open_low=True, scheduled=False).metadata["check"]

Gradient = Any


def check_policy(nonfinite: str) -> None:
    """Raise HyperparameterError unless this is one of the four policies."""
    if nonfinite not in POLICIES:
        wanted = "one of " + ", ".join(map(repr, POLICIES))
        raise HyperparameterError("nonfinite", repr(nonfinite), wanted, "Choose one of these.")


def check_scale(scale: Any) -> float:
    """``scale`` as a Python float; raises HyperparameterError unless it is finite and positive."""
    return float(_positive("scale", scale))


def prepare(g: Gradient, parameter_dtype: Any, scale: float, nonfinite: str) -> Gradient:
    """The gradient that a step sees: times ``scale``, in the compute dtype, rows summed, zeroed if so wished.

    The product is taken in the wider of the gradient's dtype and the compute dtype and rounded once. The
    rows of a RowSparse are scaled, then those of one index are summed. What needs no change is returned as
    it came.

    Parameters
    ----------
    g : array or RowSparse
        In any floating dtype; never written.
    parameter_dtype : dtype
    scale : float
        Finite and positive.
    nonfinite : str
        With ``"zero"`` every NaN and infinity becomes 0; other policies leave them.

    Examples
    --------
    >>> prepare(np.array([2.0, np.nan]), np.dtype("float32"), 0.5, "zero")
    array([1., 0.], dtype=float32)
    """
    dtype = compute_dtype(parameter_dtype)
    if isinstance(g, RowSparse):
        g = RowSparse(g.indices, _scaled(g.rows, dtype, scale), g.shape).coalesced()
        return g if nonfinite != "zero" else RowSparse(g.indices, _zeroed(g.rows), g.shape)
    g = _scaled(np.asarray(g), dtype, scale)
    return g if nonfinite != "zero" else _zeroed(g)


def _scaled(g: Any, dtype: Any, scale: float) -> Any:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if scale != 1.0:
            wide = np.result_type(g.dtype, dtype)
            g = g.astype(wide, copy=False) * (scale if wide == object else wide.type(scale))
        # A 0-d product is a NumPy scalar.
        return np.asarray(g).astype(dtype, copy=False)


def is_finite(x: Any) -> Any:
    """Mask of the finite entries of an array; objects count by their float."""
    return np.isfinite(x.astype(np.float64) if x.dtype == object else x)


def _zeroed(g: Any) -> Any:
    finite = is_finite(g)
    return g if finite.all() else np.where(finite, g, np.zeros((), g.dtype))


def bad_entries(g: Gradient) -> tuple[int, int, int]:
    """Number of NaN, of infinite and of all entries of a gradient (of the rows that it has)."""
    x = g.rows if isinstance(g, RowSparse) else g
    finite = is_finite(x)
    if finite.all():
        return 0, 0, x.size
    nan = int(np.count_nonzero(x != x))
    return nan, int(x.size - np.count_nonzero(finite)) - nan, x.size


def all_finite(paths: Iterable[str], gradient: Callable[[str], Gradient], nonfinite: str) -> bool:
    """Whether no gradient holds NaN or infinity; one read of them, none under ``"zero"`` and ``"propagate"``.

    Raises
    ------
    NonFiniteError
        Under ``"raise"``: names the first leaf, its number of bad entries and that of other bad leaves.
    """
    if nonfinite in ("zero", "propagate"):
        return True
    bad = {}
    for path in paths:
        nan, infinite, size = bad_entries(gradient(path))
        if nan or infinite:
            if nonfinite == "skip":
                return False
            bad[path] = f"{nan + infinite} of {size} entries not finite ({nan} NaN, {infinite} infinite)"
    if bad:
        path, what = next(iter(bad.items()))
        more = f", and {len(bad) - 1} more leaves like it" if len(bad) > 1 else ""
        got = f"a gradient with {what}{more}"
        advice = (
            'Nothing has changed. Lower the loss scale, or choose nonfinite="skip", "zero" or "propagate".'
        )
        raise NonFiniteError(path or "gradient", got, "finite gradients", advice)
    return True
