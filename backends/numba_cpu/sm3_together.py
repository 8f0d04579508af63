"""Many tensors of SM3-II in one launch: what is known of each from its last step, and the table of them.

Vectors, and tensors of any rank that are a matrix once their axes are split in two groups. A large matrix is
left: it has enough entries for a launch of its own, and columns or rows in which it is better shared.
Loading this loads Numba.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Hashable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.sm3 import SM3

from ..addresses import address_of
from ..registry import Leaf
from . import direct, runtime, sm3_engine, spread
from . import sm3_together_loops as loops
from .admit import decay_of
from .engine import describe, fit
from .kinds import kind_of
from .sm3_loops import SHORT
from .spread import EVEN, TASKS_A_THREAD

#: The largest matrix that is stepped with others: its entries, and its rows and columns together, of which
#: every task keeps the maxima.
ENTRIES, EDGES = 2**22, 2**14
#: Entries between two tasks' maxima, so that they share no cache line.
APART = 64

#: Dtypes by whether they are wide: what is computed with, and its images.
_NATIVE: dict[bool, Any] = {False: np.dtype(np.float32), True: np.dtype(np.float64)}
_IMAGES: dict[bool, Any] = {False: np.dtype(np.uint32), True: np.dtype(np.uint64)}


class Kind(NamedTuple):
    """What tensors have in common that one loop can step: one object for all alike."""

    loop: str
    mean: bool
    wide: bool


@functools.cache
def _kind(*what: Any) -> Kind:
    return Kind(*what)


class Loop(NamedTuple):
    """A rule's step of tensors of a kind: the loop's address, that of its numbers, and what keeps these."""

    address: int
    numbers_at: int
    ratchet: int
    numbers: Any


class Plan(direct.Plan):
    """A tensor's arrays as :class:`.direct.Plan` has them, and the words that say how they are a matrix."""

    __slots__ = ("body", "edges", "loop", "row", "rule", "wide", "words")

    def __init__(
        self, leaf: Leaf, slots: dict[str, Any], kind: Kind, words: Sequence[int], edges: int
    ) -> None:
        super().__init__(leaf.w, leaf.g, slots, kind)  # type: ignore[arg-type]
        self.words, self.edges = np.array(words, np.int64), edges
        self.body = address_of(self.words) if edges else 0
        self.wide = kind.wide
        self.rule: Any = None
        self.use(None, None)

    def use(self, rule: Any, loop: Loop | None) -> None:
        """Take a rule's step, which holds as long as the rule is this one; None if no compiled loop does it.

        ``row`` is the tensor's row in the table of a launch in which it is the first, or empty.
        """
        self.rule, self.loop, self.row = rule, loop, array("q")
        if loop is not None:
            words = loop.address, self.table_address, loop.numbers_at, self.entries, self.body, loop.ratchet
            self.row = array("q", words)


def plan_of(leaf: Leaf) -> Plan | None:
    """A plan for a leaf, or None where its arrays do not lie in one piece each, or are for a launch alone."""
    _, w, g, state, _ = leaf
    if w.ndim > 1 and not 0 < w.size <= ENTRIES:
        return None
    wide = w.dtype == np.float64
    native = _NATIVE[wide]
    mu = {f"mu_{a}": state[f"mu_{a}"] for a in range(max(1, w.ndim))}
    mean = {"m": state["m"]} if "m" in state else {}
    entrywise = list(mean.values()) if w.ndim > 1 else [*mean.values(), *mu.values()]
    arrays = [w, g, *entrywise]
    if (
        len(state) != len(mu) + len(mean)
        or not w.flags.writeable
        or fit(w, g, entrywise, native, None) is None
        or not (_alike(arrays) if w.ndim < 2 else all(_in_one_piece(x) for x in arrays))
        or not all(_is_accumulator(x, native) for x in mu.values())
    ):
        return None
    if w.ndim < 2:
        own = kind_of(native)
        plain = (kind_of(w.dtype), kind_of(g.dtype)) == (own, own)
        return Plan(leaf, mean | mu, _kind("single", bool(mean), wide), (), 0) if plain else None
    if [x.shape for x in mu.values()] != [(n,) for n in w.shape]:
        return None
    matrix = sm3_engine.as_matrix(arrays, w.shape)
    if matrix is None:
        return None
    groups, steps = matrix
    lengths = [[w.shape[a] for a in group] for group in groups]
    height, width = map(prod, lengths)
    if height + width > EDGES:
        return None
    own = kind_of(native)
    assert own is not None
    told = [
        describe(x, k, own, pair, in_place=False)[1:]
        for k, (x, pair) in enumerate(zip(arrays, steps, strict=True))
    ]
    words = [height, width, width < SHORT, len(arrays), *map(len, groups)]
    words += [word for row in told for word in row] + [n for group in lengths for n in group]
    slots = mean | {f"mu_{a}": mu[f"mu_{a}"] for group in groups for a in group}
    kind = _kind(sm3_engine.loop_of(width, wide), bool(mean), wide)
    return Plan(leaf, slots, kind, words, height + width)


def _in_one_piece(x: Any) -> bool:
    return bool(x.flags.c_contiguous or x.flags.f_contiguous)


def _alike(arrays: Sequence[Any]) -> bool:
    return all(x.flags.c_contiguous for x in arrays)


def _is_accumulator(x: Any, native: Any) -> bool:
    return bool(
        isinstance(x, np.ndarray)
        and x.dtype == native
        and x.flags.writeable
        and x.flags.c_contiguous
        and x.flags.aligned
    )


def step(leaves: Sequence[Leaf], threads: int | None = None, tasks: int | None = None) -> list[int]:
    """Step all leaves that have a plan, in one launch for each dtype; return the others' places, untouched.

    Parameters
    ----------
    leaves : sequence of Leaf
        Of rules that :mod:`.sm3` has admitted, with numbers.
    threads, tasks : int, optional
        Instead of the rule of thumb. They never change a bit.
    """
    left: list[int] = []
    found: dict[Hashable, Loop | None] = {}
    plans: dict[bool, list[Plan]] = {False: [], True: []}
    for place, leaf in enumerate(leaves):
        # Only a plain array: what a subclass says of itself need not be so.
        plan = _plan(leaf) if type(leaf.g) is np.ndarray else None
        if plan is None:
            left.append(place)
            continue
        if plan.rule is not leaf.rule:
            key = (id(leaf.rule), id(plan.kind))
            if key not in found:
                found[key] = _loop(leaf.rule, plan.kind)  # type: ignore[arg-type]
            plan.use(leaf.rule, found[key])
        if not plan.row:
            left.append(place)
        elif plan.entries:
            plans[plan.wide].append(plan)
    for wide, alike in plans.items():
        if alike:
            _launch(alike, wide, threads, tasks)
    return left


def _plan(leaf: Leaf) -> Plan | None:
    """The leaf's plan, with its gradient taken; made anew if it no longer holds, None if none would."""
    plan: Plan | None = leaf.memo.get("plan")
    if plan is not None and plan.take(leaf):
        return plan
    plan = leaf.memo["plan"] = plan_of(leaf)
    return plan if plan is not None and plan.take(leaf) else None


def _loop(rule: SM3, kind: Kind) -> Loop | None:
    """What the rule's step of such tensors is; None where no compiled loop does it."""
    ratchet = rule.beta2 != 1 and rule.ema == "ratchet"
    if ratchet and kind.loop == "single":
        return None
    # The decay's rate is the same for all tensors of the rule: ``admit`` has seen to that.
    decay, number = decay_of(rule, None)
    address = sm3_engine.kernel(kind.loop, kind.mean, decay, kind.wide, sm3_engine.neutral(rule))
    if address is None:
        return None
    numbers = sm3_engine.numbers_of(rule, kind.mean, number)
    return Loop(address, address_of(numbers), int(ratchet), numbers)


def _launch(plans: Sequence[Plan], wide: bool, threads: int | None, tasks: int | None) -> None:
    """Step the tensors of these plans, in this thread or several."""
    first = plans[0]
    place, entries, edges = first.row.buffer_info()[0], first.entries, first.edges
    if len(plans) > 1:
        rows = np.frombuffer(bytearray(b"".join([plan.row for plan in plans])), np.int64)
        ends = rows[loops.END :: loops.COLUMNS]
        np.cumsum(ends, out=ends)
        place, entries, edges = address_of(rows), int(ends[-1]), max([plan.edges for plan in plans])
    number = runtime.threads(entries, threads)
    shared = (TASKS_A_THREAD * number if number > 1 else 1) if tasks is None else tasks
    part, run = _address("part", wide), _address("run", wide)
    join = _address("join", wide) if shared > 1 else 0
    pitch = edges + APART
    slots = np.empty(shared * loops.SLOTS * pitch, _IMAGES[wide])
    words = array("q", (part, place, len(plans), entries, shared, address_of(slots), pitch))
    words.extend([0] * shared)
    table = words.buffer_info()[0]
    if number > 1:
        spread.launch([(run, table, 0, EVEN * shared)], number)
    else:
        spread.alone(run, table, EVEN * shared, 0)
    if 0 in words[loops.DONE :]:
        # What has no caller in Python cannot raise: a buffer that there is no memory for.
        raise MemoryError("a task of a joint step could not get its buffers")
    if join:
        spread.alone(join, table, 0, 0)


@functools.cache
def _address(name: str, wide: bool) -> int:
    return int(loops.compiled(getattr(loops, name), wide).address)
