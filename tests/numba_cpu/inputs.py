"""Numbers that find mistakes, and the comparison that finds them: bit for bit, any NaN for any NaN."""

from __future__ import annotations

import numpy as np

from tests.table import dtype_of

SINGULAR = (0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e-39, -3e-39, 1.18e-38, 3e38, -3e38)
LAYOUTS = ("c", "fortran", "rows", "every-second", "reversed", "across")


def same_bits(x, y) -> bool:
    """Equal to the last bit, the sign of zero included; a NaN equals a NaN of any sign and payload.

    Which of two NaN an addition returns depends on the order of a machine instruction's operands, which no
    compiler promises.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if x.dtype.kind in "iu":
        return bool(np.array_equal(x, y))
    bits = f"u{x.dtype.itemsize}"
    with np.errstate(invalid="ignore"):
        nan = np.isnan(x.astype(np.float64)) & np.isnan(y.astype(np.float64))
    return bool(np.all((np.ascontiguousarray(x).view(bits) == np.ascontiguousarray(y).view(bits)) | nan))


def hard(shape, dtype="float32", seed=0, share=0.2):
    """Normal numbers of many sizes, a share of them replaced by singular ones."""
    rng = np.random.default_rng(seed)
    x = np.asarray(rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 4, shape))
    x = np.where(rng.random(shape) < share, rng.choice(SINGULAR, shape), x)
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(x).astype(dtype_of(dtype))


def laid(x, layout):
    """A writable copy in memory of another layout, surrounded by poison."""
    if layout == "c" or x.ndim == 0:
        return x.copy()
    if layout == "fortran":
        return x.copy(order="F")
    if layout == "across":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1] + 3), 77, x.dtype)
    view = {
        "rows": wide[..., : x.shape[-1]],
        "every-second": wide[..., 1:-1:2][..., : x.shape[-1]],
        "reversed": wide[..., 1:-1:2][..., : x.shape[-1]][..., ::-1],
    }[layout]
    view[...] = x
    return view
