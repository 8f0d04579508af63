"""The in-place optimizer over views of torch's tensors: what ``interop.torch.Optimizer`` runs on.

The views are NumPy's or CuPy's, as :mod:`.torch_bridge` makes them.

torch's own tensors are the truth, for parameters and state alike: both may be loaded, copied or written by
others between two steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .. import backends, explain
from ..errors import StructureError
from ..optimizer import Optimizer as InPlace
from ..rules.base import Rule
from . import torch_bridge, torch_groups, torch_state

Group = dict[str, Any]
Leaves = dict[str, Any]


def leaves_of(groups: Iterable[Group]) -> Leaves:
    """The parameters by their names, or by the numbers of group and parameter, as in ``"0/3"``.

    Raises
    ------
    StructureError
        Two parameters have the same name.
    """
    leaves: Leaves = {}
    for number, group in enumerate(groups):
        names = group.get("param_names") or [f"{number}/{k}" for k in range(len(group["params"]))]
        for name, p in zip(names, group["params"], strict=True):
            if name in leaves:
                raise StructureError(name, "two parameters of this name", "distinct names", "Rename one.")
            leaves[name] = p
    return leaves


class Engine:
    """Steps tensors where they lie, as long as they lie there.

    Parameters
    ----------
    leaves : dict
        From :func:`leaves_of`.
    groups : list of dict
        Parameter groups with their rules and numbers, see :mod:`memopt_ref.interop.torch_groups`.
    options : dict
        ``backend``, ``nonfinite`` and ``max_norm`` of :class:`memopt_ref.Optimizer`.
    """

    def __init__(self, leaves: Leaves, groups: list[Group], options: Mapping[str, Any]) -> None:
        self._leaves = leaves
        self._groups, self._group_rules = list(groups), [group["rule"] for group in groups]
        torch_bridge.check_one_place(leaves)
        self._first = next(iter(leaves.values()), None)
        with torch_bridge.running(self._first):
            self._arrays = {path: torch_bridge.view(path, p) for path, p in leaves.items()}
        self._places = list(map(torch_bridge.place, leaves.values()))
        self._views = {path: torch_state.Views() for path in leaves}
        self._backend: str = options["backend"]
        paths = {p: path for path, p in leaves.items()}
        self._rules: dict[str, Rule] = {}
        self._fixed: list[dict[str, Any]] = []
        own: list[Any] = []
        for group in groups:
            mine = {path: self._arrays[path] for path in map(paths.__getitem__, group["params"])}
            rule, fixed = torch_groups.live(group, [(w.shape, w.dtype) for w in mine.values()])
            self._fixed.append(fixed)
            self._rules |= dict.fromkeys(mine, rule)
            if mine:
                own.append((_one_of(mine), rule))
        with torch_bridge.running(self._first):
            self.inner = InPlace(self._arrays, groups[0]["rule"], groups=own, **options)

    def serves(self, leaves: Leaves, groups: list[Group]) -> bool:
        """Whether nothing has been replaced that this was made for, a parameter's ``data`` included."""
        return (
            _same(groups, self._groups)
            and _same([group["rule"] for group in groups], self._group_rules)
            and list(leaves) == list(self._leaves)
            and _same(list(leaves.values()), list(self._leaves.values()))
            and [torch_bridge.place(p) for p in leaves.values()] == self._places
        )

    def check_whole(self) -> None:
        """Raise TornError if a step was interrupted while it wrote."""
        self.inner._check_whole()

    def complete(self, states: dict[Any, Any]) -> None:
        """Give a starting state to every parameter without one; the others' states are checked.

        Raises
        ------
        CheckpointMismatchError
            A state is not what the rule declares.
        """
        for path, p in self._leaves.items():
            if p in states:
                w = self._arrays[path]
                torch_state.check(path, states[p], self._rules[path].slots(w.shape, w.dtype), p)
        with torch_bridge.running(self._first):
            for path, p in self._leaves.items():
                if p not in states:
                    states[p] = torch_state.as_tensors(self.inner.state["leaves"][path])
                # The memory of a state that was there already is not held twice.
                self.inner.state["leaves"][path] = self._views[path].of(path, states[p])

    def step(self, count: int, states: Mapping[Any, Any]) -> list[Any] | None:
        """Step after ``count`` steps; the tensors that moved, or None if the step was skipped."""
        for group, fixed in zip(self._groups, self._fixed, strict=True):
            torch_groups.check_fixed(group, fixed)
        state = self.inner.state
        with torch_bridge.running(self._first):
            grads = {
                path: None if p.grad is None else torch_bridge.gradient(path, p.grad)
                for path, p in self._leaves.items()
            }
            state["step"] = count
            for path, p in self._leaves.items():
                state["leaves"][path] = self._views[path].of(path, states[p])
            if not self.inner.step(grads):
                return None
        for path, p in self._leaves.items():
            torch_state.put_counters(states[p], state["leaves"][path])
        return [p for path, p in self._leaves.items() if grads[path] is not None]

    def explain(self, count: int) -> str:
        """See :meth:`memopt_ref.Optimizer.explain`; the numbers are those of the next step."""
        choices = {
            path: backends.select(
                self._rules[path], w.shape, w.dtype, backends.library_of(w) or "numpy", self._backend
            )
            for path, w in self._arrays.items()
        }
        now = {path: rule.at(count + 1) for path, rule in self._rules.items()}
        return explain.explain(self._arrays, now, choices)


def _one_of(paths: Iterable[str]) -> Any:
    chosen = frozenset(paths)
    return lambda path, w: path in chosen


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
