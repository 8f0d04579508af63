"""The contract of a rule: declare the state, write the equations; everything else follows from these two.

A rule is a frozen dataclass of hyper-parameters and holds no arrays. A family's file says

* ``slots(shape, dtype)``: what state a tensor needs,
* ``step(w, g, state)``: the paper's equations, pure, returning every value that the paper names,
* ``metric(values)``: the matrix H of w' = w - H^{-1} m, one line.

From these this file derives ``init``, ``update``, ``values`` and the row-sparse step; other rooms derive the
planner's bytes, the checkpoint's schema and the kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypedDict

import numpy as np

from .. import tree
from ..checks import check_gradient, check_parameter
from ..errors import HyperparameterError
from ..parts import fields
from ..parts.metric import Metric
from ..parts.random import leaf_seed
from ..parts.row_sparse import RowSparse
from ..parts.schedule import Number, Schedule
from ..parts.slots import Slot, compute_dtype
from . import rows

LeafState = Mapping[str, Any]
Values = dict[str, Any]


class State(TypedDict):
    """The state of a tree: ``step`` counts applied steps, ``leaves`` holds each leaf's slots by its path."""

    step: int
    leaves: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """An optimizer as a value: equal hyper-parameters, equal rule.

    Parameters
    ----------
    learning_rate : float or Schedule
        Step size, >= 0. Every rule has a default.
    weight_decay : float or Schedule
        Coefficient of the decay, >= 0; 0 switches it off.
    weight_decay_mode : {"l2", "decoupled", "independent"}
        ``"l2"``: g <- g + weight_decay * w. ``"decoupled"``: w <- w * (1 - learning_rate * weight_decay)
        before the step. ``"independent"``: w <- w * (1 - weight_decay) before the step.
    """

    learning_rate: Number = fields.number(1e-3)
    weight_decay: Number = fields.number(0.0)
    weight_decay_mode: str = fields.choice("l2", "decoupled", "independent")

    #: Whether ``step`` itself takes a RowSparse gradient (``step_rows``); otherwise the generic path of
    #: rows.py serves.
    native_rows: ClassVar[bool] = False
    #: Whether a total over the tensor enters every entry's step; a RowSparse gradient is then made dense.
    couples_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        fields.check_fields(self)

    # What a family says

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """The state that a parameter of this shape and dtype needs, by the names that ``step`` uses.

        Asked of the rule as built, never of ``rule.at(step)``: a schedule that starts at 0 must not lose its
        slot.
        """
        raise NotImplementedError

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """The equations: every value that the paper names, among them ``w`` and all slots. Mutates nothing.

        ``w`` and ``g`` come in the compute dtype, with weight decay already applied. Use :meth:`values`.
        """
        raise NotImplementedError

    def metric(self, values: Mapping[str, Any]) -> Metric | None:
        """The matrix H of w' = w - H^{-1} m, learning rate included; None where there is none."""
        return None

    def rests(self) -> bool:
        """Whether an entry whose gradient is zero stays where it is, state and all."""
        return False

    def caution(self, shape: tuple[int, ...], dtype: Any) -> str:
        """A known weakness of these options at this shape, one sentence for ``explain()``; mostly empty."""
        return ""

    def check_step(self, path: str, w: Any, g: Any, state: LeafState) -> None:
        """Raise StabilityError if this step is known to diverge; asked before any leaf is written."""

    # What follows

    @property
    def name(self) -> str:
        """The class name."""
        return type(self).__name__

    @property
    def is_scheduled(self) -> bool:
        """Whether any hyper-parameter is a schedule."""
        return any(isinstance(getattr(self, f.name), Schedule) for f in dataclasses.fields(self))

    def replace(self, **changes: Any) -> Self:
        """The same rule with other hyper-parameters."""
        unknown = [name for name in changes if name not in {f.name for f in dataclasses.fields(self)}]
        if unknown:
            wanted = ", ".join(f.name for f in dataclasses.fields(self))
            raise HyperparameterError(self.name, f"{unknown[0]!r}", f"one of {wanted}", "Check the spelling.")
        return dataclasses.replace(self, **changes)

    def at(self, step: int) -> Self:
        """The rule with every schedule replaced by its number at ``step`` (1 at the first step)."""
        numbers: dict[str, Any] = {
            f.name: float(value(step))
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Schedule)
        }
        if not numbers:
            return self
        rule = dataclasses.replace(self, **numbers)
        object.__setattr__(rule, "_built", self)
        return rule

    @property
    def as_built(self) -> Self:
        """The rule that :meth:`at` was asked of; its slots are the tensor's, also where a schedule is 0."""
        built: Self = getattr(self, "_built", self)
        return built

    def init_leaf(self, w: Any, path: str = "") -> dict[str, Any]:
        """The state of one tensor before its first step, its slots by name."""
        seed = leaf_seed(getattr(self, "seed", 0), path)
        return {name: slot.begin(w, seed) for name, slot in self.slots(tuple(w.shape), w.dtype).items()}

    def init(self, params: Any) -> State:
        """The state of a tree before the first step.

        Parameters
        ----------
        params : array, or a dict/list/tuple tree of arrays
            float64, float32, float16 or bfloat16; of NumPy, or of any library with ``__dlpack__`` or
            ``__array__``, in host memory.

        Returns
        -------
        dict
            ``{"step": 0, "leaves": {path: {slot: array}}}``; arrays of the parameter's library, counters
            NumPy scalars.

        Raises
        ------
        DtypeError, ShapeError, StructureError
            A leaf that the rule cannot serve, or two leaves of one path.
        BackendError
            A leaf on a device.
        """
        leaves = tree.flatten(params).leaves
        if (arrays := tree.elsewhere(leaves.values())) is not None:
            foreign: State = arrays.init(self, params)
            return foreign
        for path, w in leaves.items():
            check_parameter(path, w)
        return {"step": 0, "leaves": {path: self.init_leaf(w, path) for path, w in leaves.items()}}

    def update(self, params: Any, grads: Any, state: State) -> tuple[Any, State]:
        """One step of a tree, pure: neither ``params`` nor ``state`` is written.

        Parameters
        ----------
        params : tree of arrays
            Of NumPy or any library with ``__dlpack__`` or ``__array__``; each leaf's results come back in
            its own.
        grads : tree of the same structure
            A leaf may be None (untouched: neither weights nor state nor its own ``t`` move) or a RowSparse.
        state : State
            From :meth:`init` or an earlier step.

        Returns
        -------
        params, state
            New trees; untouched leaves are shared with the old ones.

        Raises
        ------
        StructureError, ShapeError, DtypeError, RowIndexError, BackendError
            Before anything is computed.
        """
        flat = tree.flatten(params)
        by_path = tree.align(flat, grads)
        slots = (leaf.values() for leaf in state["leaves"].values())
        if (arrays := tree.elsewhere(flat.leaves.values(), by_path.values(), *slots)) is not None:
            foreign: tuple[Any, State] = arrays.update(self, params, grads, state)
            return foreign
        for path, w in flat.leaves.items():
            check_parameter(path, w)
            check_gradient(path, w, by_path[path])
        rule, new_w, new_leaves = self.at(state["step"] + 1), {}, {}
        for path, w in flat.leaves.items():
            g, leaf = by_path[path], state["leaves"][path]
            new_w[path], new_leaves[path] = (w, leaf) if g is None else rule.advance(w, g, leaf)
        return flat.rebuild(new_w), {"step": state["step"] + 1, "leaves": new_leaves}

    def advance(self, w: Any, g: Any, state: LeafState) -> tuple[Any, dict[str, Any]]:
        """One tensor's step, pure: the new tensor and the new state."""
        values = self.values(w, g, state)
        return values["w"], {name: values[name] for name in state}

    def values(self, w: Any, g: Any, state: Mapping[str, Any]) -> Values:
        """Every value that the paper names in one step of one tensor.

        Parameters
        ----------
        w : array
            The parameter; 16-bit ones are computed in float32 and rounded once.
        g : array or RowSparse
            The gradient, cast to the compute dtype first.
        state : mapping
            The tensor's slots, or the state of a tree that is this one array (then schedules are taken at its
            step).

        Returns
        -------
        dict
            ``w`` (new, in the parameter's dtype), every slot (new), and the intermediates in the compute
            dtype. For a RowSparse gradient the intermediates are those of the touched rows, ``w`` and slots
            are whole.

        Raises
        ------
        HyperparameterError
            A hyper-parameter is a schedule and no step is known: use ``rule.at(step)``.
        """
        if "leaves" in state and "step" in state:
            return self.at(state["step"] + 1).values(w, g, state["leaves"][""])
        if self.is_scheduled:
            wanted = "a rule with numbers"
            raise HyperparameterError(self.name, "a schedule", wanted, "Call rule.at(step).values(...).")
        if (arrays := tree.elsewhere((w, g), state.values())) is not None:
            foreign: Values = arrays.values(self, w, g, state)
            return foreign
        w = np.asarray(w)
        if isinstance(g, RowSparse):
            return rows.step(self, w, g, state).whole(w, state)
        return self.values_dense(w, np.asarray(g), state)

    def values_dense(self, w: Any, g: Any, state: LeafState) -> Values:
        """:meth:`values` for a dense gradient: cast, decay, step, round once."""
        dtype = compute_dtype(w.dtype)
        with np.errstate(all="ignore"):
            values = self.step(*self.decayed(w.astype(dtype, copy=False), g.astype(dtype, copy=False)), state)
            values["w"] = np.asarray(values["w"]).astype(w.dtype, copy=False)
        for name, old in state.items():
            if isinstance(old, np.ndarray):
                values[name] = np.asarray(values[name])
        return values

    def decayed(self, w: Any, g: Any) -> tuple[Any, Any]:
        """``(w, g)`` after weight decay; the step starts from these."""
        if self.weight_decay == 0:
            return w, g
        if self.weight_decay_mode == "l2":
            return w, g + self.weight_decay * w
        return w * (1.0 - self.weight_decay * self.decay_rate(w)), g

    def decay_rate(self, w: Any) -> Any:
        """What multiplies the weight decay outside the gradient: the learning rate, or 1 if independent."""
        return self.learning_rate if self.weight_decay_mode == "decoupled" else 1.0
