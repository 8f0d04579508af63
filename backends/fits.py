"""Whether an installed library fits the others, from what is written about it; nothing is imported."""

from __future__ import annotations

import ctypes
import functools
import os
import re
from importlib import metadata

import numpy as np

#: The oldest Numba whose compiled code has been tested.
OLDEST_NUMBA = "0.64"


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, those of a pre-release included.

    Examples
    --------
    >>> release("2.6.0rc1") >= release("2.6"), release("0.7") < release("0.64")
    (True, True)
    """
    numbers = re.match(r"\d+(\.\d+)*", version)
    found = [int(n) for n in numbers.group().split(".")] if numbers else [0]
    while len(found) > 1 and found[-1] == 0:
        found.pop()
    return tuple(found)


def within(version: str, limits: str) -> bool:
    """Whether a version meets limits such as ``"<2.6,>=1.22"``; a limit of another form is not looked at.

    Examples
    --------
    >>> within("2.4.6", "<2.6,>=1.22"), within("2.6.0", "<2.6,>=1.22"), within("1.21", "!=1.3,>=1.22")
    (True, False, False)
    """
    have = release(version)
    for limit in limits.split(","):
        if found := re.fullmatch(r"\s*(<=|<|>=|>)\s*(\d[\w.]*)\s*", limit):
            sign, other = found[1], release(found[2])
            if not {"<": have < other, "<=": have <= other, ">": have > other, ">=": have >= other}[sign]:
                return False
    return True


def numba() -> tuple[bool, str]:
    """Whether the installed Numba can run with the installed NumPy, and a sentence."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False, "NUMBA_DISABLE_JIT is set"
    return _numba(np.__version__)


@functools.cache
def _numba(numpy_version: str) -> tuple[bool, str]:
    try:
        have = metadata.version("numba")
        needs = metadata.requires("numba") or []
    except metadata.PackageNotFoundError:
        return True, "ready"
    if release(have) < release(OLDEST_NUMBA):
        return False, f"numba {have} is installed, and {OLDEST_NUMBA} is the oldest that will do"
    for need in needs:
        found = re.match(r"numpy\s*\(?([<>=!~][^;)]*)", need)
        if found and not within(numpy_version, found[1]):
            return False, f"numba {have} needs numpy {found[1].strip()}, and {numpy_version} is installed"
    return True, "ready"


@functools.cache
def cupy() -> tuple[bool, str]:
    """Whether CuPy could find a GPU, and a sentence: the driver is looked for, and nothing is asked of it."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True, "ready"
    return False, "there is no NVIDIA driver: it takes a machine with an NVIDIA GPU"
