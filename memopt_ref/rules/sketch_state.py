r"""How a moment lives in a sketch: what the four count-sketch rules have in common.

Only rows with a gradient take part in a step (the *active* rows: the rows of a RowSparse, or the rows of a
dense gradient that hold anything but zeros); the others keep their weights. A recursion x <- c x + f d
becomes

``decay="lazy"`` (the paper)
    x += delta, and only for active rows: delta = (c - 1) x' + d for momentum (f = 1), delta = (1 - c)(d - x')
    for a mean (f = 1 - c), with x' the sketch's own answer. The paper's identity, section 3, "count-sketch
    optimizers".
``decay="global"``
    S <- c S, then S += sketch(f d). This keeps the sketch linear: it is the sketch of the dense moment, so
    that count-min never underestimates and sketches of parts of a gradient add up. All published theory needs
    this one.

``delta_from="query"`` takes x' from QUERY (the paper); ``"row"`` gives each row of the sketch a delta of its
own, from its own bucket (the public code). ``order="batched"`` queries all active rows, then updates all,
then queries all; ``"sequential"`` does the three for one row after the other, by ascending index (the paper,
read literally). The public code does neither: its blocks read and write the same buckets without an order.

Stability of the lazy form, batched: k active rows in one bucket multiply its content by 1 - k (1 - c) a step,
which grows beyond all bounds when k > 2 / (1 - c); the fixed point otherwise is the mean of their moments,
not the sum.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from ..errors import HyperparameterError, ShapeError, StabilityError
from ..parts import fields
from ..parts.hashing import Avalanche, HashFamily, moment_seed
from ..parts.row_sparse import RowSparse
from ..parts.scalar import maximum
from ..parts.sketch_table import add_into, combine_rows, estimates, raise_into
from ..parts.sketches import CountMinSketch, CountSketch, Sketch
from ..parts.slots import Slot, accumulator_dtype, compute_dtype
from .base import LeafState, Rule, Values
from .elementwise import round_to
from .rows import RowStep

#: A sketch in the state, and the name of what it answers.
MOMENTS = {"M": "m", "V": "v"}


def momentum_delta(old: Any, d: Any, less: Any) -> Any:
    """x <- c x + d as an increment; ``less`` is c - 1."""
    return less * old + d


def mean_delta(old: Any, d: Any, fresh: Any) -> Any:
    """x <- c x + (1 - c) d as an increment; ``fresh`` is 1 - c."""
    return fresh * (d - old)


@dataclasses.dataclass(frozen=True)
class Manner:
    """The four axes on which the paper, its code and its theory differ."""

    decay: str = "global"
    delta_from: str = "query"
    order: str = "batched"
    conservative: bool = False

    @property
    def can_diverge(self) -> bool:
        """Whether many active rows in a bucket are refused: each row of the sketch feeds on itself alone."""
        return (self.decay, self.delta_from, self.order) == ("lazy", "row", "batched")

    def track(self, sketch: Sketch, items: Any, d: Any, keep: float, fresh: float) -> tuple[Any, Any]:
        """One step of x <- keep x + fresh d for the active items: the new table and their new estimates."""
        places = sketch.locate(items)
        lazily = self.decay == "lazy" and keep != 1
        if not lazily and keep != 1:
            sketch = sketch.scaled(keep)
        table, found = sketch.table.copy(), np.empty_like(d)
        step = max(len(places), 1) if self.order == "batched" else 1
        for start in range(0, len(places), step):
            now = slice(start, start + step)
            here, x = places[now], d[now]
            if lazily:
                old = estimates(table, here)
                old = old if self.delta_from == "row" else combine_rows(old, sketch.combine)
                momentum = fresh == 1
                factor = round_to(d, keep - 1.0 if momentum else fresh)
                x = momentum_delta(old, x, factor) if momentum else mean_delta(old, x, factor)
            elif fresh != 1:
                x = round_to(d, fresh) * x
            (raise_into if self.conservative else add_into)(table, here, x)
            found[now] = combine_rows(estimates(table, here), sketch.combine)
        return table, found


@dataclasses.dataclass(frozen=True, kw_only=True)
class SketchedRule(Rule):
    """A rule that keeps its moments in sketches of the parameter's rows.

    Parameters
    ----------
    compression : float
        Dense state divided by sketched state, > 0: width = max(1, int(rows / compression / depth)).
    depth : int
        Rows of the sketch, v in the paper, >= 1.
    width : int, optional
        Buckets of a row; overrides ``compression``.
    hash : HashFamily
        See :mod:`memopt_ref.parts.hashing`.
    seed : int
        Mixed with the tensor's path and the moment, so that no two sketches collide alike.
    order : {"batched", "sequential"}
        See :mod:`memopt_ref.rules.sketch_state`.
    """

    compression: float = fields.number(5.0, open_low=True, scheduled=False)
    depth: int = fields.integer(3, 1)
    width: int | None = fields.integer(None, 1, 2**31 - 1, optional=True)
    hash: HashFamily = fields.instance(Avalanche(), HashFamily)
    seed: int = fields.integer(0, 0, 2**64 - 1)
    order: str = fields.choice("batched", "sequential")

    native_rows: ClassVar[bool] = True

    # What a rule of this family says

    def manner(self) -> Manner:
        """Its options as :class:`Manner`."""
        raise NotImplementedError

    def keeps(self) -> dict[str, Any]:
        """The factor c of each sketched moment; 1 for a plain sum."""
        raise NotImplementedError

    def follow(self, items: Any, g: Any, state: LeafState) -> Values:
        """The moments: new slots, and the estimates ``m`` and ``v`` of the active rows ``items``."""
        raise NotImplementedError

    def finish(self, w: Any, g: Any, values: Values) -> Values:
        """The step of the weights along given moments."""
        raise NotImplementedError

    # What follows

    def table(self, shape: tuple[int, ...], dtype: Any) -> Slot:
        """The slot of one sketch: [depth, width, *shape[1:]].

        Only a linear sketch may be summed with that of another part of the gradient.
        """
        if len(shape) == 0:
            advice = "Use the dense rule for scalars."
            raise ShapeError(self.name, "a parameter of shape ()", "at least one axis to hash", advice)
        width = self.width or max(1, int(shape[0] / self.compression / self.depth))
        linear = self.manner().decay == "global" and not self.manner().conservative
        return Slot(
            (self.depth, width, *shape[1:]), accumulator_dtype(dtype), merge="sum" if linear else None
        )

    def combination(self, name: str) -> str:
        """How QUERY combines the rows of a sketch: the median for M."""
        return getattr(self, "combine", "min") if name == "V" else "median"

    def sketch(self, name: str, state: LeafState) -> Sketch:
        """The sketch ``"M"`` or ``"V"`` of a tensor's state: count-min without signs if it takes minima."""
        seed, combine = moment_seed(int(state["seed"]), list(MOMENTS).index(name) + 1), self.combination(name)
        return (CountMinSketch if combine == "min" else CountSketch)(state[name], self.hash, seed, combine)

    def track(
        self,
        name: str,
        items: Any,
        d: Any,
        state: LeafState,
        keep: float = 1.0,
        fresh: float = 1.0,
        t: int = 0,
    ) -> Values:
        """One step of a sketched moment: the new table and the estimates.

        V is cleaned first when it is time, and its estimates are floored at 0, below which lazy decay and
        signs can carry them. Only V is updated conservatively: increments of m can be negative.
        """
        sketch = self.sketch(name, state)
        every = getattr(self, "clean_every", 0) if name == "V" else 0
        if every and t % every == 0:
            sketch = sketch.scaled(getattr(self, "clean_factor", 1.0))
        manner = self.manner()
        if name != "V":
            manner = dataclasses.replace(manner, conservative=False)
        table, found = manner.track(sketch, items, d, keep, fresh)
        return {name: table, MOMENTS[name]: maximum(found, 0) if name == "V" else found}

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """The active rows of a dense gradient; intermediates cover all rows, and resting rows keep ``w``."""
        active = RowSparse.from_dense(g)
        self.check_load("", active.indices, state)
        values = {**state, **self.follow(active.indices, active.rows, state)}
        for name, estimate in MOMENTS.items():
            if name in state:
                every = dataclasses.replace(self.sketch(name, state), table=values[name]).query(range(len(w)))
                every = maximum(every, 0) if name == "V" else every
            elif estimate in state:
                every = state[estimate].copy()
            else:
                continue
            every[active.indices] = values[estimate]
            values[estimate] = every
        values |= self.finish(w, g, values)
        stepped, values["w"] = values["w"], w.copy()
        values["w"][active.indices] = stepped[active.indices]
        return values

    def step_rows(self, w: Any, g: RowSparse, state: LeafState) -> RowStep:
        """The active rows are those of ``g`` (ascending, each once), even if a row holds zeros only."""
        self.check_load("", g.indices, state)
        with np.errstate(all="ignore"):
            rows, d = self.decayed(w[g.indices].astype(compute_dtype(w.dtype)), g.rows)
            values = {**state, **self.follow(g.indices, d, state)}
            values |= self.finish(rows, d, values)
            values["w"] = values["w"].astype(w.dtype, copy=False)
        return RowStep(g.indices, values, frozenset({"w"} | ({"m"} & state.keys())))

    def check_load(self, path: str, items: Any, state: LeafState) -> None:
        """Raise StabilityError if these active rows would make a bucket diverge."""
        if not self.manner().can_diverge:
            return
        for name, keep in self.keeps().items():
            sketch = self.sketch(name, state)
            width = sketch.table.shape[1]
            load = sketch.locate(items).load(width)
            if load * (1.0 - keep) > 2.0:
                limit = f"at most 2 / (1 - {keep:g}) = {2.0 / (1.0 - keep):.4g}, or {name} diverges"
                got = f"{load} active rows in one of {width} buckets"
                advice = "Use delta_from='query', order='sequential' or decay='global', or a larger width."
                raise StabilityError(path or self.name, got, limit, advice)

    def check_step(self, path: str, w: Any, g: Any, state: LeafState) -> None:
        """Raise StabilityError for ``delta_from="row"`` and too many active rows in a bucket."""
        if not self.manner().can_diverge:
            return
        if not isinstance(g, RowSparse):
            dtype = compute_dtype(w.dtype)
            with np.errstate(all="ignore"):
                g = RowSparse.from_dense(self.decayed(w.astype(dtype), g.astype(dtype))[1])
        self.check_load(path, g.coalesced().indices, state)

    def caution(self, shape: tuple[int, ...], dtype: Any) -> str:
        """What lazy decay risks when many active rows share a bucket."""
        manner = self.manner()
        if manner.decay != "lazy" or manner.order != "batched":
            return ""
        numbers = {name: keep for name, keep in self.keeps().items() if not callable(keep)}
        if not numbers:
            return ""
        name, keep = min(numbers.items(), key=lambda pair: pair[1])
        width, limit = self.table(shape, dtype).shape[1], int(2.0 / (1.0 - keep))
        outcome = "is refused" if manner.delta_from == "row" else "can make that bucket diverge"
        load = f"more than {limit} active rows in one of {width} buckets"
        return f"lazy decay of {name}: a step with {load} {outcome}"


def forbid_without_count_min(rule: Any) -> None:
    """Raise HyperparameterError where conservative update or cleaning meets something else than count-min."""

    def forbid(wrong: bool, field: str, advice: str) -> None:
        if wrong:
            wanted = "a count-min sketch (combine='min')" if rule.combine != "min" else "decay='global'"
            raise HyperparameterError(f"{rule.name}.{field}", repr(getattr(rule, field)), wanted, advice)

    forbid(
        rule.conservative and rule.combine != "min",
        "conservative",
        "Signs leave no bound to be conservative about.",
    )
    forbid(
        rule.conservative and rule.manner().decay == "lazy",
        "conservative",
        "Lazy increments can be negative.",
    )
    forbid(
        rule.clean_every > 0 and rule.combine != "min",
        "clean_every",
        "Cleaning undoes count-min's overestimates.",
    )
