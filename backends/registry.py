"""The backends that there are, and their kernels.

A backend is registered by the name of its module, which is imported when it is first chosen; whether it can
run is found out without importing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple, Protocol

from memopt_ref.errors import BackendError
from memopt_ref.rules.base import Rule

from . import fits

#: ``bitwise``: the reference's bits for every thread count and layout. ``fma``: products and sums fused.
#: ``reassoc``: another order of sums. ``flush``: subnormal numbers become 0. Only the first competes by
#: default, so a choice never changes a result.
NUMERICS = ("bitwise", "fma", "reassoc", "flush")


class Kernel(Protocol):
    """Steps one tensor in place; raises a MemoptError only before it has written anything.

    ``rule`` holds numbers, no schedules; ``g`` is dense or a RowSparse, in any floating dtype. The variant's
    knobs, which never change a bit, are keywords.
    """

    def __call__(self, rule: Rule, w: Any, g: Any, state: dict[str, Any]) -> None:
        """Overwrite ``w`` and the arrays in ``state``; replace the counters in ``state``."""


class Leaf(NamedTuple):
    """One tensor's step: what a kernel is called with, and a dict of the kernel's own that stays with it.

    ``g`` is dense and as it came.
    """

    rule: Rule
    w: Any
    g: Any
    state: dict[str, Any]
    memo: dict[str, Any]


class Together(Protocol):
    """Steps many tensors in one launch."""

    def __call__(self, leaves: Sequence[Leaf], scale: float, factor: float, zero: bool) -> Sequence[int]:
        """Step the leaves in place, and return the places of those that are left to ``step``, untouched.

        Each gradient is first multiplied with ``scale`` and rounded, NaN and infinity are made 0 if ``zero``,
        then it is multiplied with ``factor``: see :mod:`memopt_ref.nonfinite` and :mod:`memopt_ref.clipping`.
        """


@dataclass(frozen=True)
class Variant:
    """One implementation of a step.

    Parameters
    ----------
    name : str
        Stable, such as ``"numpy_ref"``.
    numerics : {"bitwise", "fma", "reassoc", "flush"}
        What its bits have to do with the reference's.
    supports : function of (rule, shape, dtype)
        ``(True, why)`` or ``(False, what is missing)``, nothing being said of a rule that the variant is not
        for; it is asked with the rule as built.
    step : Kernel
        The step itself.
    together : Together, optional
        The same for many tensors at once.
    knobs : mapping of name to tuple of values, optional
        Run-time keywords of ``step`` that change its speed and no bit, each with the values worth trying; the
        first is the default. A number of ``threads`` counts only if there are more than that.

    Examples
    --------
    >>> from .numpy_ref import step, supports
    >>> Variant("mine", "bitwise", supports, step, {"threads": (None, 1), "run": (64, 512)}).combinations(2)
    [{}, {'run': 512}, {'threads': 1}, {'threads': 1, 'run': 512}]
    """

    name: str
    numerics: str
    supports: Callable[[Rule, tuple[int, ...], Any], tuple[bool, str]]
    step: Kernel
    knobs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict, hash=False)
    together: Together | None = None

    def __post_init__(self) -> None:
        assert self.numerics in NUMERICS, self.numerics

    def combinations(self, threads: int) -> list[dict[str, Any]]:
        """All settings of the knobs where there are this many threads, the default first.

        A knob at its default is not named, so that the default may change without a stored setting going
        astray.
        """
        names = list(self.knobs)
        values = [
            [v for v in tried if name != "threads" or v is None or v < threads]
            for name, tried in self.knobs.items()
        ]
        return [
            {name: v for name, v in zip(names, chosen, strict=True) if v != self.knobs[name][0]}
            for chosen in product(*values)
        ]


@dataclass(frozen=True)
class Backend:
    """A set of kernels for one array library.

    Parameters
    ----------
    name : str
        What ``backend=`` calls it.
    library : str
        The array library whose arrays it steps: ``"numpy"`` or ``"cupy"``.
    module : str
        Imported when first chosen; defines ``VARIANTS``, the preferred one first.
    needs : str, optional
        A distribution's import name without which it cannot run.
    check : function, optional
        Further conditions: ``(True, ...)`` or ``(False, why not)``, found out without importing it.
    automatic : bool
        Whether ``"auto"`` may choose it: installing a backend alone changes nothing.
    install : str
        How to get what it needs, for the error that says that it is not there.
    numerics : {"bitwise", "fma", "reassoc", "flush"}
        A class of kernels that its name stands for, beside ``bitwise``; any other than that is not automatic.
    resort : str
        What it does to a leaf that no automatic backend serves, for the error that says that none does.
    """

    name: str
    library: str
    module: str
    needs: str | None = None
    check: Callable[[], tuple[bool, str]] | None = None
    automatic: bool = field(default=False, kw_only=True)
    install: str = field(default="", kw_only=True)
    numerics: str = field(default="bitwise", kw_only=True)
    resort: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        assert self.numerics == "bitwise" or not self.automatic, self.name

    def available(self) -> tuple[bool, str]:
        """Whether it can run here, and a sentence; imports nothing."""
        installed = self.needs is None or _importable(self.needs)
        if not _importable(self.module):
            have = "" if self.needs is None else f" ({self.needs} is {'' if installed else 'not '}installed)"
            return False, f"this release has no {self.name} kernels{have}"
        if not installed:
            return False, f"{self.needs} is not installed" + (self.install and f": {self.install}")
        return (True, "ready") if self.check is None else self.check()

    def variants(self) -> tuple[Variant, ...]:
        """Its kernels; imports its module."""
        return tuple(import_module(self.module).VARIANTS)


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


#: How to get CuPy.
CUPY = "pip install 'memopt-ref[cuda12]', or [cuda13] as your driver has it"

_backends: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Make a backend known under its name, after those that are known already."""
    if backend.name in _backends:
        advice = "Choose another name, or unregister that one first."
        raise BackendError("backend", f"the name {backend.name!r} twice", "distinct names", advice)
    _backends[backend.name] = backend


def unregister(name: str) -> None:
    """Forget a backend."""
    known(name, "backend")
    del _backends[name]


def known(name: Any, source: str) -> Backend:
    """The backend of this name; raises BackendError, naming ``source`` as the one who asked."""
    if name not in _backends:
        wanted = "one of " + ", ".join(map(repr, ("auto", *_backends)))
        raise BackendError(
            source, repr(name), wanted, "Choose one of these; memopt_ref.backends.status() lists them."
        )
    return _backends[name]


def ready(name: Any, source: str) -> Backend:
    """The backend of this name if it can run here; raises BackendError otherwise."""
    backend = known(name, source)
    available, reason = backend.available()
    if not available:
        others = ", ".join(repr(b.name) for b in _backends.values() if b.available()[0])
        advice = f"{reason[0].upper()}{reason[1:]}; available: {others}."
        raise BackendError(source, repr(name), "a backend that can run here", advice)
    return backend


def automatic(library: str) -> list[Backend]:
    """The available backends among which ``"auto"`` chooses for these arrays, the preferred one first."""
    return [b for b in _backends.values() if b.library == library and b.automatic and b.available()[0]]


def resorts(library: str) -> str:
    """How to go on with a leaf of these arrays that has no kernel, as sentences with a blank before each."""
    return "".join(
        f" Or pass backend={b.name!r}: it {b.resort}."
        for b in _backends.values()
        if b.library == library and b.resort
    )


class BackendStatus(NamedTuple):
    """One row of the table of backends."""

    name: str
    library: str
    available: bool
    reason: str


class StatusTable(tuple[BackendStatus, ...]):
    """Rows of :func:`status`; prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = [("backend", "arrays", "available", "reason")]
        rows += [(row.name, row.library, "yes" if row.available else "no", row.reason) for row in self]
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        return "\n".join("  ".join([*(row[k].ljust(widths[k]) for k in range(3)), row[3]]) for row in rows)


def status() -> StatusTable:
    """The known backends: name, array library, whether available, and why not.

    Examples
    --------
    >>> [row.available for row in status() if row.name == "numpy"]
    [True]
    """
    return StatusTable(BackendStatus(b.name, b.library, *b.available()) for b in _backends.values())


# In the order of automatic choice; the reference serves everything and comes last among those for NumPy
# arrays.
register(
    Backend("numba", "numpy", f"{__package__}.numba_cpu", needs="numba", check=fits.numba, automatic=True)
)
register(
    Backend(
        "cupy",
        "cupy",
        f"{__package__}.cupy_gpu",
        needs="cupy",
        check=fits.cupy,
        automatic=True,
        install=CUPY,
    )
)
register(Backend("numpy", "numpy", f"{__package__}.numpy_ref", automatic=True))
# Never chosen but by its name: it copies what has no kernel to the host and back.
register(
    Backend(
        "cupy-host",
        "cupy",
        f"{__package__}.cupy_host",
        needs="cupy",
        check=fits.cupy,
        install=CUPY,
        resort="copies such a leaf to the host and back at every step",
    )
)
# Never chosen but by its name: other bits than the reference's.
register(
    Backend(
        "numba-flush",
        "numpy",
        f"{__package__}.numba_cpu.flush",
        needs="numba",
        check=fits.numba,
        numerics="flush",
    )
)
