"""Hyper-parameters: fields of a frozen dataclass that are checked when the rule is made.

A NumPy scalar becomes a Python number here, because ``float32_array * numpy.float64(0.9)`` is float64 while
``float32_array * 0.9`` is float32.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from .schedule import Schedule

Check = Callable[[str, Any], Any]


def number(
    default: Any = dataclasses.MISSING,
    low: float = 0.0,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    optional: bool = False,
    scheduled: bool = True,
) -> Any:
    """Field that holds a finite number in a range, or a :class:`Schedule` of such numbers.

    Parameters
    ----------
    default : float, Schedule or None
        The field's default.
    low, high : float
        The range, ends included.
    open_low, open_high : bool
        Exclude an end.
    optional : bool
        Allow None.
    scheduled : bool
        Allow a Schedule; a starting value cannot change with the step.
    """
    brackets = (
        ("(" if open_low else "[") + f"{low:g}, {high:g}" + (")" if open_high or high == math.inf else "]")
    )
    others = (["a Schedule"] if scheduled else []) + (["None"] if optional else [])
    wanted = " or ".join([f"a number in {brackets}", *others])

    def check(where: str, value: Any) -> Any:
        if (isinstance(value, Schedule) and scheduled) or (value is None and optional):
            return value
        plain = value.item() if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0 else value
        if isinstance(plain, bool) or not isinstance(plain, int | float):
            raise HyperparameterError(where, repr(value), wanted, "Pass a Python number.")
        inside = (plain > low if open_low else plain >= low) and (
            plain < high if open_high else plain <= high
        )
        if not (math.isfinite(plain) and inside):
            raise HyperparameterError(where, repr(plain), wanted, "Choose a value in this range.")
        return plain

    return _field(default, check)


def integer(
    default: Any = dataclasses.MISSING, low: int = 0, high: int | None = None, *, optional: bool = False
) -> Any:
    """Field that holds an integer in [low, high]; never a schedule, since sizes cannot change."""
    wanted = (
        f"an integer >= {low}"
        + ("" if high is None else f" and <= {high}")
        + (" or None" if optional else "")
    )

    def check(where: str, value: Any) -> Any:
        if value is None and optional:
            return value
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise HyperparameterError(where, repr(value), wanted, "Pass an int.")
        plain = int(value)
        if plain < low or (high is not None and plain > high):
            raise HyperparameterError(where, repr(plain), wanted, "Choose a value in this range.")
        return plain

    return _field(default, check)


def choice(default: str, *others: str | None) -> Any:
    """Field that holds one of a few words (or None, if that is among them); the first is the default."""
    words = (default, *others)

    def check(where: str, value: Any) -> Any:
        if value not in words:
            raise HyperparameterError(
                where, repr(value), "one of " + ", ".join(map(repr, words)), "Choose one of these."
            )
        return value

    return _field(default, check)


def flag(default: bool) -> Any:
    """Field that holds True or False."""

    def check(where: str, value: Any) -> Any:
        if not isinstance(value, bool | np.bool_):
            raise HyperparameterError(where, repr(value), "True or False", "Pass a bool.")
        return bool(value)

    return _field(default, check)


def instance(default: Any, *kinds: type, optional: bool = False) -> Any:
    """Field that holds a frozen part of a rule: a cover, a hash family, a compressor."""
    wanted = " or ".join([kind.__name__ for kind in kinds] + (["None"] if optional else []))

    def check(where: str, value: Any) -> Any:
        if not (isinstance(value, kinds) or (value is None and optional)):
            raise HyperparameterError(where, repr(value), wanted, "Pass an instance, not a class.")
        return value

    return _field(default, check)


def _field(default: Any, check: Check) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


def check_fields(instance: Any) -> None:
    """Run every field's check and store the normalised value; call it from ``__post_init__``."""
    for field in dataclasses.fields(instance):
        check = field.metadata.get("check")
        if check is not None:
            where = f"{type(instance).__name__}.{field.name}"
            object.__setattr__(instance, field.name, check(where, getattr(instance, field.name)))
