"""How the arrays of one step lie in memory, brought to as few axes as describe them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

#: Entries of a tile whose arrays need no buffer.
RUN = 16384
#: Entries of a tile with buffers, and its side where two arrays lie across each other.
BUFFER, SQUARE = 4096, 64
#: Columns below which several rows share a tile, though each would do without a buffer.
NARROW = 64


class Tiling(NamedTuple):
    """Axes in the order of memory (at least two), steps in elements, and the largest tile."""

    shape: tuple[int, ...]
    steps: list[tuple[int, ...]]
    tall: int
    broad: int

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        count = -(-self.shape[-2] // self.tall) * -(-self.shape[-1] // self.broad)
        for length in self.shape[:-2]:
            count *= length
        return count


def tiling(
    arrays: Sequence[Any], shape: tuple[int, ...], native: Any, by_row: bool = False, run: int = RUN
) -> Tiling:
    """Axes, steps and tiles for arrays of one shape.

    Axes of length 1 are left out, the first array's nearest axis comes last, and neighbours that every array
    has in one piece are joined.

    Parameters
    ----------
    arrays : sequence of ndarray
        All of ``shape``, but for the first axis if ``by_row``.
    shape : tuple of int
        No length is 0.
    native : dtype
        What the kernel computes with; other dtypes pass through a buffer.
    by_row : bool
        The first axis stays the first: its places are looked up in a list of rows.
    run : int
        Entries of a tile without buffers.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((6, 10), np.float32)
    >>> tiling([x, x], x.shape, x.dtype)[:2]
    ((1, 60), [(60, 1), (60, 1)])
    >>> tiling([x[:, ::2].T, np.zeros((5, 6))], (5, 6), x.dtype)[:2]
    ((6, 5), [(10, 2), (1, 6)])
    """
    if not by_row and all(x.flags.c_contiguous and x.dtype == native for x in arrays):
        count = 1
        for length in shape:
            count *= length
        return Tiling((1, count), [(count, 1)] * len(arrays), 1, run)
    steps = [tuple(s // x.itemsize for s in x.strides) for x in arrays]
    first = [0] if by_row else []
    others = [a for a in range(len(first), len(shape)) if shape[a] > 1]
    others.sort(key=lambda a: -abs(steps[0][a]))
    axes = _joined([*first, *others], shape, steps, keep=len(first))
    joined = [tuple(s[a[-1]] for a in axes) for s in steps]
    lengths = [_product(shape, a) for a in axes]
    if by_row and len(lengths) == 1:
        lengths, joined = [*lengths, 1], [(*s, 1) for s in joined]
    while len(lengths) < 2:
        lengths, joined = [1, *lengths], [(1, *s) for s in joined]
    order = _crossed_axis_next_to_last(joined, len(lengths), keep=len(first))
    lengths, joined = [lengths[a] for a in order], [tuple(s[a] for a in order) for s in joined]
    return Tiling(tuple(lengths), joined, *_tile(arrays, lengths, joined, native, run))


def _joined(
    axes: list[int], shape: tuple[int, ...], steps: list[tuple[int, ...]], keep: int
) -> list[list[int]]:
    groups: list[list[int]] = []
    for place, axis in enumerate(axes):
        if place > keep and all(s[axes[place - 1]] == shape[axis] * s[axis] for s in steps):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def _product(shape: tuple[int, ...], axes: list[int]) -> int:
    length = 1
    for axis in axes:
        length *= shape[axis]
    return length


def _crossed_axis_next_to_last(steps: list[tuple[int, ...]], rank: int, keep: int) -> list[int]:
    """Where an array's nearest axis is not the last, it comes next to it, so that a tile has both."""
    order = list(range(rank))
    if rank > 2:
        for s in steps[1:]:
            nearest = min(order, key=lambda a: (abs(s[a]), -a))
            if keep <= nearest < rank - 2:
                order.remove(nearest)
                order.insert(rank - 2, nearest)
                break
    return order


def _tile(
    arrays: Sequence[Any], lengths: list[int], steps: list[tuple[int, ...]], native: Any, run: int
) -> tuple[int, int]:
    height, width = lengths[-2:]
    in_pieces = all(s[-1] == 1 for s in steps)
    if in_pieces and all(x.dtype == native for x in arrays) and (height == 1 or width >= NARROW):
        return 1, run
    if height > 1 and any(abs(s[-2]) < abs(s[-1]) for s in steps):
        return SQUARE, SQUARE
    broad = min(width, BUFFER)
    return max(1, min(height, BUFFER // broad)), broad


def in_whole_steps(x: Any) -> bool:
    """Whether the array's strides are whole numbers of its elements, in the machine's byte order."""
    return bool(x.flags.aligned and x.dtype.isnative and all(s % x.itemsize == 0 for s in x.strides))
