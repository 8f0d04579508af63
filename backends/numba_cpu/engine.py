"""One step of one tensor by a compiled loop: kernel, arrays, tiles, threads. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from memopt_ref.rules.base import Rule
from memopt_ref.rules.elementwise import Elementwise, parameters

from ..addresses import address_of
from ..registry import Leaf
from . import direct, drive, runtime
from .admit import decay_of
from .bind import Form, Kernel, bind
from .kinds import kind_of
from .layout import RUN, Tiling, in_whole_steps, tiling
from .move import mover

#: What expressions divide by to correct a bias, where they do.
DIVISORS = ("correction", "correction1", "correction2", "before_max", "after_max")
#: Runs of tiles a thread, so that one which was held up does not hold up all.
TASKS_A_THREAD = 4


@functools.lru_cache(maxsize=256)
def kernel(expression: Any, slots: tuple[str, ...], form: Form, dtype: Any) -> Kernel | None:
    """The kernel of an expression, compiled or loaded once a process; None if that fails."""
    try:
        return bind(expression, slots, form, dtype)
    except Exception as error:
        what = f"{expression.__name__}() cannot be compiled, NumPy steps instead ({error})"
        warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=2)
        return None


def step(
    rule: Elementwise,
    w: Any,
    g: Any,
    state: Mapping[str, Any],
    t: int,
    indices: Any = None,
    threads: int | None = None,
    run: int = RUN,
    flush: bool = False,
) -> bool:
    """Step ``w`` and the slots in place; or return False, nothing done, where compiled code cannot.

    Parameters
    ----------
    rule : Elementwise
        Admitted by :mod:`.admit`, with numbers.
    w, g : ndarray
        Parameter and dense gradient; or the rows of a gradient for the parameter's rows ``indices``.
    state : mapping
        The slots; counters are not touched.
    t : int
        The tensor's own step, 1 at the first.
    indices : array of int64, optional
        Ascending row numbers of ``w``.
    threads, run : int, optional
        Instead of the rule of thumb. They never change a bit.
    flush : bool
        See :mod:`.flush`.
    """
    expression = rule.expression(state.keys())
    names = _taken(expression, state.keys())
    native = np.dtype(np.float64) if w.dtype == np.float64 else np.dtype(np.float32)
    slots = [state[name] for name in names]
    shape = fit(w, g, slots, native, indices)
    if shape is None:
        return False
    if any(np.may_share_memory(g, x) for x in (w, *slots)):
        g = g.copy()
    decay, number = decay_of(rule, w)
    given = rule.coefficients(t)
    compiled = kernel(expression, names, Form(decay, flush=flush, ones=ones_of(rule, given)), native)
    if compiled is None:
        return False
    numbers = np.array([*(given[name] for name in compiled.coefficients), number], np.float64)
    if 0 not in shape:
        arrays = [w, g, *slots]
        tiles = tiling(arrays, shape, native, indices is not None, run)
        run_tiles(compiled.address, arrays, tiles, native, indices, numbers, threads)
    return True


def together(
    leaves: Sequence[Leaf], scale: float, factor: float, zero: bool, flush: bool = False
) -> Sequence[int]:
    """Step many tensors in one launch; the places of those that are left to :func:`step`.

    See :class:`~memopt_ref.backends.registry.Together` for the arguments, and :mod:`.flush`.
    """
    prepared = "zeroed" if zero else "scaled" if (scale, factor) != (1.0, 1.0) else ""

    def find(rule: Rule, t: int, kind: direct.Kind) -> tuple[int, Any] | None:
        # The decay's rate is the same for all tensors of an element-wise rule: ``admit`` has seen to that.
        decay, number = decay_of(rule, None)
        given = rule.coefficients(t)  # type: ignore[attr-defined]
        ones = ones_of(rule, given)
        ready = _loop(_expression(rule, kind.keys), kind, decay, prepared, flush, ones)
        if ready is None:
            return None
        given["decay"], given["scale"], given["factor"] = number, scale, factor
        return ready[0], np.array([given[name] for name in ready[1]])

    def names_of(leaf: Leaf) -> Sequence[str]:
        return _taken(_expression(leaf.rule, tuple(leaf.state)), tuple(leaf.state))

    return direct.step(leaves, names_of, find)


@functools.lru_cache(maxsize=256)
def _loop(
    expression: Any, kind: direct.Kind, decay: str, prepared: str, flush: bool, ones: tuple[str, ...]
) -> tuple[int, tuple[str, ...]] | None:
    """The address of the loop for tensors of a kind, and the names of its numbers."""
    if _taken(expression, kind.keys) != kind.names:
        return None
    own = kind_of(kind.native)
    parameter, gradient = (None if k == own else k for k in (kind.parameter, kind.gradient))
    form = Form(decay, prepared, parameter, gradient, flush, ones)
    compiled = kernel(expression, kind.names, form, kind.native)
    return None if compiled is None else (compiled.address, (*compiled.coefficients, *form.numbers))


def ones_of(rule: Any, given: Mapping[str, float]) -> tuple[str, ...]:
    """The divisors among the coefficients that are 1 at every step: a division each that need not be made.

    One that comes to 1 in time stays a number: another loop in the middle of a training would be a surprise.
    """
    names = [name for name in DIVISORS if given.get(name) == 1.0]
    if not names:
        return ()
    first = rule.coefficients(1)
    return tuple(name for name in names if first.get(name) == 1.0)


def _expression(rule: Any, keys: Collection[str]) -> Any:
    return rule.expression(keys)


def _taken(expression: Any, keys: Collection[str]) -> tuple[str, ...]:
    """The slots that an expression takes, in its order."""
    return tuple(name for name in parameters(expression) if name in keys)


def fit(w: Any, g: Any, slots: Sequence[Any], native: Any, indices: Any) -> tuple[int, ...] | None:
    """The shape of the step if compiled code can walk these arrays, else None.

    Compiled code knows no bounds, so nothing is taken on trust. Ascending ``indices`` are within them if the
    first and the last are.
    """
    shape: tuple[int, ...] = w.shape
    if indices is not None:
        if w.ndim == 0 or (indices.size and not (indices[0] >= 0 and indices[-1] < w.shape[0])):
            return None
        shape = (indices.size, *w.shape[1:])
    fits = (
        g.shape == shape
        and kind_of(g.dtype) is not None
        and in_whole_steps(w)
        and in_whole_steps(g)
        and all(
            isinstance(x, np.ndarray)
            and x.dtype == native
            and x.shape == w.shape
            and x.flags.writeable
            and in_whole_steps(x)
            for x in slots
        )
    )
    return shape if fits else None


def describe(x: Any, k: int, own: int, steps: Sequence[int], in_place: bool) -> tuple[int, ...]:
    """An array's row in the table of :mod:`.drive`; movers are made unless it is always used in place."""
    kind = kind_of(x.dtype)
    assert kind is not None
    inwards = outwards = 0
    if not in_place:
        inwards = mover(True, kind, own).address
        outwards = mover(False, kind, own).address if k != drive.GRADIENT else 0
    return (address_of(x), x.itemsize, int(kind == own), inwards, outwards, *steps)


def run_tiles(
    address: int,
    arrays: Sequence[Any],
    tiles: Tiling,
    native: Any,
    indices: Any,
    numbers: Any,
    threads: int | None,
) -> None:
    """Take a kernel over all tiles, in this thread or several."""
    own = kind_of(native)
    assert own is not None
    described = [
        describe(x, k, own, steps, x.dtype == native and tiles.tall == 1 and steps[-1] == 1)
        for k, (x, steps) in enumerate(zip(arrays, tiles.steps, strict=True))
    ]
    count = tiles.tiles
    number = min(runtime.threads(arrays[1].size, threads), count)
    arguments = (
        address,
        np.array(described, np.int64),
        np.array(tiles.shape, np.int64),
        drive.NOWHERE if indices is None else np.ascontiguousarray(indices, np.int64),
        numbers,
        tiles.tall,
        tiles.broad,
        count,
        min(TASKS_A_THREAD * number, count),
    )
    if number > 1:
        runtime.launch(drive.parallel, arguments, number)
    else:
        drive.serial(*arguments)
