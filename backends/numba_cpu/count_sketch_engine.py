"""One step of a rule with sketches by compiled loops. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.parts.hashing import Avalanche, moment_seed, row_keys
from memopt_ref.rules.count_sketch import (
    CountSketchMomentum,
    ahead_of_momentum,
    along_adagrad,
    along_momentum,
)
from memopt_ref.rules.count_sketch_adam import CountSketchRMSProp, along_adam
from memopt_ref.rules.sketch_state import MOMENTS, SketchedRule

from ..addresses import address_of
from . import count_sketch_drive as drive
from . import count_sketch_plan as plan
from . import count_sketch_rows as loops
from . import count_sketch_vectors as quick
from . import runtime, vectors
from .admit import decay_of
from .engine import describe, fit
from .kinds import kind_of
from .layout import BUFFER

#: Columns of a block: fewer leave too little to do between two rows, more too little for the threads.
BROAD, NARROW = 128, 16
#: Bytes of sums that a task holds aside, if its blocks can be made narrow enough.
ASIDE = 2**20
#: So many active rows are looked for in M and V by two threads.
MANY = 1024
_NO_KEYS = np.empty((0, 0, 4), np.uint64)


class Course(NamedTuple):
    """How the active rows go through the sketches, see :mod:`.count_sketch_plan`."""

    places: Any
    held: Any
    order: Any
    ready: Any
    closing: Any
    later: Any
    apart: int


class Moment(NamedTuple):
    """How a moment is kept: its words and numbers, see :mod:`.count_sketch_rows`.

    ``cleans``, ``decays``: whether the whole table is multiplied with a number first. Without ``kept`` there
    is no such moment.
    """

    words: list[int]
    numbers: list[float]
    cleans: bool = False
    decays: bool = False
    kept: quick.Kept | None = None


NONE = Moment([0] * loops.WORDS, [0.0] * loops.COUNT)


class Sketches(NamedTuple):
    """The sketches of a step: their words, and what these have the addresses of.

    ``scaled``: whether the whole table of one is multiplied with a number.
    """

    words: Any
    addresses: Any
    depth: int
    course: Course
    kept: tuple[quick.Kept | None, ...]
    scaled: bool
    numbers: Any


@functools.lru_cache(maxsize=256)
def keys(seed: int, moments: tuple[int, ...], depth: int) -> Any:
    """The keys of all rows of some sketches, shape [sketches, depth, 4]."""
    owns = [moment_seed(seed, moment) for moment in moments]
    return np.stack([[row_keys(own, j) for j in range(depth)] for own in owns])


@functools.cache
def quickly(form: quick.Form) -> int:
    """The address of the loop in vectors, or 0 where it does not pay or cannot be compiled."""
    try:
        return quick.loop(form).address if vectors.available() else 0
    except Exception as error:
        what = f"a sketch's loop in vectors cannot be compiled, plain ones step instead ({error})"
        warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=2)
        return 0


@functools.cache
def plainly(expression: Any, mean: str, decay: str, wide: bool) -> tuple[int, int, int] | None:
    """The addresses of the plain loops of a step, compiled or loaded once a process; None if that fails."""
    try:
        finish, follow, query = (
            loops.finisher(expression, mean, decay, wide),
            *(loops.loop(template, wide) for template in (loops.follow, loops.query)),
        )
        return finish.address, follow.address, query.address
    except Exception as error:
        what = f"{expression.__name__}() cannot be compiled, NumPy steps instead ({error})"
        warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=2)
        return None


@functools.cache
def over_rows(template: Any, wide: bool) -> int | None:
    """The address of a loop over plain rows, compiled or loaded once a process; None if that fails."""
    try:
        return int(loops.loop(template, wide).address)
    except Exception as error:
        what = f"{template.__name__}() cannot be compiled, NumPy steps instead ({error})"
        warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=2)
        return None


def step(
    rule: SketchedRule,
    w: Any,
    g: Any,
    state: dict[str, Any],
    t: int,
    indices: Any = None,
    threads: int | None = None,
    blocks: int | None = None,
) -> bool:
    """Step ``w`` and the slots in place; or return False, nothing done, where compiled code cannot.

    Parameters
    ----------
    rule : SketchedRule
        Admitted by :mod:`.count_sketch`, with numbers.
    w, g : ndarray
        Parameter and dense gradient; or the rows of a gradient for the parameter's rows ``indices``.
    state : mapping
        The slots; counters are not touched.
    t : int
        The tensor's own step, 1 at the first; 0 where the rule counts none.
    indices : array of int64, optional
        Ascending row numbers of ``w``.
    threads, blocks : int, optional
        Instead of the rule of thumb. They never change a bit.

    Raises
    ------
    StabilityError, RowIndexError
        As the rule's own step; nothing is written.
    """
    native = np.dtype(np.float64) if w.dtype == np.float64 else np.dtype(np.float32)
    slots = [state["m"]] if "m" in state else []
    tables = {name: state[name] for name in MOMENTS if name in state}
    if fit(w, g, slots, native, indices) is None or not all(_fits(x, w, native) for x in tables.values()):
        return False
    if len({x.shape for x in tables.values()}) != 1:
        return False
    if any(np.may_share_memory(g, x) for x in (w, *tables.values(), *slots)):
        g = g.copy()
    arrays = [w, g, *slots]
    steps = [joint_steps(x) for x in arrays]
    columns, wide = prod(w.shape[1:]), native == np.float64
    if None in steps:
        return False
    if columns == 0:
        return True
    own = kind_of(native)
    described = np.array(
        [
            describe(x, k, own, s, in_place=x.dtype == native and s[1] == 1)  # type: ignore[arg-type, index]
            for k, (x, s) in enumerate(zip(arrays, steps, strict=True))
        ],
        np.int64,
    )
    decay, number = decay_of(rule, w)
    decays = np.array([0, 0, 0, 0, 0, 0, number], native)
    active, piece = None, min(columns, BUFFER)
    if indices is None:
        active, stir = np.empty(w.shape[0], np.bool_), over_rows(loops.stir, wide)
        if stir is None:
            return False
        drive.find_active(stir, described, decay == "l2", address_of(decays), piece, columns, active)
        indices = np.flatnonzero(active)
    indices = np.ascontiguousarray(indices, np.int64)
    rule.check_load("", indices, state)
    wanted = runtime.threads(indices.size * columns, threads)
    sketches = _sketches(rule, state, tables, t, indices, number, wanted)
    if sketches is None:
        return False
    expression, mean = _finish(rule, state)
    given = _numbers(rule, t)
    names = loops.finish_numbers(expression, mean)
    values = np.array([*(given[name] for name in names), number, 0.0], np.float64)
    manner, combinations = rule.manner(), [rule.combination(name) for name in tables]
    in_vectors = 0
    if quick.serves(sketches.depth, native, manner, combinations):
        in_vectors = quickly(quick.Form(expression, mean, decay, *sketches.kept))
    edges = _edges(columns, wanted, blocks, sketches.course.apart * native.itemsize, in_vectors != 0)
    finish = follow = 0
    if in_vectors == 0 or any(edge % vectors.LANES for edge in edges.tolist()):
        plain = plainly(expression, mean, decay, wide)
        if plain is None:
            return False
        finish, follow, sketches.words[:, loops.QUERY] = plain
    resting = active is not None and decay == "factor"
    scale = over_rows(loops.scale, wide) if resting or sketches.scaled else 0
    if scale is None:
        return False
    arguments = (
        np.array([finish, follow, scale, in_vectors], np.int64),
        described,
        sketches.words,
        sketches.addresses,
        indices,
        active is not None,
        *sketches.course[2:],
        decay == "l2",
        address_of(values),
        edges,
    )
    if wanted > 1 and edges.size > 2:
        runtime.launch(drive.parallel, arguments, wanted)
    else:
        drive.serial(*arguments)
    if resting:
        drive.shrink_resting(scale, described, address_of(decays[-1:]), piece, columns, active)
    return True


def _fits(table: Any, w: Any, native: Any) -> bool:
    """Whether a sketch is a plain table for these weights, of places that fit into 29 bits."""
    return bool(
        isinstance(table, np.ndarray)
        and table.dtype == native
        and table.flags.carray
        and table.ndim == w.ndim + 1
        and table.shape[2:] == w.shape[1:]
        and table.shape[0] * table.shape[1] < 2**29
    )


def joint_steps(x: Any) -> tuple[int, int] | None:
    """Elements from row to row and from column to column; None if the other axes are not one piece.

    Examples
    --------
    >>> joint_steps(np.zeros((5, 2, 3))), joint_steps(np.zeros((5, 2, 3)).T), joint_steps(np.zeros(4))
    ((6, 1), None, (1, 1))
    """
    step = reach = None
    for a in range(x.ndim - 1, 0, -1):
        own = x.strides[a] // x.itemsize
        if x.shape[a] == 1:
            continue
        if step is None:
            step = own
        elif own != reach:
            return None
        reach = own * x.shape[a]
    return x.strides[0] // x.itemsize, 1 if step is None else step


def _finish(rule: SketchedRule, state: Any) -> tuple[Any, str]:
    """The expression that steps the weights, and what its m is."""
    if isinstance(rule, CountSketchMomentum):
        return (ahead_of_momentum if rule.nesterov else along_momentum), "estimate"
    if isinstance(rule, CountSketchRMSProp):
        return along_adam, "estimate" if "M" in state else "slot" if "m" in state else "none"
    return along_adagrad, "none"


@functools.lru_cache(maxsize=64)
def _dense(rule: CountSketchRMSProp) -> Any:
    """Making a rule checks all its numbers, which takes longer than to look for one that was made."""
    return rule.dense()


def _numbers(rule: Any, t: int) -> dict[str, float]:
    if isinstance(rule, CountSketchRMSProp):
        return _dense(rule).coefficients(t)  # type: ignore[no-any-return]
    names = ("learning_rate", "momentum", "eps")
    return {name: getattr(rule, name) for name in names if hasattr(rule, name)}


def _sketches(
    rule: Any, state: Any, tables: dict[str, Any], t: int, items: Any, decay: float, threads: int
) -> Sketches | None:
    """Locate the active rows and say how each moment is kept, as ``SketchedRule.track`` does."""
    course = _course(rule, state, tables, items, threads)
    if course is None:
        return None
    depth, native = next(iter(tables.values())).shape[0], next(iter(tables.values())).dtype
    moments = [_moment(rule, name, tables, t, decay, course) if name in tables else NONE for name in MOMENTS]
    numbers = np.array([moment.numbers for moment in moments], native)
    addresses = []
    for s, moment in enumerate(moments):
        begin, size = address_of(numbers) + s * numbers.strides[0], numbers.itemsize
        at = {loops.CLEANED: moment.cleans, loops.KEPT: moment.decays}
        addresses.append([begin, *(begin + k * size if does else 0 for k, does in at.items())])
    words = np.array([moment.words for moment in moments], np.int64)
    # Of a moment that is not there, too: the loops look at the first.
    words[:, loops.SIZE] = native.itemsize
    return Sketches(
        words,
        np.array(addresses, np.int64),
        depth,
        course,
        tuple(moment.kept for moment in moments),
        any(moment.cleans or moment.decays for moment in moments),
        numbers,
    )


def _moment(rule: Any, name: str, tables: dict[str, Any], t: int, decay: float, course: Course) -> Moment:
    """How one of them is kept."""
    table, keep, manner, combination = tables[name], rule.keeps()[name], rule.manner(), rule.combination(name)
    depth, width = table.shape[:2]
    fresh = 1.0 if isinstance(rule, CountSketchMomentum) or keep == 1 else 1.0 - keep
    lazy, momentum = manner.decay == "lazy" and keep != 1, fresh == 1
    taken = not lazy and fresh != 1
    every = getattr(rule, "clean_every", 0) if name == "V" else 0
    cleans = every != 0 and t % every == 0
    first = depth * list(tables).index(name) * course.places.itemsize
    words = {
        loops.TABLE: address_of(table),
        loops.PITCH: table.strides[1],
        loops.BUCKETS: depth * width,
        loops.DEPTH: depth,
        loops.PLACES: address_of(course.places) + first,
        loops.HELD: address_of(course.held) + first,
        loops.NEXT: course.places.strides[0],
        loops.COMBINE: loops.COMBINATIONS.index(combination),
        loops.LAZY: lazy,
        loops.MOMENTUM: momentum,
        loops.BY_ROW: manner.delta_from == "row",
        loops.FRESH: taken,
        loops.CONSERVATIVE: manner.conservative and name == "V",
        loops.SQUARES: name == "V",
    }
    factor = keep - 1.0 if lazy and momentum else fresh
    return Moment(
        [words.get(word, 0) for word in range(loops.WORDS)],
        [1.0, -1.0, 0.0, 2.0, depth, factor, decay, rule.clean_factor if cleans else 1.0, keep],
        cleans,
        not lazy and keep != 1,
        quick.Kept(combination == "min", lazy, momentum, taken),
    )


def _course(rule: Any, state: Any, tables: dict[str, Any], items: Any, threads: int) -> Course | None:
    """How the active rows go through the sketches; None where compiled code cannot follow."""
    depth, width = next(iter(tables.values())).shape[:2]
    k, count, batched = items.size, len(tables), rule.manner().order == "batched"
    linked = batched and k <= width
    places, held = np.empty((2, k, depth * count), np.uint32)
    links, counts = np.empty((count, 4, k * depth * linked), np.int32), np.zeros(count, np.int64)
    order, closing, later = np.empty((3, k), np.uint32)
    ready = np.empty(k, np.bool_)
    own = _keys(rule, state, tables, depth, items)
    if own is None:
        for s, name in enumerate(tables):
            if not _locate(rule, name, state, items, s * depth, places):
                return None
        own = _NO_KEYS
    signed = np.array([rule.combination(name) != "min" for name in tables])
    arguments = (items, own, signed, depth, width, linked, places, links, counts)
    if threads > 1 and count > 1 and k >= MANY:
        runtime.launch(plan.parallel, arguments, 2)
    else:
        for s in range(count):
            plan.found(s, *arguments)
    if linked:
        apart = plan.settle(links, counts, order, held, ready, closing, later)
    else:
        apart = plan.in_turn(places, width, batched, held, order, ready, closing, later)
    return Course(places, held, order, ready, closing, later, apart)


def _keys(rule: Any, state: Any, tables: dict[str, Any], depth: int, items: Any) -> Any:
    """The keys of the rows of all sketches, if compiled code can hash these items."""
    if type(rule.hash) is not Avalanche or (items.size > 0 and items[-1] >= 2**32):
        return None
    names = list(MOMENTS)
    return keys(int(state["seed"]), tuple(names.index(name) + 1 for name in tables), depth)


def _locate(rule: Any, name: str, state: Any, items: Any, first: int, places: Any) -> bool:
    """The places of the active rows in one sketch, found by NumPy.

    False if a family leads out of the table: compiled code knows no bounds.
    """
    depth, width = state[name].shape[:2]
    found = rule.sketch(name, state).locate(items)
    if items.size and not (found.buckets.min() >= 0 and found.buckets.max() < width):
        return False
    here = found.buckets + width * np.arange(depth)[:, None]
    if found.signs is not None:
        here = here | np.where(found.signs < 0, np.int64(plan.NEGATIVE), 0)
    places[:, first : first + depth] = here.T
    return True


def _edges(columns: int, threads: int, blocks: int | None, held: int, fused: bool = False) -> Any:
    """Where blocks of columns begin and end; ``held``: bytes that one column's sums take aside.

    ``fused``: blocks are of whole vectors where they can be, and what is left is a block of its own.

    Examples
    --------
    >>> _edges(300, 2, None, 4), _edges(300, 2, None, 4, fused=True)
    (array([  0, 100, 200, 300]), array([  0,  96, 192, 288, 300]))
    """
    if blocks is None:
        least = max(1 if threads == 1 else threads, -(-columns * held // ASIDE))
        blocks = max(-(-columns // BROAD), least) if threads > 1 else least
        blocks = min(blocks, max(1, columns // NARROW))
    blocks = min(blocks, columns)
    unit = vectors.LANES if fused and columns >= blocks * vectors.LANES else 1
    edges = [b * (columns // unit) // blocks * unit for b in range(blocks + 1)]
    return np.array(edges if edges[-1] == columns else [*edges, columns], np.int64)
