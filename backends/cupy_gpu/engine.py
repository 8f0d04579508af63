"""One step of one tensor by an element-wise kernel: which kernel, which grid, which arguments.

Nothing here asks what the arrays are: NumPy's are stepped by a simulated device, CuPy's by a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.errors import BackendError
from memopt_ref.parts.slots import Slot
from memopt_ref.rules.elementwise import Elementwise, parameters

from ..numba_cpu.admit import decay_of
from ..numba_cpu.kinds import kind_of
from ..numba_cpu.layout import tiling
from ..resolver import describe, library_of
from .arrays import address, aligned, kept, overlap
from .bind import Shape, bind, entry
from .device import Device

DEFAULT = Shape()
#: Blocks in the second direction of a grid.
MOST_ACROSS = 65535


class Job(NamedTuple):
    """What a kernel is given: the expression and its slots' names, the arrays, the numbers in order."""

    expression: Any
    slots: tuple[str, ...]
    decay: str
    arrays: list[Any]
    numbers: list[Any]

    @property
    def bound(self) -> tuple[Any, ...]:
        """What :func:`~memopt_ref.backends.cupy_gpu.bind.bind` wants after the form."""
        return self.expression, self.slots, self.decay, self.arrays[0].dtype, self.arrays[1].dtype


def native_dtype(dtype: Any) -> Any:
    """What is computed with for a parameter of this dtype, of those that have kernels."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def job(rule: Elementwise, w: Any, g: Any, state: Mapping[str, Any], t: int) -> Job:
    """The job of one step; a gradient in the memory of what is written is copied first."""
    expression = rule.expression(state.keys())
    slots = tuple(name for name in parameters(expression) if name in state)
    arrays = [state[name] for name in slots]
    if any(overlap(g, x) for x in (w, *arrays)):
        g = g.copy()
    decay, number = decay_of(rule, w)
    given = {**rule.coefficients(t), "decay": number}
    native = native_dtype(w.dtype).type
    numbers = [native(given[name]) for name in entry(expression, slots, decay).numbers]
    return Job(expression, slots, decay, [w, g, *arrays], numbers)


def step(
    device: Device,
    rule: Elementwise,
    w: Any,
    g: Any,
    state: Mapping[str, Any],
    t: int,
    indices: Any = None,
    shape: Shape = DEFAULT,
) -> None:
    """Step ``w`` and the slots in place.

    Parameters
    ----------
    device : Device
    rule : Elementwise
        Admitted by :mod:`memopt_ref.backends.numba_cpu.admit`, with numbers.
    w, g : array
        Parameter and dense gradient; or the rows of a gradient for the parameter's rows ``indices``.
    state : mapping
        The slots, checked by :func:`check`; counters are not touched.
    t : int
        The tensor's own step, 1 at the first.
    indices : array of int64, optional
        Row numbers of ``w`` on the device, each once and in range, which is not looked at here.
    shape : Shape, optional
        It never changes a bit.
    """
    todo = job(rule, w, g, state, t)
    run(device, todo, indices, shape)


def run(device: Device, todo: Job, indices: Any = None, shape: Shape = DEFAULT) -> None:
    """Launch the kernel for the arrays of a job as they lie in memory."""
    if todo.arrays[1].size == 0:
        return
    if indices is None and contiguous_alike(todo.arrays):
        _packed(device, todo, shape)
    else:
        _strided(device, todo, indices, shape)


def contiguous_alike(arrays: Sequence[Any]) -> bool:
    """Whether all arrays lie in one piece and in one order."""
    return all(x.flags.c_contiguous for x in arrays) or all(x.flags.f_contiguous for x in arrays)


def thumb(w: Any) -> int:
    """Entries of a pack where no other number has been measured: 16 bytes of what is computed with."""
    return int(16 // native_dtype(w.dtype).itemsize)


def blocks(device: Device, wanted: int, shape: Shape) -> int:
    """How many blocks are launched, at least one."""
    most = shape.per_processor * device.processors or wanted
    return max(1, min(wanted, most, 2**31 - 1))


def _packed(device: Device, todo: Job, shape: Shape) -> None:
    shape = shape._replace(vec=aligned(todo.arrays, shape.vec))
    count = todo.arrays[0].size
    wanted = -(-count // (shape.vec * shape.block))
    kernel = bind("packed", *todo.bound, shape._replace(per_processor=0))
    args = (*todo.arrays, np.int64(count), *todo.numbers)
    device.launch(kernel, (blocks(device, wanted, shape),), (shape.block,), args)


def _strided(device: Device, todo: Job, indices: Any, shape: Shape) -> None:
    w, g = todo.arrays[:2]
    by_row = indices is not None
    tiles = tiling(todo.arrays, g.shape, w.dtype, by_row)
    lengths, columns = tiles.shape[:-1], tiles.shape[-1]
    layout = kept(w, np.array([*lengths, *(n for steps in tiles.steps for n in steps)], np.int64))
    rows = int(np.prod(lengths, dtype=object))
    across = min(shape.block, 1 << (columns - 1).bit_length())
    down = shape.block // across
    grid = (max(1, -(-rows // down)), min(MOST_ACROSS, -(-columns // across)))
    kernel = bind("strided", *todo.bound, Shape(shape.block), by_row)
    where = [indices] if by_row else []
    places = np.int32(len(lengths)), np.int64(rows), np.int64(columns)
    args = (*todo.arrays, layout, *where, *places, *todo.numbers)
    device.launch(kernel, grid, (across, down), args)


def check(w: Any, g: Any, slots: Mapping[str, Any], indices: Any = None) -> None:
    """Raise BackendError unless the kernels can walk these arrays.

    A kernel knows no bounds, so nothing is taken on trust but the row numbers, which only the device has.
    """
    native = native_dtype(w.dtype)
    shape = w.shape if indices is None else (indices.size, *w.shape[1:])
    kinds = {"gradient": g, **slots}
    for name, x in kinds.items():
        wanted = (shape, "one of the four floating dtypes") if x is g else (w.shape, str(native))
        fits = kind_of(x.dtype) is not None if x is g else x.dtype == native
        if not fits or x.shape != wanted[0]:
            got = f"{x.dtype} of shape {x.shape}"
            raise BackendError(name, got, f"{wanted[1]} of shape {wanted[0]}", "Pass the rule's own state.")
    for name, x in {"parameter": w, **kinds}.items():
        same_place(w, name, x)
        if address(x) % x.itemsize or any(s % x.itemsize for s in x.strides):
            got = f"strides {x.strides} of {x.itemsize} bytes an entry"
            raise BackendError(name, got, "whole steps of its entries", "Pass a copy of the array.")


def check_axes(w: Any, mu: Sequence[Any]) -> None:
    """Raise BackendError unless each axis of ``w`` has its accumulators, in one piece."""
    native = native_dtype(w.dtype)
    for a, x in enumerate(mu):
        same_place(w, f"mu_{a}", x)
        if x.shape != (w.shape[a],) or x.dtype != native or not x.flags.c_contiguous:
            got, wanted = f"{x.dtype} of shape {x.shape}", f"{native} of shape {(w.shape[a],)}, in one piece"
            raise BackendError(f"mu_{a}", got, wanted, "Pass the rule's own state.")


def check_slots(w: Any, state: Mapping[str, Any], slots: Mapping[str, Slot]) -> None:
    """Raise BackendError unless the arrays of ``state`` under these names are what the rule declares."""
    native = native_dtype(w.dtype)
    for name, slot in slots.items():
        x = state[name]
        same_place(w, name, x)
        if x.shape != slot.shape or x.dtype != native:
            got, wanted = f"{x.dtype} of shape {x.shape}", f"{native} of shape {slot.shape}"
            raise BackendError(name, got, wanted, "Pass the rule's own state.")


def same_place(w: Any, name: str, x: Any) -> None:
    """Raise BackendError unless ``x`` is of the library of ``w``, and on its device."""
    if library_of(x) != library_of(w) or getattr(x, "device", None) != getattr(w, "device", None):
        advice = "Copy it yourself: nothing is moved between devices silently."
        raise BackendError(name, describe(x), f"{describe(w)}, like the parameter", advice)
