"""Whose array is this? Answered from ``sys.modules`` alone, so that no library is ever imported to ask.

An array of a library exists only when that library has been imported, and its type does not change, so one
look a type is enough.
"""

from __future__ import annotations

import sys
from typing import Any

from memopt_ref.errors import BackendError

_ARRAY_TYPES = {
    "numpy": ("ndarray", "generic"),
    "cupy": ("ndarray",),
    "torch": ("Tensor",),
    "jax": ("Array",),
}
_ADVICE = {
    "numpy": "Copy it yourself with cupy.asarray: nothing is moved to a device silently.",
    "torch": "Pass tensor.detach().numpy() of a tensor on the CPU: it shares the tensor's memory. "
    "A tensor on a device you copy yourself.",
    "cupy": "Copy it yourself with cupy.asnumpy: a device array is never copied to the host silently.",
    "jax": "Pass numpy.array(x), a copy that can be written; JAX arrays cannot.",
}
_known: dict[type, str] = {}


def library_of(array: Any) -> str | None:
    """The library of ``array``: ``"numpy"``, ``"cupy"``, ``"torch"``, ``"jax"``, or None for anything else.

    Examples
    --------
    >>> import numpy as np
    >>> library_of(np.zeros(3)), library_of([0.0])
    ('numpy', None)
    """
    kind = type(array)
    if kind not in _known:
        for library, names in _ARRAY_TYPES.items():
            module = sys.modules.get(library)
            types = tuple(t for name in names if isinstance(t := getattr(module, name, None), type))
            if isinstance(array, types):
                _known[kind] = library
                break
        else:
            return None
    return _known[kind]


def describe(array: Any) -> str:
    """An array in words: its type, and the device it is on when it says so."""
    kind = type(array)
    device = getattr(array, "device", None)
    place = f" on {device}" if device is not None and library_of(array) not in ("numpy", None) else ""
    return f"a {kind.__module__.partition('.')[0]}.{kind.__qualname__}{place}"


def check_array_library(where: str, array: Any, library: str = "numpy") -> None:
    """Raise BackendError if ``array`` belongs to another array library than ``library``.

    What is no array at all (a list, a number) passes: the checks of dtype and shape name it better.
    """
    found = library_of(array)
    if found not in (library, None):
        words = {"numpy": "a NumPy array", "cupy": "a CuPy array"}
        wanted = f"{words.get(library, library)}, since the parameters' backend runs on those"
        raise BackendError(where, describe(array), wanted, _ADVICE.get(str(found), "Convert it yourself."))
