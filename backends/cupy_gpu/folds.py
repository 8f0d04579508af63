"""Sums of leaves and of runs, brought to one number: the upper levels of :mod:`memopt_ref.parts.sums`."""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.sums import LEAF, RUN

from . import passes
from .arrays import namespace, place
from .device import Device

#: Threads of a block.
BLOCK = 256


def room(like: Any, shape: Any, dtype: Any) -> Any:
    """Memory where ``like`` lies; it may hold anything."""
    with place(like):
        return namespace(like).empty(shape, dtype)


def leaves(device: Device, sums: Any, most: int = 1) -> Any:
    """Rows of sums [rows, n], brought to at most ``most`` numbers a row.

    Examples
    --------
    >>> from memopt_ref.backends.cupy_gpu.device import RecordingDevice
    >>> device = RecordingDevice()
    >>> leaves(device, np.ones((3, 1000), np.float32)).shape, len(device.launches)
    ((3, 1), 2)
    """
    while sums.shape[-1] > most:
        rows, columns = sums.shape
        shorter = -(-columns // LEAF)
        to = room(sums, (rows, shorter), sums.dtype)
        _launch(device, "fold_leaves", 32 * to.size, sums, to, rows, columns, shorter)
        sums = to
    return sums


def runs(device: Device, sums: Any) -> Any:
    """Columns of sums [matrices, n, columns], brought to one number a column."""
    while sums.shape[1] > 1:
        matrices, height, columns = sums.shape
        strips = -(-height // RUN)
        to = room(sums, (matrices, strips, columns), sums.dtype)
        _launch(device, "fold_runs", to.size, sums, to, matrices, height, columns, strips)
        sums = to
    return sums


def _launch(device: Device, name: str, threads: int, sums: Any, to: Any, *sizes: int) -> None:
    if threads:
        kernel = passes.fold(name, sums.dtype, BLOCK)
        device.launch(kernel, (-(-threads // BLOCK),), (BLOCK,), (sums, to, *map(np.int64, sizes)))
