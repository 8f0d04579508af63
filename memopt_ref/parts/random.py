"""Random numbers as a hash of (seed, t, index): the same in every backend, with no generator to carry along.

The mixing function is SplitMix64's finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators", OOPSLA, figure 17, constants of variant 13).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)

UInt64Array = NDArray[np.uint64]


def splitmix64(x: UInt64Array | np.uint64 | int) -> UInt64Array:
    """SplitMix64's output for the state ``x``: a bijection of the 64-bit integers.

    Parameters
    ----------
    x : array of uint64 or int
        Any 64-bit value.

    Examples
    --------
    >>> [hex(int(v)) for v in splitmix64(np.arange(2, dtype=np.uint64))]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    with np.errstate(over="ignore"):
        z = np.asarray(x, dtype=np.uint64) + GOLDEN_GAMMA
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))


def uniform(seed: int, t: int, n: int) -> NDArray[np.float32]:
    """``n`` float32 numbers in [0, 1), multiples of 2^-24; element i is a function of (seed, t, i) alone.

    Examples
    --------
    >>> bool(np.all(uniform(7, 1, 5)[:3] == uniform(7, 1, 3)))
    True
    """
    with np.errstate(over="ignore"):
        stream = splitmix64(splitmix64(np.uint64(seed)) ^ np.uint64(t))
        bits = splitmix64(np.asarray(stream + np.arange(n, dtype=np.uint64), dtype=np.uint64))
    return np.asarray(bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def leaf_seed(seed: int, path: str) -> int:
    """The seed of one leaf of a tree: the rule's seed mixed with the leaf's path.

    Examples
    --------
    >>> leaf_seed(0, "a") != leaf_seed(0, "b") != leaf_seed(1, "b")
    True
    """
    state = splitmix64(np.uint64(seed))
    for byte in path.encode():
        state = splitmix64(state ^ np.uint64(byte))
    return int(state)
