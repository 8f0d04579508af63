"""Shapes of a model's parameters without its arrays: from a tree or a line of text.

Headers of safetensors files are read in :mod:`memopt_ref.safetensors_shapes`, model configurations in
:mod:`memopt_ref.hf_shapes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from operator import index
from typing import Any

import ml_dtypes
import numpy as np

from . import tree
from .checks import check_parameter
from .errors import DtypeError, ShapeError

Shapes = dict[str, "ShapeDtype"]


@dataclass(frozen=True)
class ShapeDtype:
    """A parameter that is not there: its shape and dtype.

    Examples
    --------
    >>> ShapeDtype((50257, 768), np.dtype("float32")).nbytes
    154389504
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Number of entries, a Python integer of any length."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.size * self.dtype.itemsize


def dtype_of(dtype: Any, where: str = "dtype") -> np.dtype[Any]:
    """The NumPy dtype of a name, a NumPy, torch or JAX dtype; ``bfloat16`` is that of ml_dtypes.

    Raises
    ------
    DtypeError
        Not a dtype.

    Examples
    --------
    >>> dtype_of("bfloat16").itemsize, dtype_of("torch.float16")
    (2, dtype('float16'))
    """
    name = str(dtype).removeprefix("torch.")
    known = ml_dtypes.bfloat16 if name == "bfloat16" else dtype if name == str(dtype) else name
    try:
        found: np.dtype[Any] = np.dtype(known)
    except TypeError:
        wanted = "float64, float32, float16 or bfloat16"
        raise DtypeError(where, repr(dtype), wanted, "Name one of these.") from None
    return found


def shapes_of(params: Any, dtype: Any = "float32") -> Shapes:
    """Shapes by path of a tree of tuples of ints, arrays, or anything with ``shape`` and ``dtype``.

    Parameters
    ----------
    params : tree
        A tuple of ints is a leaf, ``()`` a scalar; beside arrays ``()`` is an empty container.
    dtype : dtype
        Of the leaves that are tuples of ints.

    Returns
    -------
    dict
        Path to :class:`ShapeDtype`.

    Raises
    ------
    DtypeError, ShapeError
        A leaf that is no parameter.

    Examples
    --------
    >>> shapes_of({"w": (3, 4), "b": np.zeros(4)})["w"]
    ShapeDtype(shape=(3, 4), dtype=dtype('float32'))
    """
    leaves = tree.flatten(params, is_leaf=_is_shape).leaves
    if any(hasattr(leaf, "shape") for leaf in leaves.values()):
        leaves = {path: leaf for path, leaf in leaves.items() if not _is_empty(leaf)}
    return {path: leaf_shape(path or "parameter", leaf, dtype) for path, leaf in leaves.items()}


def _is_empty(leaf: Any) -> bool:
    return isinstance(leaf, tuple) and not leaf


def _is_shape(node: Any) -> bool:
    if not isinstance(node, tuple) or hasattr(node, "_fields"):
        return False
    return all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in node)


def leaf_shape(where: str, leaf: Any, dtype: Any) -> ShapeDtype:
    """Shape of one leaf; ``dtype`` is for a bare tuple of ints. Raises like :func:`shapes_of`."""
    if isinstance(leaf, tuple):
        made = ShapeDtype(tuple(index(n) for n in leaf), dtype_of(dtype))
    elif hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        made = ShapeDtype(tuple(index(n) for n in leaf.shape), dtype_of(leaf.dtype, where))
    else:
        wanted = "a shape as a tuple of ints, or an array"
        raise ShapeError(where, f"a {type(leaf).__name__}", wanted, "Write a vector of 4 entries as (4,).")
    if min(made.shape, default=0) < 0:
        raise ShapeError(where, f"shape {made.shape}", "axes of length >= 0", "Check the sign.")
    check_parameter(where, made)
    return made


_ITEM = re.compile(r"(?:(?P<name>[^=:,]+)=)?(?P<axes>\(\)|\d+(?:x\d+)*)(?::(?P<dtype>\w+))?")


def shapes_from_text(text: str, dtype: Any = "float32") -> Shapes:
    """Shapes from ``"name=AxB,name=C:bfloat16"``.

    Parameters
    ----------
    text : str
        Items are joined by commas. An item without a name gets its position; ``()`` is a scalar.
    dtype : dtype
        Of the items that name none.

    Returns
    -------
    dict
        Path to :class:`ShapeDtype`, in the order of the text.

    Raises
    ------
    ShapeError, DtypeError
        An item that cannot be read, or a name twice.

    Examples
    --------
    >>> {name: leaf.shape for name, leaf in shapes_from_text("emb=50257x768,b=768").items()}
    {'emb': (50257, 768), 'b': (768,)}
    """
    shapes: Shapes = {}
    for position, item in enumerate(text.split(",")):
        found = _ITEM.fullmatch("".join(item.split()))
        if found is None:
            wanted = "items such as emb=50257x768 or b=768:bfloat16"
            raise ShapeError("shapes", repr(item.strip()), wanted, "Join axes by 'x' and items by commas.")
        name = found["name"] or str(position)
        if name in shapes:
            raise ShapeError("shapes", f"the name {name!r} twice", "distinct names", "Rename one.")
        axes = () if found["axes"] == "()" else tuple(int(n) for n in found["axes"].split("x"))
        shapes[name] = leaf_shape(name, ShapeDtype(axes, dtype_of(found["dtype"] or dtype, name)), dtype)
    return shapes
