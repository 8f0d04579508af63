"""Which kernel steps which tensor, and the order in which a wish is heard.

The implementation is chosen by, in this order: the argument ``backend=``, ``with use_backend(...)``, the
environment variable ``MEMOPT_BACKEND``, and otherwise automatically: the first available backend for the
arrays' library that has a kernel for the rule.
"""

from __future__ import annotations

import os
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, NamedTuple

from memopt_ref.errors import BackendError
from memopt_ref.rules.base import Rule

from .registry import Backend, Variant, automatic, ready

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
    """The kernel chosen for a tensor, its backend, and why."""

    variant: Variant
    backend: Backend
    why: str


def select(
    rule: Rule, shape: tuple[int, ...], dtype: Any, library: str = "numpy", backend: str = "auto"
) -> Choice:
    """The kernel that steps a tensor of this shape and dtype with this rule.

    Only ``bitwise`` variants compete. Where the wished backend has no kernel for these options the
    reference steps in, and the reason is kept for ``explain()``.

    Raises
    ------
    BackendError
        Unknown, unavailable, or for arrays of another library.

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
    rivals = automatic(library)
    candidates = rivals if wished is None else [wished, *(b for b in rivals[-1:] if b is not wished)]
    refusals: list[str] = []
    for candidate in candidates:
        said = len(refusals)
        for variant in candidate.variants():
            fits, reason = variant.supports(rule, shape, dtype)
            if fits and variant.numerics == "bitwise":
                why = "; ".join(refusals) or _why(rule, wished, source, len(rivals))
                return Choice(variant, candidate, why)
            if fits or reason:
                own = f"its numerics are {variant.numerics}" if fits else reason
                refusals.append(f"{variant.name}: {own}")
        if len(refusals) == said:
            refusals.append(f"{candidate.name}: no kernel for {rule.name} yet")
    advice = f"memopt_ref.backends.status() lists them ({'; '.join(refusals) or 'none is available'})."
    raise BackendError(source, f"{rule.name} on {library} arrays", "a backend with a kernel for it", advice)


def _why(rule: Rule, wished: Backend | None, source: str, rivals: int) -> str:
    if wished is not None:
        return f"use_backend({wished.name!r})" if source == "use_backend" else f"{source}={wished.name!r}"
    if rivals == 1:
        return f"the only backend with a kernel for {rule.name}"
    return "the first available backend with a kernel for it"
