"""A kernel as what it is: text, the name of its function, and the options that it is compiled with."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..numba_cpu.kinds import NAMES, kind_of

#: Products and sums are never fused, division and roots are rounded to nearest: the class ``bitwise``.
OPTIONS = ("-std=c++17", "--fmad=false")
_STORED = dict(zip(NAMES, ("float", "double", "Bfloat16", "Float16"), strict=True))


@dataclass(frozen=True)
class Kernel:
    """One function of CUDA C.

    Parameters
    ----------
    name : str
        Of an ``extern "C" __global__`` function in ``source``; it takes pointers and numbers.
    source : str
        The whole text: it includes nothing.
    options : tuple of str
        For the compiler: ``OPTIONS`` and definitions such as ``"-DBLOCK=256"``.
    """

    name: str
    source: str
    options: tuple[str, ...] = OPTIONS

    @functools.cached_property
    def digest(self) -> str:
        """What tells it from every other kernel."""
        return hashlib.sha256("\0".join((self.name, self.source, *self.options)).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def definitions(self) -> dict[str, str]:
        """The definitions among the options."""
        pairs = (option[2:].partition("=") for option in self.options if option.startswith("-D"))
        return {name: value for name, _, value in pairs}


def defined(**definitions: Any) -> tuple[str, ...]:
    """``OPTIONS`` and these definitions.

    Examples
    --------
    >>> defined(BLOCK=256)
    ('-std=c++17', '--fmad=false', '-DBLOCK=256')
    """
    return OPTIONS + tuple(f"-D{name}={value}" for name, value in definitions.items())


@functools.cache
def text(file: str) -> str:
    """A text of this folder."""
    return Path(__file__).with_name(file).read_text(encoding="utf-8")


def types_of(weight: Any, gradient: Any) -> Mapping[str, str]:
    """The definitions REAL, WEIGHT and GRADIENT for arrays of these dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> types_of(np.dtype("float16"), np.dtype("float64"))
    {'REAL': 'float', 'WEIGHT': 'Float16', 'GRADIENT': 'double'}
    """
    stored = [_STORED[NAMES[kind]] for x in (weight, gradient) if (kind := kind_of(x)) is not None]
    real = "double" if stored[0] == "double" else "float"
    return dict(zip(("REAL", "WEIGHT", "GRADIENT"), (real, *stored), strict=True))
