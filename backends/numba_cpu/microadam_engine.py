"""One MicroAdam step by compiled loops: core, arrays, blocks, threads. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.microadam import MicroAdam

from ..addresses import address_of
from . import microadam_loops as loops
from . import microadam_vectors as vectors_core
from . import runtime, vectors
from .admit import decay_of
from .drive import NOWHERE
from .engine import TASKS_A_THREAD, describe, fit
from .kinds import kind_of
from .layout import _joined, _product

_DECAYS = {"none": loops.NO_DECAY, "l2": loops.L2, "factor": loops.FACTOR}
#: The slots that a core reaches by their address, and where in its table.
_FLAT = {
    "I": loops.INDICES,
    "V": loops.RING,
    "e": loops.CODES,
    "e_min": loops.LOW,
    "e_max": loops.HIGH,
}


class Plan(NamedTuple):
    """What a step of a tensor has in common with the next one.

    ``slots`` are the flat ones, with their shapes and dtypes; ``table`` lacks addresses and the ring's row;
    ``kept`` is the ring's format as stored; ``fused``: whether the core in vectors serves the options and the
    blocks of full length; ``ragged``: whether it leaves the last block.
    """

    slots: dict[str, tuple[tuple[int, ...], Any]]
    table: Any
    blocks: int
    native: Any
    kept: str
    fused: bool
    ragged: bool


@functools.lru_cache(maxsize=1024)
def planned(rule: MicroAdam, shape: tuple[int, ...], dtype: Any) -> Plan:
    """The plan for a rule whose numbers are at their defaults."""
    declared = rule.slots(shape, dtype)
    slots = {name: (s.shape, s.dtype) for name, s in declared.items() if name in _FLAT}
    if rule.error_bits is None:
        del slots["e"]
    size = int(np.prod(shape))
    blocks, count = rule.blocks(size), -(-size // rule.block)
    table = np.zeros(loops.WIDTH, np.int64)
    table[loops.SIZE], table[loops.BLOCK], table[loops.BUCKET] = size, rule.block, rule.bucket
    table[loops.KEPT] = blocks.count(rule.block)
    table[loops.KEPT_LAST] = blocks.count(size - (count - 1) * rule.block)
    table[loops.WINDOW] = rule.window
    table[loops.BITS] = loops.EXACT if rule.error_bits is None else rule.error_bits
    kept = declared["V"].dtype
    native = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
    known = native == np.float32 and kept.kind != "f" and rule.error_bits == 4
    known = known and rule.bucket % vectors_core.STRIDE == 0
    lengths = (min(rule.block, size), size - (count - 1) * rule.block)
    full, last = (vectors_core.serves(n, blocks.count(n), rule.bucket, rule.window) for n in lengths)
    stored = str(kept) if kept.kind == "f" else "uint16"
    return Plan(slots, table, count, native, stored, known and full, not last)


def plan_of(rule: MicroAdam, shape: tuple[int, ...], dtype: Any) -> Plan:
    """The plan, whatever the rule's numbers are at this step."""
    structure = ("window", "density", "block", "bucket", "value_dtype", "error_bits")
    return planned(_structure(*(getattr(rule, name) for name in structure)), shape, dtype)


@functools.lru_cache(maxsize=256)
def _structure(
    window: int, density: float, block: int, bucket: int, value_dtype: str, error_bits: int | None
) -> MicroAdam:
    return MicroAdam(
        window=window,
        density=density,
        block=block,
        bucket=bucket,
        value_dtype=value_dtype,
        error_bits=error_bits,
    )


@functools.cache
def core(wide: bool, kept: str, fused: bool = False) -> int | None:
    """The address of a core, compiled or loaded once a process; None if that fails."""
    try:
        return int((vectors_core.core() if fused else loops.core(wide, kept)).address)
    except Exception as error:
        what, who = ("loops in vectors", "plain ones step") if fused else ("loops", "NumPy steps")
        warnings.warn(
            f"memopt_ref: MicroAdam's {what} cannot be compiled, {who} instead ({error})",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def step(
    rule: MicroAdam,
    w: Any,
    g: Any,
    state: dict[str, Any],
    threads: int | None = None,
    tasks: int | None = None,
    fused: bool | None = None,
) -> bool:
    """Step ``w`` and the arrays of ``state`` in place; or return False, nothing done, where none can.

    Parameters
    ----------
    rule : MicroAdam
        Admitted by :mod:`.microadam`, with numbers.
    w, g : ndarray
        Parameter and dense gradient.
    state : mapping
        The slots; the counter ``t`` is not touched.
    threads, tasks : int, optional
        Instead of the rule of thumb. They never change a bit.
    fused : bool, optional
        False: not in vectors. This never changes a bit either.
    """
    plan = plan_of(rule, w.shape, w.dtype)
    entries = [state["e"]] if rule.error_bits is None else []
    flat = {name: state[name] for name in plan.slots}
    t = int(state["t"]) + 1
    shape = fit(w, g, entries, plan.native, None)
    numbers = _numbers(rule, w, t, plan.native)
    if shape is None or w.size == 0 or not np.isfinite(numbers).all() or not _walkable(plan, flat):
        return False
    wide = plan.native == np.float64
    fused = fused is not False and plan.fused and bool(np.float32(rule.eps) > 0) and vectors.available()
    fused = fused and core(wide, plan.kept, True) is not None
    address = core(wide, plan.kept, fused)
    if address is None or (fused and plan.ragged and core(wide, plan.kept) is None):
        return False
    if any(np.may_share_memory(g, x) for x in (w, *entries, *flat.values())):
        g = g.copy()
    table = plan.table.copy()
    for name, x in flat.items():
        table[_FLAT[name]] = address_of(x)
    table[loops.ROW], table[loops.FILLED] = (t - 1) % rule.window, min(t, rule.window)
    table[loops.DECAY] = _DECAYS[decay_of(rule, w)[0]]
    left = np.zeros(plan.blocks, np.uint8)
    table[loops.LEFT] = address_of(left)
    walk = _Walk(plan, [w, g, *entries], table, numbers, threads, tasks)
    walk.blocks(address, NOWHERE, plan.blocks)
    if fused and left.any():
        listed = np.flatnonzero(left)
        plain = core(wide, plan.kept)
        assert plain is not None, "the core in vectors was compiled, and this one is simpler"
        walk.blocks(plain, listed, listed.size)
    return True


def _walkable(plan: Plan, flat: dict[str, Any]) -> bool:
    """Compiled code knows no bounds, so nothing is taken on trust."""
    return all(
        isinstance(x, np.ndarray)
        and (x.shape, x.dtype) == plan.slots[name]
        and x.flags.c_contiguous
        and x.flags.writeable
        and x.flags.aligned
        for name, x in flat.items()
    )


def _numbers(rule: MicroAdam, w: Any, t: int, native: Any) -> Any:
    """The core's numbers, computed as the reference does; each is rounded once to the compute dtype."""
    beta1, beta2 = rule.beta1, rule.beta2
    ages = [(t - 1 - i) % rule.window for i in range(rule.window)]
    given = [
        rule.learning_rate,
        (1.0 - beta1) / (1.0 - beta1**t),
        (1.0 - beta2) / (1.0 - beta2**t),
        rule.eps,
        decay_of(rule, w)[1],
    ]
    powers = [beta1**age for age in ages] + [beta2**age for age in ages]
    with np.errstate(over="ignore"):
        return np.array([*given, *powers], np.float64).astype(native).astype(np.float64)


def flattened(arrays: Sequence[Any]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Shape and steps, in elements, of arrays of one shape walked in C order: as few axes as will do, or two.

    Examples
    --------
    >>> x = np.zeros((6, 1, 10), np.float32)
    >>> flattened([x, x])
    ((1, 60), [(60, 1), (60, 1)])
    >>> flattened([x, x.copy(order="F")])
    ((6, 10), [(10, 1), (1, 6)])
    """
    shape: tuple[int, ...] = arrays[0].shape
    if all(x.flags.c_contiguous for x in arrays):
        size = int(arrays[0].size)
        return (1, size), [(size, 1)] * len(arrays)
    steps = [tuple(s // x.itemsize for s in x.strides) for x in arrays]
    axes = _joined([a for a in range(len(shape)) if shape[a] > 1], shape, steps, keep=0)
    lengths = [_product(shape, group) for group in axes]
    joined = [tuple(s[group[-1]] for group in axes) for s in steps]
    if len(lengths) < 2:
        lengths, joined = [1, *lengths], [(lengths[0] * s[0], *s) for s in joined]
    return tuple(lengths), joined


class _Walk:
    """The way over the blocks of the arrays of one step: w, g and perhaps the exact error."""

    def __init__(
        self,
        plan: Plan,
        arrays: list[Any],
        table: Any,
        numbers: Any,
        threads: int | None,
        tasks: int | None,
    ) -> None:
        own = kind_of(plan.native)
        assert own is not None
        shape, steps = flattened(arrays)
        described = []
        for k, (x, strides) in enumerate(zip(arrays, steps, strict=True)):
            whole = x.dtype == plan.native and bool(x.flags.c_contiguous)
            row = describe(x, k, own, strides, in_place=whole)
            described.append((*row[:2], int(whole), *row[3:]))
            table[k] = row[0]
        self.size, self.threads, self.tasks = arrays[0].size, threads, tasks
        self.arrays = np.array(described, np.int64), np.array(shape, np.int64), table, numbers
        self.itemsize = plan.native.itemsize

    def blocks(self, address: int, listed: Any, count: int) -> None:
        """Take a core over ``count`` blocks, or over those listed, in this thread or several."""
        number = min(runtime.threads(self.size, self.threads), count)
        tasks = min(TASKS_A_THREAD * number if self.tasks is None else self.tasks, count)
        arguments = (address, *self.arrays, self.itemsize, listed, count, tasks)
        if number > 1:
            runtime.launch(loops.parallel, arguments, number)
        else:
            loops.serial(*arguments)
