"""Gradients before a step: cast, scaled, searched for NaN and infinity.

Rounding and a positive scale keep the order of magnitudes. So all entries are finite once cast and scaled if
the largest magnitude is: the search is one read of the gradients as they came, without a copy of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .backends.largest import PIECE, infinity, largest, number
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
        g = RowSparse._again(g.indices, _scaled(g.rows, dtype, scale), g.shape)
        return g if nonfinite != "zero" else RowSparse._of(g.indices, _zeroed(g.rows), g.shape)
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


def pieces(x: Any) -> Iterator[Any]:
    """An array part by part, in copies or views of at most 2^16 entries, in no certain order."""
    if x.size <= PIECE or x.dtype == object:
        yield x.reshape(-1)
        return
    # As integers: NumPy cannot buffer every dtype.
    bits = x.view(f"u{x.itemsize}")
    parts: Iterator[Any] = np.nditer(bits, ["external_loop", "buffered"], order="K", buffersize=PIECE)
    for part in parts:
        yield part.view(x.dtype)


def bad_entries(g: Gradient, parameter_dtype: Any = None, scale: float = 1.0) -> tuple[int, int, int]:
    """Number of NaN, of infinite and of all entries of a gradient (of the rows that it has).

    Counted after the cast to the compute dtype of a parameter of ``parameter_dtype`` and the scale, if given.
    """
    x = g.rows if isinstance(g, RowSparse) else np.asarray(g)
    nan = infinite = 0
    for piece in pieces(x):
        seen = piece if parameter_dtype is None else prepare(piece, parameter_dtype, scale, "propagate")
        bad = seen.size - int(np.count_nonzero(is_finite(seen)))
        own = int(np.count_nonzero(seen != seen)) if bad else 0
        nan, infinite = nan + own, infinite + bad - own
    return nan, infinite, x.size


def all_finite(
    gradients: Mapping[str, Gradient], parameters: Mapping[str, Any], scale: float, nonfinite: str
) -> bool:
    """Whether no gradient, cast and scaled, holds NaN or infinity.

    One read of the gradients, none under ``"zero"`` and ``"propagate"``.

    Parameters
    ----------
    gradients : mapping of path to array or RowSparse
        Arrays as they came; RowSparse :func:`prepare`'d.
    parameters : mapping of path to array
    scale : float
    nonfinite : str
        One of the policies.

    Raises
    ------
    NonFiniteError
        Under ``"raise"``: names the first leaf, its number of bad entries and that of other bad leaves.
    """
    if nonfinite in ("zero", "propagate"):
        return True
    alike: dict[tuple[Any, Any, float], list[str]] = {}
    for path, g in gradients.items():
        own = (g.dtype, parameters[path].dtype, 1.0 if isinstance(g, RowSparse) else scale)
        alike.setdefault(own, []).append(path)
    bad: dict[str, str] = {}
    for (dtype, parameter, times), paths in alike.items():
        if dtype != object and _largest_is_finite([gradients[p] for p in paths], dtype, parameter, times):
            continue
        for path in paths:
            nan, infinite, size = bad_entries(gradients[path], parameter, times)
            if nan or infinite:
                bad[path] = f"{nan + infinite} of {size} entries not finite ({nan} NaN, {infinite} infinite)"
    if bad and nonfinite == "raise":
        path = next(p for p in gradients if p in bad)
        more = f", and {len(bad) - 1} more leaves like it" if len(bad) > 1 else ""
        got = f"a gradient with {bad[path]}{more}"
        advice = (
            'Nothing has changed. Lower the loss scale, or choose nonfinite="skip", "zero" or "propagate".'
        )
        raise NonFiniteError(path or "gradient", got, "finite gradients", advice)
    return not bad


def _largest_is_finite(gradients: list[Gradient], dtype: Any, parameter_dtype: Any, scale: float) -> bool:
    top = largest([g.rows if isinstance(g, RowSparse) else np.asarray(g) for g in gradients])
    if top >= infinity(dtype):
        return False
    if scale == 1.0 and (dtype == parameter_dtype or dtype.itemsize < 8):
        return True
    # The cast may overflow, and so may the product.
    return bool(np.isfinite(prepare(number(top, dtype), parameter_dtype, scale, "propagate")[0]))
