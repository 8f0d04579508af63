"""Who competes: the kernels with the same bits, each with every setting of its knobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from memopt_ref.rules.base import Rule

from ..registry import Variant
from .machine import threads_available

if TYPE_CHECKING:
    from ..selection import Choice


class Candidate(NamedTuple):
    """A kernel and how its knobs are set."""

    variant: Variant
    knobs: dict[str, Any]

    @property
    def label(self) -> str:
        """In one word."""
        return label(self.variant.name, self.knobs)

    def step(self, rule: Rule, w: Any, g: Any, state: dict[str, Any]) -> None:
        """Step one tensor in place."""
        self.variant.step(rule, w, g, state, **self.knobs)


def label(variant: str, knobs: dict[str, Any]) -> str:
    """A kernel and its knobs in one word.

    Examples
    --------
    >>> label("numba.sm3", {"threads": 1}), label("numpy_ref", {})
    ('numba.sm3(threads=1)', 'numpy_ref')
    """
    told = ", ".join(f"{name}={value}" for name, value in sorted(knobs.items()))
    return variant + (f"({told})" if told else "")


def names(choice: Choice) -> tuple[str, ...]:
    """The kernels that compete, the default first."""
    return (choice.variant.name, *(variant.name for variant, _ in choice.rivals))


def candidates(choice: Choice) -> list[Candidate]:
    """All that compete, the default first."""
    threads = threads_available()
    variants = [choice.variant, *(variant for variant, _ in choice.rivals)]
    return [Candidate(variant, knobs) for variant in variants for knobs in variant.combinations(threads)]
