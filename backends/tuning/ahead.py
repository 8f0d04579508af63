"""Measuring ahead of the first step: for the rules and shapes of a model, or for those that are common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.errors import BackendError, MemoptError
from memopt_ref.rules.base import Rule

from . import settle
from .candidates import names
from .key import Key, key_of
from .machine import threads_available
from .modes import use_mode
from .store import Entry
from .where import HOST, Where, on_device

#: Shapes of the common buckets: vectors and matrices of small and large models.
COMMON = ((2**16,), (2**18,), (2**20,), (2**22,), (768, 768), (3072, 768), (4096, 4096), (30522, 768))


class Tuned(NamedTuple):
    """What became of one rule and shape.

    ``status``: ``"measured"`` now, ``"stored"`` before, ``"busy"`` (measured in company and not kept),
    ``"waited"`` (another process was measuring), ``"alone"`` (one kernel, nothing to choose from) or
    ``"refused"`` (the rule does not serve the shape).
    """

    rule: Rule
    shape: tuple[int, ...]
    dtype: str
    status: str
    entry: Entry | None
    why: str


def tune(
    rules: Iterable[Rule],
    shapes: Iterable[Any] = COMMON,
    dtype: Any = "float32",
    seconds: float = 1.0,
    anew: bool = False,
    backend: str = "auto",
    tell: Callable[[Tuned, int, int], Any] | None = None,
) -> list[Tuned]:
    """Measure what is not known yet, and keep it; each key once.

    Parameters
    ----------
    rules : iterable of Rule
    shapes : iterable of tuple of int, or of arrays
        Of an array only shape and dtype matter. Small ones are measured too, though
        :class:`~memopt_ref.Optimizer` looks up those of 2**16 entries and more alone.
    dtype : dtype
        Of the shapes that are tuples.
    seconds : float
        For a key, compilation apart.
    anew : bool
        Measure what is stored too.
    backend : str
        As of :func:`~memopt_ref.backends.select`; one for CuPy's arrays measures on its current device.
    tell : function of (Tuned, number done, number in all), optional
        Called after each.

    Returns
    -------
    list of Tuned
        One for each key, in the order of rules and shapes.

    Raises
    ------
    BackendError
        The backend cannot run here.

    Notes
    -----
    Takes up to 64 MiB for arrays of its own, on a device 256 MiB there. What is measured while other work
    takes a tenth of the processors is not kept.
    """
    from ..selection import select

    library, where = _place(backend)
    jobs: dict[Any, tuple[Rule, tuple[int, ...], Any, Any]] = {}
    tensors = [(x, np.dtype(dtype)) if isinstance(x, tuple) else (tuple(x.shape), x.dtype) for x in shapes]
    for rule in rules:
        for shape, own in tensors:
            try:
                with use_mode("off"):
                    choice: Any = select(rule, shape, own, library, backend)
                key: Any = key_of(rule, shape, own, "c", names(choice), threads_available(), where)
            except MemoptError as error:
                choice, key = error, (rule, shape, own)
            jobs.setdefault(key, (rule, shape, own, choice))
    found = []
    for key, job in jobs.items():
        found.append(_one(key, *job, seconds, anew, where))
        if tell is not None:
            tell(found[-1], len(found), len(jobs))
    settle.forget()
    return found


def _place(backend: str) -> tuple[str, Where]:
    """The library whose arrays a backend steps, and where they lie."""
    from ..registry import ready
    from ..selection import requested

    name, source = requested(backend)
    library = "numpy" if name == "auto" else ready(name, source).library
    if library == "numpy":
        return library, HOST
    where = on_device(import_module(library).empty(1, np.float32))
    if where is None:
        raise BackendError(source, repr(name), "a device with a clock", "Measure on a GPU.")
    return library, where


def _one(
    key: Key,
    rule: Rule,
    shape: tuple[int, ...],
    dtype: Any,
    choice: Any,
    seconds: float,
    anew: bool,
    where: Where,
) -> Tuned:
    from . import store

    def tuned(status: str, entry: Entry | None, why: str) -> Tuned:
        return Tuned(rule, shape, dtype.name, status, entry, why)

    if isinstance(choice, MemoptError):
        return tuned("refused", None, str(choice))
    if not (choice.rivals or choice.variant.knobs):
        return tuned("alone", None, f"{choice.variant.name} is the only kernel: {choice.why}")
    if not anew and (known := settle.stored(choice, key)) is not None:
        return tuned("stored", store.read(key.text), known.why)
    try:
        entry, _ = settle.measured(choice, rule, dtype, key, seconds, settle.PROCESS_SECONDS, anew, where)
    except MemoptError as error:
        return tuned("refused", None, str(error))
    if entry is None:
        return tuned("waited", None, "another process was measuring; run it again")
    why = settle.decision_of(entry).why
    busy = f"other work took {100 * entry.company:.0f} % of the processors; not kept"
    return tuned("busy", entry, busy) if entry.company > settle.COMPANY else tuned("measured", entry, why)
