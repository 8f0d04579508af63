"""A piece of a row of a matrix: where it lies, or in a row of one's own if it cannot be used there.

``array`` is a row of the table that :func:`.engine.describe` makes, with the steps from row to row and from
column to column; or a pointer to one.
"""

from __future__ import annotations

from typing import Any

import numba

from .drive import ADDRESS, GATHER, ITEMSIZE, NATIVE, SCATTER, STEPS
from .memory import as_uint8, call_mover
from .options import STRICT
from .prefetch import prefetch

DOWN, ALONG = STEPS, STEPS + 1
#: Bytes of a cache line.
LINE = 64


@numba.njit(**STRICT)
def there(array: Any, row: int, left: int) -> int:
    """The address of a piece of a row, as it lies there."""
    address: int = array[ADDRESS] + (row * array[DOWN] + left * array[ALONG]) * array[ITEMSIZE]
    return address


@numba.njit(**STRICT)
def opened(array: Any, row: int, left: int, n: int, own: int) -> int:
    """The address of a piece of a row, or of the row ``own`` with its numbers."""
    here: int = there(array, row, left)
    if array[NATIVE] != 0 and (array[ALONG] == 1 or n == 1):
        return here
    call_mover(array[GATHER], here, 0, array[ALONG], 1, n, 0, own)
    return own


@numba.njit(**STRICT)
def closed(array: Any, row: int, left: int, n: int, own: int, found: int) -> None:
    """Write a piece back, if it was not used in place."""
    if found == own:
        call_mover(array[SCATTER], there(array, row, left), 0, array[ALONG], 1, n, 0, found)


@numba.njit(**STRICT)
def near(array: Any, row: int, left: int, n: int) -> None:
    """Send for a piece of a row, if it is in one piece: it will be opened soon."""
    if array[ALONG] == 1:
        here, size = as_uint8(there(array, row, left)), n * array[ITEMSIZE]
        for line in range(0, size, LINE):
            prefetch(here, line)
        # It may begin in the middle of a cache line.
        prefetch(here, size - 1)
