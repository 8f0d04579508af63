"""Which kernel steps which tensor, and the order in which a wish is heard.

The implementation is chosen by, in this order: the argument ``backend=``, ``with use_backend(...)``, the
environment variable ``MEMOPT_BACKEND``, and otherwise automatically: the first available backend for the
arrays' library that has a kernel for the rule. Among the kernels that this leaves, all with the reference's
bits, :mod:`.tuning` may find the fastest later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, NamedTuple

from memopt_ref.errors import BackendError
from memopt_ref.rules.base import Rule

from .registry import Backend, Variant, automatic, ready, resorts
from .tuning import modes
from .tuning.candidates import label
from .tuning.machine import threads_available

_chosen: ContextVar[str | None] = ContextVar("memopt_backend", default=None)


class use_backend:  # noqa: N801
    """Choose the backend of every Optimizer that is made inside the ``with`` block, in this thread or task.

    An explicit ``backend=`` is heard before it, ``MEMOPT_BACKEND`` after it. Blocks may be nested.

    Parameters
    ----------
    name : str
        A registered backend, or ``"auto"``.

    Raises
    ------
    BackendError
        The name is unknown, or the backend cannot run here.

    Examples
    --------
    >>> with use_backend("numpy"):
    ...     requested("auto")
    ('numpy', 'use_backend')
    """

    def __init__(self, name: str) -> None:
        if name != "auto":
            ready(name, "use_backend")
        self.name = name
        self._tokens: list[Token[str | None]] = []

    def __enter__(self) -> use_backend:
        self._tokens.append(_chosen.set(self.name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _chosen.reset(self._tokens.pop())


def requested(argument: str = "auto") -> tuple[str, str]:
    """The backend that is wished for, and who wishes it: argument, use_backend, MEMOPT_BACKEND, automatic.

    ``"auto"`` as the argument, or an empty variable, leaves the wish to the next.
    """
    if argument != "auto":
        return argument, "backend"
    if (name := _chosen.get()) is not None:
        return name, "use_backend"
    if name := os.environ.get("MEMOPT_BACKEND", ""):
        return name, "MEMOPT_BACKEND"
    return "auto", "automatic"


class Choice(NamedTuple):
    """The kernel chosen for a tensor, its backend, and why; how its knobs are set; what else may be chosen.

    ``rivals`` are kernels with the same bits, of the backends among which the choice was free; ``tuned`` is
    True once it has been made among them.
    """

    variant: Variant
    backend: Backend
    why: str
    knobs: Mapping[str, Any] = {}
    rivals: tuple[tuple[Variant, Backend], ...] = ()
    tuned: bool = False

    def step(self, rule: Rule, w: Any, g: Any, state: dict[str, Any]) -> None:
        """Step one tensor in place."""
        self.variant.step(rule, w, g, state, **self.knobs)


def select(
    rule: Rule, shape: tuple[int, ...], dtype: Any, library: str = "numpy", backend: str = "auto"
) -> Choice:
    """The kernel that steps a tensor of this shape and dtype with this rule.

    Only ``bitwise`` variants compete, unless a backend is named that has others. Where the wished backend has
    no kernel for these options the reference steps in, and the reason is kept for ``explain()``. Under
    ``MEMOPT_TUNE=random`` it is any of the kernels among which tuning would choose, with any setting.

    Raises
    ------
    BackendError
        Unknown, unavailable, or for arrays of another library; or ``MEMOPT_TUNE`` is no mode.

    Examples
    --------
    >>> from memopt_ref.rules.sgd import SGD
    >>> choice = select(SGD(), (3,), "float32", backend="numpy")
    >>> choice.variant.name, choice.why
    ('numpy_ref', "backend='numpy'")
    """
    name, source = requested(backend)
    wished = None if name == "auto" else ready(name, source)
    if wished is not None and wished.library != library:
        wanted = f"a backend for {library} arrays"
        advice = f"Copy the arrays to the library {wished.library} first: it is never done silently."
        raise BackendError(source, repr(name), wanted, advice)
    known = automatic(library)
    candidates = known if wished is None else [wished, *(b for b in known[-1:] if b is not wished)]
    refusals: list[str] = []
    admitted: list[tuple[Variant, Backend]] = []
    for candidate in candidates:
        said = len(refusals)
        for variant in candidate.variants():
            fits, reason = variant.supports(rule, shape, dtype)
            if fits and variant.numerics in ("bitwise", candidate.numerics):
                admitted.append((variant, candidate))
            elif (fits or reason) and not admitted:
                own = f"its numerics are {variant.numerics}" if fits else reason
                refusals.append(f"{variant.name}: {own}")
        if len(refusals) == said and not admitted:
            refusals.append(f"{candidate.name}: no kernel for {rule.name} yet")
        if admitted and wished is not None:
            break
    if not admitted:
        advice = f"memopt_ref.backends.status() lists them ({'; '.join(refusals) or 'none is available'})."
        advice += resorts(library)
        wanted = "a backend with a kernel for it"
        raise BackendError(source, f"{rule.name} on {library} arrays", wanted, advice)
    why = "; ".join(refusals) or _why(rule, wished, source, len(known))
    numerics = admitted[0][0].numerics
    rivals = tuple(pair for pair in admitted[1:] if pair[0].numerics == numerics)
    return _drawn(Choice(*admitted[0], why, {}, rivals))


def _drawn(choice: Choice) -> Choice:
    """The choice itself, unless chance is to choose and there is anything to choose from."""
    if modes.mode() != "random" or not (choice.rivals or choice.variant.knobs):
        return choice
    own, rivals = (choice.variant, choice.backend), choice.rivals
    variant, backend = modes.draw([own, *rivals])
    knobs = modes.draw(variant.combinations(threads_available()))
    others = tuple(r for r in (own, *rivals) if r[0] is not variant)
    why = f"{label(variant.name, knobs)} was drawn at random (seed {modes.seed()})"
    return Choice(variant, backend, why, knobs, others, tuned=True)


def _why(rule: Rule, wished: Backend | None, source: str, rivals: int) -> str:
    if wished is not None:
        return f"use_backend({wished.name!r})" if source == "use_backend" else f"{source}={wished.name!r}"
    if rivals == 1:
        return f"the only backend with a kernel for {rule.name}"
    return "the first available backend with a kernel for it"
