"""Whether the speed of kernels is measured, and when: ``MEMOPT_TUNE``."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TypeVar

from memopt_ref.errors import BackendError

#: ``off``: the default kernels. ``load``: what was measured before. ``auto``: that, and what is missing is
#: measured at first use. ``force``: measured anew at first use. ``random``: any kernel that has the
#: reference's bits, to show that they all have them.
MODES = ("off", "load", "auto", "force", "random")

Option = TypeVar("Option")

_chosen: ContextVar[str | None] = ContextVar("memopt_tune", default=None)
_drawn = itertools.count()


def _checked(name: str, source: str) -> str:
    if name not in MODES:
        wanted = "one of " + ", ".join(map(repr, MODES))
        raise BackendError(source, repr(name), wanted, "Choose one of these, or leave it out for 'auto'.")
    return name


def mode() -> str:
    """What holds in this thread: ``with use_mode(...)``, then ``MEMOPT_TUNE``, then ``"auto"``.

    Raises
    ------
    BackendError
        The environment variable is none of the modes.

    Examples
    --------
    >>> with use_mode("load"):
    ...     mode()
    'load'
    """
    if (name := _chosen.get()) is not None:
        return name
    return _checked(os.environ.get("MEMOPT_TUNE", "") or "auto", "MEMOPT_TUNE")


class use_mode:  # noqa: N801
    """Tune in this way inside the ``with`` block, in this thread or task; blocks may be nested.

    Parameters
    ----------
    name : {"off", "load", "auto", "force", "random"}

    Raises
    ------
    BackendError
        Another name.
    """

    def __init__(self, name: str) -> None:
        self.name = _checked(name, "use_mode")
        self._tokens: list[Token[str | None]] = []

    def __enter__(self) -> use_mode:
        self._tokens.append(_chosen.set(self.name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _chosen.reset(self._tokens.pop())


def seed() -> str:
    """What ``random`` draws from: ``MEMOPT_TUNE_SEED``, or ``"0"``; any text will do."""
    return os.environ.get("MEMOPT_TUNE_SEED", "") or "0"


def draw(options: Sequence[Option]) -> Option:
    """One of these: the next of a sequence that the seed decides."""
    return random.Random(f"{seed()} {next(_drawn)}").choice(options)  # noqa: S311
