"""Many tensors in few launches: those of one expression and one dtype share a table that one kernel walks.

A launch costs some microseconds whatever it does, so that a model of hundreds of small tensors would wait for
launches, not for memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memopt_ref.rules.elementwise import Elementwise

from ..registry import Leaf
from . import engine
from .arrays import address, aligned, kept, place
from .bind import Shape, bind
from .device import Device, device_of

#: Entries above which a tensor has a launch of its own, which costs it nothing.
LARGE = 1 << 20


def together(
    leaves: Sequence[Leaf], scale: float = 1.0, factor: float = 1.0, zero: bool = False
) -> list[int]:
    """Step tensors in place, each by its own rule: the bits of one step after the other.

    Parameters
    ----------
    leaves : sequence of Leaf
        Rules admitted by :func:`.elementwise.supports`, with numbers. The arrays of no two share memory.
    scale, factor, zero
        See :class:`~memopt_ref.backends.registry.Together`; only gradients that are taken as they are have a
        kernel.

    Returns
    -------
    list of int
        The places of the leaves that are left, untouched: large ones, those that do not lie in one piece,
        and all if the gradients are to be changed first.

    Raises
    ------
    BackendError
        The arrays are not as the kernels can walk them; nothing is written.
    """
    if scale != 1 or factor != 1 or zero:
        return list(range(len(leaves)))
    left = [k for k, leaf in enumerate(leaves) if not _small(leaf)]
    mine = [leaf for k, leaf in enumerate(leaves) if k not in set(left)]
    if not mine:
        return left
    for leaf in mine:
        engine.check(leaf.w, leaf.g, {name: x for name, x in leaf.state.items() if name != "t"})
        engine.same_place(mine[0].w, "parameter", leaf.w)
    clocks = [int(leaf.state["t"]) + 1 if "t" in leaf.state else 0 for leaf in mine]
    with place(mine[0].w):
        jobs = []
        for leaf, t in zip(mine, clocks, strict=True):
            assert isinstance(leaf.rule, Elementwise)
            jobs.append(engine.job(leaf.rule, leaf.w, leaf.g, leaf.state, t))
        run(device_of(mine[0].w), jobs)
    for leaf, t in zip(mine, clocks, strict=True):
        if "t" in leaf.state:
            leaf.state["t"] = np.int64(t)
    return left


def _small(leaf: Leaf) -> bool:
    arrays = [leaf.w, leaf.g, *(x for name, x in leaf.state.items() if name != "t")]
    return 0 < leaf.w.size <= LARGE and engine.contiguous_alike(arrays)


def run(device: Device, jobs: Sequence[engine.Job], block: int = 256, vec: int | None = None) -> None:
    """Launch the kernels of many jobs, as few as there are expressions, dtypes and alignments."""
    groups: dict[tuple[Any, ...], list[engine.Job]] = {}
    for job in jobs:
        shape = Shape(block, aligned(job.arrays, vec or engine.thumb(job.arrays[0])))
        groups.setdefault((*job.bound, shape), []).append(job)
    for (*bound, shape), group in groups.items():
        _table(device, bind("table", *bound, shape), group, shape)


def _table(device: Device, kernel: Any, jobs: Sequence[engine.Job], shape: Shape) -> None:
    sizes = np.array([job.arrays[0].size for job in jobs])
    blocks = -(-sizes // (shape.block * shape.vec))
    last = np.cumsum(blocks)
    table = np.array([[*map(address, job.arrays), 0, 0] for job in jobs], np.uint64)
    table[:, -2], table[:, -1] = sizes, last - blocks
    numbers = np.array([job.numbers for job in jobs], engine.native_dtype(jobs[0].arrays[0].dtype))
    tensor_of = np.repeat(np.arange(len(jobs), dtype=np.int32), blocks)
    like = jobs[0].arrays[0]
    args = tuple(kept(like, x) for x in (table, numbers, tensor_of))
    touched = [x for job in jobs for x in job.arrays]
    device.launch(kernel, (int(last[-1]),), (shape.block,), args, touched=touched)
