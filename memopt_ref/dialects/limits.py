"""What to say about an argument whose meaning no rule has."""

from __future__ import annotations

from typing import Any

from ..errors import HyperparameterError

NEGATE = "Negate the gradients instead."


def must_be(wanted: Any, where: str, got: Any, advice: str) -> None:
    """Raise HyperparameterError unless ``got`` is ``wanted``.

    Examples
    --------
    >>> must_be(False, "maximize", True, NEGATE)
    Traceback (most recent call last):
        ...
    memopt_ref.errors.HyperparameterError: maximize: got True; wanted False. Negate the gradients instead.
    """
    if got is not wanted and got != wanted:
        raise HyperparameterError(where, repr(got), repr(wanted), advice)
