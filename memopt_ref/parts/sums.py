r"""The one order in which this library adds floating-point numbers.

Addition is not associative, so a sum is defined by its tree. This one is fast on a vector unit and on a GPU
warp, and does not depend on the number of threads:

* *along a row*: a leaf is 512 consecutive entries. Lane l of 128 starts at +0 and adds the entries l,
  l + 128, l + 256, l + 384 in this order; then neighbouring lanes are joined at distance 1, 2, 4, ..., 64.
  Missing entries count as +0. The leaf sums form a new row; repeat until one number is left.
* *down a column*: runs of 64 rows are added in order from +0; the run sums form a new column; repeat.
* *over a tensor*: the leaf sums of all rows (last axis), in C order, form one row that is summed as above.

``matmul``, ``eigh`` and LAPACK are exempt. An entry meets at most 10 roundings a level of leaves (about
1 + log2 n in all), and 63 a level of runs: the error is at most that many half ulps of the sum of magnitudes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LEAF = 512
LANES = 128
RUN = 64


def _power_of_two_at_least(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def leaf_sums(x: Any) -> Any:
    """Sums of the leaves along the last axis: shape [..., n] becomes [..., max(ceil(n / 512), 1)].

    For n < 128 only the lanes that hold an entry are formed, and +0 is added once, at the end: a sum of
    numbers is -0 only if all of them are, so nothing else depends on it.
    """
    n = x.shape[-1]
    leaves = max(-(-n // LEAF), 1)
    lanes = min(LANES, _power_of_two_at_least(max(n, 1)))
    deep = min(LEAF // LANES, max(-(-n // lanes), 1)) if leaves == 1 else LEAF // LANES
    if n != leaves * deep * lanes:
        padded = np.zeros((*x.shape[:-1], leaves * deep * lanes), x.dtype)
        padded[..., :n] = x
        x = padded
    parts = x.reshape(-1, deep, lanes)
    total = parts[:, 0]
    for k in range(1, deep):
        total = total + parts[:, k]
    while total.shape[-1] > 1:
        total = total[:, 0::2] + total[:, 1::2]
    zero = 0 if x.dtype == object else x.dtype.type(0)
    return (total[:, 0] + zero).reshape(*x.shape[:-1], leaves)


def along_rows(x: Any) -> Any:
    """Sum along the last axis: shape [..., n] becomes [...].

    Examples
    --------
    >>> along_rows(np.arange(6.0).reshape(2, 3))
    array([ 3., 12.])
    """
    x = leaf_sums(x)
    while x.shape[-1] > 1:
        x = leaf_sums(x)
    return x[..., 0]


def down_columns(x: Any) -> Any:
    """Sum over the axis before the last: shape [..., m, n] becomes [..., n].

    Examples
    --------
    >>> down_columns(np.arange(6.0).reshape(2, 3))
    array([3., 5., 7.])
    """
    first = True
    while first or x.shape[-2] > 1:
        first = False
        m, n = x.shape[-2:]
        runs = max(-(-m // RUN), 1)
        total = np.zeros((*x.shape[:-2], runs, n), x.dtype)
        for k in range(min(m, RUN)):
            rows = x[..., k::RUN, :]
            total[..., : rows.shape[-2], :] += rows
        x = total
    return x[..., 0, :]


def over_tensor(x: Any) -> Any:
    """Sum of all entries, as a 0-d value of the same dtype.

    Examples
    --------
    >>> float(over_tensor(np.ones((3, 5))))
    15.0
    """
    x = np.asarray(x)
    if x.size == 0:
        return x.dtype.type(0)
    return along_rows(leaf_sums(x.reshape(-1, x.shape[-1] if x.ndim else 1)).reshape(-1))
