"""What a plan holds: bytes by rule and by leaf, what fits a budget, and the table that a person reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import MemoptError
from .rules.base import Rule
from .shapes import Shapes
from .sizes import format_size, parse_size


def label(rule: Rule) -> str:
    """The rule as it would be called, with the arguments that are not defaults.

    >>> from memopt_ref.rules.sgd import SGD
    >>> label(SGD(momentum=0.9))
    'SGD(momentum=0.9)'
    """
    given = [
        (f.name, getattr(rule, f.name))
        for f in dataclasses.fields(rule)
        if getattr(rule, f.name) != f.default
    ]
    return rule.name + (f"({', '.join(f'{name}={_short(value)}' for name, value in given)})" if given else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class LeafPlan:
    """Bytes of one tensor's state under one rule; ``refusal`` says why the rule cannot serve it."""

    path: str
    rule: Rule
    shape: tuple[int, ...]
    dtype: str
    slots: Mapping[str, int]
    counter_nbytes: int
    refusal: MemoptError | None = None

    @cached_property
    def state_nbytes(self) -> int:
        """Accumulators and counters."""
        return sum(self.slots.values())

    @property
    def accumulator_nbytes(self) -> int:
        """Bytes of everything that is not a counter."""
        return self.state_nbytes - self.counter_nbytes

    def error(self) -> MemoptError:
        """The refusal, with this leaf's path in its message."""
        assert self.refusal is not None
        refusal = self.refusal
        where = self.path or refusal.where
        return type(refusal)(where, refusal.got, refusal.wanted, refusal.advice)


@dataclass(frozen=True)
class RulePlan:
    """Bytes of the whole state under one rule (and the groups that override it)."""

    name: str
    leaves: tuple[LeafPlan, ...]

    @cached_property
    def accumulator_nbytes(self) -> int:
        """Bytes of everything that is not a counter."""
        return sum(leaf.accumulator_nbytes for leaf in self.leaves)

    @cached_property
    def counter_nbytes(self) -> int:
        """Bytes of the tensors' own step counts and seeds."""
        return sum(leaf.counter_nbytes for leaf in self.leaves)

    @property
    def state_nbytes(self) -> int:
        """Accumulators and counters: what ``rule.init`` allocates."""
        return self.accumulator_nbytes + self.counter_nbytes

    @property
    def refused(self) -> tuple[LeafPlan, ...]:
        """Leaves that the rule cannot serve; the bytes above do not count them."""
        return tuple(leaf for leaf in self.leaves if leaf.refusal is not None)


@dataclass(frozen=True)
class Plan:
    """What every rule would keep for one model. Made by :func:`plan`; ``str(plan)`` is a table.

    Parameters
    ----------
    shapes : dict
        Path to :class:`~memopt_ref.shapes.ShapeDtype`.
    rules : tuple of RulePlan
        In the order in which they were asked for.
    """

    shapes: Shapes
    rules: tuple[RulePlan, ...]

    def __getitem__(self, name: str) -> RulePlan:
        """The plan of one rule by its name."""
        for rule in self.rules:
            if rule.name == name:
                return rule
        raise KeyError(name)

    @cached_property
    def parameter_count(self) -> int:
        """Entries of all parameters."""
        return sum(leaf.size for leaf in self.shapes.values())

    @cached_property
    def parameter_nbytes(self) -> int:
        """Bytes of the parameters themselves."""
        return sum(leaf.nbytes for leaf in self.shapes.values())

    @property
    def gradient_nbytes(self) -> int:
        """Bytes of one gradient for every parameter, in the parameter's dtype."""
        return self.parameter_nbytes

    def total_nbytes(self, name: str) -> int:
        """Parameters, gradients and state under the rule ``name``. Activations are not counted."""
        return self.parameter_nbytes + self.gradient_nbytes + self[name].state_nbytes

    def fits(self, budget: int | str) -> list[str]:
        """Names of the rules whose parameters, gradients and state take at most ``budget`` (``"24GiB"``)."""
        limit = parse_size(budget, "budget")
        return [r.name for r in self.rules if not r.refused and self.total_nbytes(r.name) <= limit]

    def to_dict(self, *, per_leaf: bool = False) -> dict[str, Any]:
        """The plan as plain Python values, for JSON."""
        return {
            "parameters": self.parameter_count,
            "tensors": len(self.shapes),
            "parameter_nbytes": self.parameter_nbytes,
            "gradient_nbytes": self.gradient_nbytes,
            "rules": [self._rule_dict(rule, per_leaf) for rule in self.rules],
        }

    def _rule_dict(self, rule: RulePlan, per_leaf: bool) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": rule.name,
            "accumulator_nbytes": rule.accumulator_nbytes,
            "counter_nbytes": rule.counter_nbytes,
            "state_nbytes": rule.state_nbytes,
            "state_nbytes_per_parameter": rule.state_nbytes / max(self.parameter_count, 1),
            "total_nbytes": self.total_nbytes(rule.name),
            "refused": {leaf.path: str(leaf.error()) for leaf in rule.refused},
        }
        if per_leaf:
            found["leaves"] = [
                {
                    "path": leaf.path,
                    "rule": label(leaf.rule),
                    "shape": list(leaf.shape),
                    "dtype": leaf.dtype,
                    "accumulator_nbytes": leaf.accumulator_nbytes,
                    "counter_nbytes": leaf.counter_nbytes,
                    "slots": dict(leaf.slots),
                }
                for leaf in rule.leaves
            ]
        return found

    def __str__(self) -> str:
        header = ("rule", "accumulators", "counters", "bytes/parameter", "with parameters and gradients")
        rows = [
            (
                r.name,
                f"{r.accumulator_nbytes:,}",
                f"{r.counter_nbytes:,}",
                f"{r.state_nbytes / max(self.parameter_count, 1):.4g}",
                format_size(self.total_nbytes(r.name))
                if not r.refused
                else f"cannot serve {r.refused[0].path!r}",
            )
            for r in self.rules
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            )
            for row in (header, *rows)
        ]
        return "\n".join([self.headline(), *lines])

    def headline(self) -> str:
        """One line on the model."""
        size = format_size(self.parameter_nbytes)
        return (
            f"{self.parameter_count:,} parameters in {len(self.shapes):,} tensors: {size}, gradients the same"
        )
