"""The in-place optimizer over views of torch's tensors: what ``interop.torch.Optimizer`` runs on.

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
from . import tensors, torch_groups, torch_state

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
        self._arrays = {path: tensors.view(path, p) for path, p in leaves.items()}
        self._places = list(map(_place, leaves.values()))
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
        self.inner = InPlace(self._arrays, groups[0]["rule"], groups=own, **options)

    def serves(self, leaves: Leaves, groups: list[Group]) -> bool:
        """Whether nothing has been replaced that this was made for, a parameter's ``data`` included."""
        return (
            _same(groups, self._groups)
            and _same([group["rule"] for group in groups], self._group_rules)
            and list(leaves) == list(self._leaves)
            and _same(list(leaves.values()), list(self._leaves.values()))
            and [_place(p) for p in leaves.values()] == self._places
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
                torch_state.check(path, states[p], self._rules[path].slots(w.shape, w.dtype))
        for path, p in self._leaves.items():
            if p not in states:
                states[p] = torch_state.as_tensors(self.inner.state["leaves"][path])

    def step(self, count: int, states: Mapping[Any, Any]) -> list[Any] | None:
        """Step after ``count`` steps; the tensors that moved, or None if the step was skipped."""
        for group, fixed in zip(self._groups, self._fixed, strict=True):
            torch_groups.check_fixed(group, fixed)
        grads = {
            path: None if p.grad is None else tensors.gradient(path, p.grad)
            for path, p in self._leaves.items()
        }
        state = self.inner.state
        state["step"] = count
        for path, p in self._leaves.items():
            state["leaves"][path] = torch_state.as_leaf(path, states[p])
        if not self.inner.step(grads):
            return None
        for path, p in self._leaves.items():
            torch_state.put_counters(states[p], state["leaves"][path])
        return [p for path, p in self._leaves.items() if grads[path] is not None]

    def explain(self, count: int) -> str:
        """See :meth:`memopt_ref.Optimizer.explain`; the numbers are those of the next step."""
        choices = {
            path: backends.select(self._rules[path], w.shape, w.dtype, "numpy", self._backend)
            for path, w in self._arrays.items()
        }
        now = {path: rule.at(count + 1) for path, rule in self._rules.items()}
        return explain.explain(self._arrays, now, choices)


def _one_of(paths: Iterable[str]) -> Any:
    chosen = frozenset(paths)
    return lambda path, w: path in chosen


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _place(p: Any) -> tuple[Any, ...]:
    """Where a tensor lies and how it is read; another device has no address here."""
    return p.device, p.data_ptr() if p.device.type == "cpu" else None, p.dtype, p.shape, p.stride()
