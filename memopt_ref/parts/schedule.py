"""What a schedule is: a pure function of the step, counted from 1, that can be compared and stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """A number that depends on the step alone. Concrete ones live in :mod:`memopt_ref.schedules`.

    A subclass is a frozen dataclass with a method ``__call__(step: int) -> float``; ``step`` is 1 at the
    first step. Schedules multiply with numbers and with each other.
    """

    def __call__(self, step: int) -> float:
        """The value at ``step``, 1 at the first."""
        raise TypeError(f"{type(self).__name__} does not say what its value is at step {step}")


#: ``float | Schedule``. A rule's equations see floats only, since ``rule.at(step)`` comes first; a type
#: checker cannot see that, hence Any.
Number = Any
