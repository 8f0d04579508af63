"""The in-place optimizer: names -> leaves -> kernels.

Everything that can be wrong with a step is found before the first leaf is touched. The order of a step is

    g <- scale * g;   policy for NaN and infinity;   g <- g * min(1, max_norm / ||g||);   the rules' step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal, Self

import numpy as np
import optree

from . import backends, clipping, host, tree
from .checks import FLOATS, check_gradient, check_parameter
from .errors import MemoptError, StructureError, TornError
from .explain import explain
from .gradients import Gradients
from .groups import Pattern, assign
from .memory import Places, check_plain
from .nonfinite import check_policy, check_scale
from .parts.row_sparse import RowSparse
from .rules.base import Rule, State

Policy = Literal["raise", "skip", "zero", "propagate"]
PLAIN = frozenset(FLOATS)


class Optimizer:
    """Step a tree of arrays in place; the arrays stay the same objects.

    Parameters
    ----------
    params : array, or a dict/list/tuple tree of arrays
        NumPy, writable, float64, float32, float16 or bfloat16, of any layout; no two share memory.
    rule : Rule
        For every leaf that no group matches.
    backend : {"auto", "numpy", ...}
        The implementation; see :func:`memopt_ref.backends.select` for who else may choose it.
    groups : iterable of (pattern, Rule)
        A glob over the path or a function of (path, array); the first match wins.
    nonfinite : {"raise", "skip", "zero", "propagate"}
        What to do when a gradient, after ``scale``, holds NaN or infinity: raise and change nothing; skip
        the step, clocks included; put 0 in their place; or go on as other libraries do.
    max_norm : float, optional
        Clip the global norm of all gradients to this, > 0; see :mod:`memopt_ref.clipping`.

    Raises
    ------
    MemoptError
        DtypeError, ShapeError, StructureError, ReadOnlyError, AliasError, PatternError, HyperparameterError
        or BackendError: before any state is allocated for a step.

    Notes
    -----
    With the ``numpy`` backend a step has the bits of ``rule.update``. The state is ``rule.init``'s, each
    leaf by its own rule. Beside the state a step holds temporaries of one leaf at a time, and copies of the
    gradients only where these are row-sparse or share memory with a parameter. Kernels step small leaves
    together, and cast, scale and clip the gradients on their way, without a copy of one. The first step of a
    large leaf may measure which kernel is the fastest, once a machine, which takes a fraction of a second and
    up to 64 MiB; see :mod:`memopt_ref.backends.tuning`.

    Examples
    --------
    >>> from memopt_ref.rules.sgd import SGD
    >>> params = {"w": np.ones(2), "bias": np.ones(1)}
    >>> opt = Optimizer(params, SGD(learning_rate=0.5), groups=[("bias", SGD(learning_rate=0.1))])
    >>> opt.step({"w": np.array([1.0, -2.0]), "bias": np.array([1.0])})
    True
    >>> params["w"], params["bias"], opt.step_count
    (array([0.5, 2. ]), array([0.9]), 1)
    """

    def __init__(
        self,
        params: Any,
        rule: Rule,
        backend: str = "auto",
        groups: Iterable[tuple[Pattern, Rule]] = (),
        nonfinite: Policy = "raise",
        max_norm: float | None = None,
    ) -> None:
        self._bind(params)
        check_policy(nonfinite)
        self._max_norm = None if max_norm is None else clipping.check_max_norm(max_norm)
        self._nonfinite = nonfinite
        self._choose(assign(self._arrays, rule, groups), rule, backend)
        leaves = {}
        for path, w in self._arrays.items():
            with _naming(path):
                leaves[path] = self._home.init_leaf(self._rules[path], w, path)
        self._state: State = {"step": 0, "leaves": leaves}

    def _bind(self, params: Any) -> None:
        """Take these arrays for the parameters."""
        self._flat = tree.flatten(params)
        first = next(iter(self._flat.leaves.values()), None)
        self._home = _home_of(first)
        for path, w in self._flat.leaves.items():
            backends.check_array_library(path or "parameter", w, self._home.LIBRARY)
            check_parameter(path, w)
            self._home.check(path, w, first)
        self._arrays = {path: self._home.taken(w) for path, w in self._flat.leaves.items()}
        self._places = Places({path: self._home.shadow(w) for path, w in self._arrays.items()})
        self._params = params
        self._torn: str | None = None

    def _choose(self, rules: dict[str, Rule], default: Rule, backend: str) -> None:
        """Take these rules, and a kernel for each leaf."""
        self._rules, self._default, self._choices = rules, default, {}
        self._scheduled = any(rule.is_scheduled for rule in rules.values())
        self._memos: dict[str, dict[str, Any]] = {}
        for path, w in self._arrays.items():
            with _naming(path):
                self._choices[path] = backends.select(
                    rules[path], w.shape, w.dtype, self._home.LIBRARY, backend
                )
        self._unsettled = set(self._arrays)

    def step(self, grads: Any, learning_rate: Any = None, scale: float = 1.0) -> bool:
        """One step of every leaf that has a gradient, in place.

        Parameters
        ----------
        grads : tree of the structure of the parameters
            A leaf is an array, a :class:`~memopt_ref.RowSparse` or None (untouched: neither weights nor
            state move). Never written.
        learning_rate : float or Schedule, optional
            Takes the place of every rule's learning rate, those of the groups too, for this step.
        scale : float
            The gradients are multiplied with it before anything else happens: the inverse of a loss scale,
            > 0.

        Returns
        -------
        bool
            True if the step was applied, False if ``nonfinite="skip"`` skipped it (then nothing has moved).

        Raises
        ------
        StructureError, ShapeError, DtypeError, BackendError, HyperparameterError, NonFiniteError
            Nothing has changed.
        TornError
            An earlier step was interrupted after it had begun to write.
        """
        self._check_whole()
        raw = self._checked(grads)
        rules = self._rules_now(learning_rate)
        gradients = self._home.Gradients(raw, self._arrays, check_scale(scale), self._nonfinite)
        if not gradients.all_finite():
            return False
        if self._max_norm is not None:
            gradients.clip(self._max_norm)
        for path in raw:
            if type(rules[path]).check_step is not Rule.check_step:
                leaf, w = self._state["leaves"][path], self._arrays[path]
                self._home.check_step(rules[path], path, w, gradients.for_kernel(path), leaf)
        self._settle(raw)
        self._apply(gradients, rules)
        return True

    def _settle(self, raw: dict[str, Any]) -> None:
        """Take the fastest kernel of each leaf at its first dense step, before anything is written."""
        if not self._unsettled:
            return
        for path in [p for p, g in raw.items() if p in self._unsettled and not isinstance(g, RowSparse)]:
            rule, w = self._rules[path], self._arrays[path]
            self._choices[path] = backends.tuning.settled(self._choices[path], rule, w)
            self._unsettled.discard(path)

    def _check_whole(self) -> None:
        if self._torn is not None:
            advice = "Restore parameters and state from before it, and make a new Optimizer."
            got = "a step that was interrupted while this leaf was written"
            raise TornError(self._torn or "parameter", got, "parameters and state of one step", advice)
        leaves = optree.tree_leaves(self._params, none_is_leaf=True)
        if len(leaves) != len(self._arrays) or any(
            now is not then for now, then in zip(leaves, self._flat.leaves.values(), strict=True)
        ):
            now = tree.align(self._flat, self._params, "parameters")
            path = next((p for p, w in self._flat.leaves.items() if now[p] is not w), "parameters")
            advice = "Write into the array (w[...] = x), or make a new Optimizer."
            raise StructureError(
                path or "parameter", "another array than at the start", "the same one", advice
            )

    def _checked(self, grads: Any) -> dict[str, Any]:
        leaves, structure = optree.tree_flatten(grads, none_is_leaf=True)
        if structure == self._flat.structure:
            given = dict(zip(self._arrays, leaves, strict=True))
        else:
            given = tree.align(self._flat, grads)
        raw = {}
        plain = np.ndarray if self._home is host else None
        for path, g in given.items():
            if g is None:
                continue
            w = self._arrays[path]
            part = g.rows if isinstance(g, RowSparse) else g
            if type(part) is not plain or g.shape != w.shape or part.dtype not in PLAIN:
                backends.check_array_library(path or "gradient", part, self._home.LIBRARY)
                check_plain(path or "gradient", g)
                check_gradient(path, w, g)
            raw[path] = self._apart(g)
        return raw

    def _apart(self, g: Any) -> Any:
        """``g``, copied if it lies in a parameter's memory, which another leaf's step may overwrite first."""
        if isinstance(g, RowSparse):
            rows = self._apart(g.rows)
            return g if rows is g.rows else RowSparse(g.indices, rows, g.shape)
        return g.copy() if self._places.reached(self._home.shadow(g)) else g

    def _rules_now(self, learning_rate: Any) -> dict[str, Rule]:
        if learning_rate is None and not self._scheduled:
            return self._rules
        now: dict[int, Rule] = {}
        for rule in self._rules.values():
            if id(rule) not in now:
                own = rule if learning_rate is None else rule.replace(learning_rate=learning_rate)
                now[id(rule)] = own.at(self._state["step"] + 1)
        return {path: now[id(rule)] for path, rule in self._rules.items()}

    def _apply(self, gradients: Gradients, rules: dict[str, Rule]) -> None:
        # The mark is set before and taken away after: whatever ends the loop early leaves it. A kernel
        # raises a MemoptError only before it writes, so that one at the first leaf has changed nothing.
        alone: list[str] = []
        joint: dict[Any, list[str]] = {}
        for path, g in gradients.raw.items():
            choice = self._choices[path]
            together = choice.variant.together
            # Settings are for a tensor that is stepped alone; never having a copy of a gradient comes first.
            free = together is not None and (gradients.changed or not choice.knobs)
            mine = joint.setdefault(together, []) if free and not isinstance(g, RowSparse) else alone
            mine.append(path)
        begun = False
        for together, paths in joint.items():
            self._torn = paths[0]
            leaves = [self._leaf(path, gradients.raw[path], rules) for path in paths]
            try:
                left = together(leaves, gradients.scale, gradients.factor, gradients.zero)
            except MemoptError:
                self._torn = paths[0] if begun else None
                raise
            alone += [paths[k] for k in left]
            begun = begun or len(left) < len(paths)
        for path in alone:
            self._torn = path
            try:
                w, state = self._arrays[path], self._state["leaves"][path]
                self._choices[path].step(rules[path], w, gradients.for_kernel(path), state)
            except MemoptError:
                self._torn = path if begun else None
                raise
            begun = True
        self._state["step"] += 1
        self._torn = None

    def _leaf(self, path: str, g: Any, rules: dict[str, Rule]) -> backends.Leaf:
        memo = self._memos.setdefault(path, {})
        return backends.Leaf(rules[path], self._arrays[path], g, self._state["leaves"][path], memo)

    def save(self, path: str | PathLike[str], params: bool = False, keep: int = 2) -> None:
        """Write a checkpoint: rules, options and the whole state, in a file that is whole or not there.

        A crash at any moment leaves the old file or the new one. Equal contents give equal bytes.

        Parameters
        ----------
        path : path
            The layout is that of safetensors, and every byte is under a checksum.
        params : bool
            Store the parameters too.
        keep : int
            How many generations to keep, >= 1: ``path``, ``path.1`` (the one before it), ...

        Raises
        ------
        CheckpointError
            A dtype or path that cannot be stored.
        CheckpointWriteError
            The system refused; the file that was there is as it was.
        TornError
            A step was interrupted after it had begun to write.

        Warns
        -----
        CheckpointWarning
            A rule holds what cannot be stored, such as ``schedules.Function`` or a class of your own; pass it
            to :meth:`load` again. All the rest is stored.

        Examples
        --------
        >>> import os, tempfile
        >>> from memopt_ref.rules.adam import Adam
        >>> w = np.ones(2)
        >>> opt = Optimizer(w, Adam())
        >>> opt.step(np.array([1.0, -2.0]))
        True
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     opt.save(os.path.join(folder, "run.memopt"))
        ...     resumed = Optimizer.load(os.path.join(folder, "run.memopt"), w)
        >>> resumed.step_count, resumed.state["leaves"][""]["m"]
        (1, array([ 0.1, -0.2]))
        """
        self._check_whole()
        from .checkpoint import store  # and with it its checksums, only when they are needed

        to_host = self._home.to_host
        leaves = {p: {n: to_host(x) for n, x in s.items()} for p, s in self._state["leaves"].items()}
        arrays = {p: to_host(w) if params else w for p, w in self._arrays.items()}
        state: State = {"step": self._state["step"], "leaves": leaves}
        about = (self._rules, self._default, state, self._nonfinite, self._max_norm)
        store.save(path, arrays, *about, params=params, keep=keep)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        params: Any,
        rule: Rule | None = None,
        groups: Iterable[tuple[Pattern, Rule]] = (),
        backend: str = "auto",
    ) -> Self:
        """Go on from a checkpoint, bit for bit.

        Parameters
        ----------
        path : path
            Written by :meth:`save`.
        params : tree of arrays
            Of the paths, shapes and dtypes that were saved. If the file holds the parameters they are written
            into these arrays, when all else has been checked; otherwise these are the parameters.
        rule : Rule, optional
            In place of the stored rule of the leaves that no group matched.
        groups : iterable of (pattern, Rule)
            In place of the stored rules of the leaves that they match.
        backend : {"auto", "numpy", ...}
            As in :class:`Optimizer`; it is not stored.

        Returns
        -------
        Optimizer
            With the stored rules, state, step count, ``nonfinite`` and ``max_norm``.

        Raises
        ------
        CheckpointFormatError
            The file is damaged, or no checkpoint.
        CheckpointMismatchError
            A leaf, dtype, shape or slot is stored that is not wanted, or the other way round, or a rule that
            is not stored was not passed. Nothing is cast.
        CheckpointError
            The file cannot be read.
        """
        from .checkpoint import store

        self = cls.__new__(cls)
        self._bind(params)
        found = store.load(path, self._arrays, rule, groups)
        self._nonfinite, self._max_norm = found.nonfinite, found.max_norm
        self._choose(found.rules, found.default, backend)
        for own, slots in found.state["leaves"].items():
            slots.update({name: self._home.placed(x, self._arrays[own]) for name, x in slots.items()})
        self._state = found.state
        for own, w in (found.params or {}).items():
            self._arrays[own][...] = self._home.placed(w, self._arrays[own])
        return self

    @property
    def params(self) -> Any:
        """The tree that was passed in, with its own arrays."""
        return self._params

    @property
    def state(self) -> State:
        """The live state: ``{"step": applied steps, "leaves": {path: {slot: array or counter}}}``."""
        return self._state

    @property
    def step_count(self) -> int:
        """Applied steps; skipped ones do not count."""
        return self._state["step"]

    @property
    def state_nbytes(self) -> int:
        """Bytes of all slots of all leaves, each leaf's counters included."""
        return sum(int(v.nbytes) for leaf in self._state["leaves"].values() for v in leaf.values())

    def explain(self) -> str:
        """One line a leaf: path, dtype and shape, rule, kernel variant, and why this one."""
        return explain(self._arrays, self._rules, self._choices)


def _home_of(array: Any) -> Any:
    """The module that answers for arrays that lie where this one does."""
    if backends.library_of(array) != "cupy":
        return host
    from .backends.cupy_gpu import leaves

    return leaves


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put the leaf's path in front of an error about it."""
    try:
        yield
    except MemoptError as error:
        if not path or error.where.startswith(path):
            raise
        raise type(error)(f"{path}: {error.where}", error.got, error.wanted, error.advice) from error
