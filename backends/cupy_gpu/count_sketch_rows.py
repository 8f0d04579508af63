"""Which rows are active in a step of a rule with sketches, and where they live in a sketch."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.errors import BackendError
from memopt_ref.parts.hashing import Avalanche, moment_seed, row_keys
from memopt_ref.rules.sketch_state import MOMENTS, SketchedRule

from ..numba_cpu.admit import decay_of
from . import count_sketch_bind as binds
from . import engine
from .arrays import empty, kept, namespace, to_host, zeros
from .count_sketch_bind import Form
from .device import Device
from .kernel import Kernel
from .sm3_engine import Matrix, as_rows

#: Threads of a block of the small kernels, and of those that walk down the rows of a column.
BLOCK, WALK = 256, 64
#: Places and keys have this many bits for a row of a table, or for an active row.
BITS = 31


class Shape(NamedTuple):
    """How kernels are launched: all that a tuner may change. It never changes a bit.

    ``block`` threads, packs of at most ``vec`` neighbours, and whether the rows of a bucket are found by a
    sort of all (the default) or looked for by each, which needs no sort and time for each pair of rows.
    """

    block: int = 256
    vec: int = 4
    scan: bool = False


DEFAULT = Shape()


class Pass(NamedTuple):
    """What a step is made of: the device and shape; weights and gradient as rows; the active rows.

    ``dense``: the gradient has its rows where the weights have theirs. ``decay`` says how that changes an
    entry, and ``number`` by what.
    """

    device: Device
    shape: Shape
    w: Matrix
    g: Matrix
    items: Any
    columns: int
    dense: bool
    decay: str
    number: Any

    @property
    def rows(self) -> int:
        """How many rows are active."""
        return int(self.items.size)


def kernel_of(todo: Pass, name: str, form: Form, vec: int, block: int = 0, scan: bool = False) -> Kernel:
    """A kernel of :func:`~.count_sketch_bind.of_moment` for the arrays of a step."""
    types = todo.w.array.dtype, todo.g.array.dtype
    return binds.of_moment(name, form, *types, block or todo.shape.block, vec, todo.decay == "l2", scan)


def tiles(todo: Pass, rows: int, least: int = 1) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block for rows of packs; at least ``least`` threads share a row."""
    packs = todo.columns // todo.shape.vec
    across = max(least, min(todo.shape.block, 1 << (packs - 1).bit_length()))
    down = todo.shape.block // across
    return (-(-rows // down), min(engine.MOST_ACROSS, -(-packs // across))), (across, down)


def flat(device: Device, kernel: Any, threads: int, args: tuple[Any, ...], block: int = BLOCK) -> None:
    """Launch a kernel with this many threads in all."""
    if threads:
        device.launch(kernel, (-(-threads // block),), (block,), args)


def sizes(todo: Pass) -> tuple[Any, ...]:
    """Active rows and columns, for a kernel."""
    return np.int64(todo.rows), np.int64(todo.columns)


def pitches(todo: Pass) -> tuple[Any, ...]:
    """From row to row of the gradient and of the weights, for a kernel."""
    return np.int64(todo.g.pitch), np.int64(todo.w.pitch)


#: The rows are found before any moment is asked.
_PLAIN = Form(1, "min", False, None, False, False, False)


def find_active(todo: Pass, active: Any) -> Any:
    """The rows of a dense gradient that hold anything but zeros; the host waits for their number."""
    rows = active.size
    if rows:
        across = min(32, 1 << (todo.columns - 1).bit_length())
        down = todo.shape.block // across
        args = (
            todo.g.array,
            todo.w.array,
            active,
            np.int64(rows),
            np.int64(todo.columns),
            *pitches(todo),
            todo.number,
        )
        kernel = kernel_of(todo, "active", _PLAIN, 1)
        todo.device.launch(kernel, (-(-rows // down),), (across, down), args)
    return namespace(active).flatnonzero(active)


def active_rows(device: Device, rule: SketchedRule, w: Any, g: Any) -> Any:
    """The numbers of the rows of a dense gradient that a step would find active, on the device."""
    if w.size == 0:
        return zeros(w, 0, np.int64)
    decay, number = decay_of(rule, w)
    of_w, of_g = (as_rows(x, list(range(w.ndim)), 1) for x in (w, g))
    native, columns = engine.native_dtype(w.dtype), prod(w.shape[1:])
    todo = Pass(device, DEFAULT, of_w, of_g, None, columns, True, decay, native.type(number))
    return find_active(todo, zeros(w, w.shape[0], np.uint8))


def located(
    todo: Pass, rule: SketchedRule, state: Mapping[str, Any], name: str, table: Any
) -> tuple[Any, Any]:
    """Places and keys of the active rows in one sketch, as ``count_sketch_locate.cu`` has them.

    The host is asked for those of other families than Avalanche, for which it reads the row numbers.
    """
    depth, width = table.shape[:2]
    if type(rule.hash) is not Avalanche:
        return _located_on_host(todo, rule, state, name)
    places = empty(table, (todo.rows, depth), np.uint32)
    keys = empty(table, depth * todo.rows, np.uint64)
    own = moment_seed(int(state["seed"]), list(MOMENTS).index(name) + 1)
    seeds = kept(table, np.stack([row_keys(own, j) for j in range(depth)]))
    numbers = np.int64(todo.rows), np.uint32(width), np.int32(rule.combination(name) != "min")
    kernel = kernel_of(todo, "locate", _PLAIN._replace(depth=depth), 1, BLOCK)
    flat(todo.device, kernel, todo.rows, (todo.items, seeds, places, keys, *numbers))
    return places, keys


def _located_on_host(todo: Pass, rule: SketchedRule, state: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    depth, width = state[name].shape[:2]
    found = rule.sketch(name, state).locate(to_host(todo.items))
    if todo.rows and not (found.buckets.min() >= 0 and found.buckets.max() < width):
        got, wanted = f"buckets up to {found.buckets.max()}", f"buckets in [0, {width})"
        raise BackendError(type(rule.hash).__name__, got, wanted, "A kernel knows no bounds.")
    place = found.buckets + width * np.arange(depth)[:, None]
    negative = np.zeros(place.shape, np.int64) if found.signs is None else (found.signs < 0).astype(np.int64)
    keys = place << 32 | np.arange(todo.rows) << 1 | negative
    places = np.ascontiguousarray((place | negative << BITS).T.astype(np.uint32))
    array = namespace(state[name]).asarray
    return array(places), array(keys.reshape(-1).astype(np.uint64))
