"""Tensors whose arrays all lie in one piece, in the same order: a step is a loop over addresses.

What is known of a tensor from its last step, its plan, stays with its leaf. A plan holds only for the very
same arrays, still where they were, and a gradient of the same dtype, shape and strides; so the next step has
to ask for the gradient's address and little else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.base import Rule

from ..addresses import address_of, window
from ..registry import Leaf
from . import spread
from .kinds import kind_of
from .layout import in_whole_steps


class Kind(NamedTuple):
    """What tensors have in common that one loop can step: one object for all alike."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    dimensions: int
    native: Any
    parameter: int
    gradient: int


@functools.cache
def _kind(*what: Any) -> Kind:
    return Kind(*what)


class Plan:
    """The arrays of one tensor in the order of a loop's table: parameter, gradient, slots."""

    __slots__ = (
        "addresses",
        "dtype",
        "entries",
        "kind",
        "nbytes",
        "places",
        "shape",
        "slots",
        "strides",
        "table",
        "table_address",
        "w",
        "width",
        "windows",
    )

    def __init__(self, w: Any, g: Any, slots: Mapping[str, Any], kind: Kind) -> None:
        self.w, self.slots, self.kind = w, tuple(slots.items()), kind
        self.dtype, self.shape, self.strides = g.dtype, g.shape, g.strides
        self.entries, self.nbytes, self.width = g.size, g.nbytes, g.itemsize
        arrays = [w, *slots.values()]
        self.windows = [window(x) for x in arrays]
        self.addresses = [address_of(x) for x in arrays]
        self.places = [(a, a + x.nbytes) for a, x in zip(self.addresses, arrays, strict=True)]
        table = np.array([self.addresses[0], 0, *self.addresses[1:]], np.int64)
        self.table, self.table_address = table.data, address_of(table)

    def take(self, leaf: Leaf) -> bool:
        """Take the leaf's gradient; False, and nothing has changed, if the plan does not hold this time."""
        _, w, g, state, _ = leaf
        if (
            w is not self.w
            or g.dtype is not self.dtype
            or g.shape != self.shape
            or g.strides != self.strides
            or [x.value for x in self.windows] != self.addresses
        ):
            return False
        for name, x in self.slots:
            if state[name] is not x:
                return False
        begin = address_of(g)
        end = begin + self.nbytes
        for low, high in self.places:
            if begin < high and low < end:
                return False
        if begin % self.width:
            return False
        self.table[1] = begin
        return True


def plan_of(leaf: Leaf, names: Sequence[str]) -> Plan | None:
    """A plan for a leaf with these slots, or None where its arrays do not lie in one piece alike."""
    _, w, g, state, _ = leaf
    native = np.dtype(np.float64) if w.dtype == np.float64 else np.dtype(np.float32)
    slots = {name: state[name] for name in names}
    parameter, gradient = kind_of(w.dtype), kind_of(g.dtype)
    if parameter is None or gradient is None:
        return None
    others = list(slots.values())
    arrays = [w, g, *others]
    fits = (
        all(isinstance(x, np.ndarray) and x.shape == w.shape and in_whole_steps(x) for x in arrays)
        and all(x.flags.writeable for x in (w, *others))
        and all(x.dtype == native for x in others)
        and (all(x.flags.c_contiguous for x in arrays) or all(x.flags.f_contiguous for x in arrays))
    )
    return (
        Plan(w, g, slots, _kind(tuple(state), tuple(names), w.ndim, native, parameter, gradient))
        if fits
        else None
    )


#: The loop's address and its numbers for a kind of tensors at a rule's step t, or None.
Find = Callable[[Rule, int, Kind], tuple[int, Any] | None]


def step(leaves: Sequence[Leaf], names_of: Callable[[Leaf], Sequence[str]], find: Find) -> list[int]:
    """Step all leaves that lie in one piece in one launch, count their ``t``, and return the others' places.

    Parameters
    ----------
    leaves : sequence of Leaf
    names_of : function of a Leaf
        The slots that its loop takes, in order.
    find : function of (rule, t, kind)
        Asked once for all tensors that are alike; ``t`` is 0 where none is counted.
    """
    rows, counted, left = [], [], []
    ready: dict[Hashable, tuple[int, int, Any] | None] = {}
    for place, leaf in enumerate(leaves):
        rule, _, g, state, memo = leaf
        # Only a plain array: what a subclass says of itself need not be so.
        plan = _plan(leaf, names_of) if type(g) is np.ndarray else None
        if plan is None:
            left.append(place)
            continue
        t = int(state["t"]) + 1 if "t" in state else 0
        key = (id(rule), t, id(plan.kind))
        if key not in ready:
            found = find(rule, t, plan.kind)
            ready[key] = None if found is None else (found[0], address_of(found[1]), found[1])
        loop = ready[key]
        if loop is None:
            del memo["plan"]
            left.append(place)
            continue
        if plan.entries:
            rows.append((loop[0], plan.table_address, loop[1], plan.entries))
        if t:
            counted.append((state, t))
    if rows:
        spread.launch(rows)
    for state, t in counted:
        state["t"] = np.int64(t)
    return left


def _plan(leaf: Leaf, names_of: Callable[[Leaf], Sequence[str]]) -> Plan | None:
    """The leaf's plan, with its gradient taken; made anew if it no longer holds, None if none would."""
    plan: Plan | None = leaf.memo.get("plan")
    if plan is not None and plan.take(leaf):
        return plan
    plan = leaf.memo["plan"] = plan_of(leaf, names_of(leaf))
    return plan if plan is not None and plan.take(leaf) else None
