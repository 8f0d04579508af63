"""From a choice to the fastest one: what this process knows, what the disk knows, and what is measured.

Measuring is bounded: seconds a key, seconds a process, one process at a time on a machine; the others wait
for it, within their own bounds, and take what it found. A forked child measures nothing, since the threads of
its parent are gone.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from memopt_ref.errors import MemoptError
from memopt_ref.rules.base import Rule

from .candidates import candidates, label, names
from .key import Key, key_of, layout_of
from .machine import threads_available
from .modes import mode
from .where import HOST, Where, where_of

if TYPE_CHECKING:
    from ..selection import Choice
    from .store import Entry

#: Entries below which a tensor is stepped by the default: launching costs more there than any choice gains.
#: On a device smaller ones share a launch.
SMALLEST, SMALLEST_THERE = 2**16, 2**20
#: Seconds of measuring, compilation apart: for a key, and in a process.
KEY_SECONDS, PROCESS_SECONDS = 0.25, 2.0
#: Part of the processors that others may use while a speed is measured that is to be believed.
COMPANY = 0.1
#: What seconds are told by.
clock: Callable[[], float] = time.perf_counter


class Decision(NamedTuple):
    """The kernel that is taken for a key, its knobs, and where this comes from, in words."""

    variant: str
    knobs: dict[str, Any]
    why: str


_known: dict[Any, Decision] = {}
_spent = 0.0
_born = os.getpid()
_turn = threading.RLock()


def _after_fork() -> None:
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def forget() -> None:
    """Forget what this process knows and what it has spent; the disk is as it was."""
    global _spent
    _known.clear()
    _spent = 0.0


def settled(choice: Choice, rule: Rule, w: Any) -> Choice:
    """The choice for a tensor after what is known, or is measured now, as ``MEMOPT_TUNE`` says.

    Parameters
    ----------
    choice : Choice
        The default, of ``select``.
    rule : Rule
        As built.
    w : ndarray
        The parameter; only its shape, dtype and layout matter.

    Notes
    -----
    Costs a look into a dict where the same shape was settled before in this process.
    """
    how = mode()
    where = _where(choice, w) if how in ("load", "auto", "force") else None
    if where is None:
        return choice
    place = _place(choice, rule, w, where)
    try:
        found = _known.get(place)
    except TypeError:
        # A rule of someone's own that cannot be hashed cannot be recognised either.
        return choice
    if found is None:
        with _turn:
            found = _known.get(place) or _decided(choice, rule.as_built, w, how, where)
            _known[place] = found
    return applied(choice, found)


def _where(choice: Choice, w: Any) -> Where | None:
    """Where to measure: if a tensor is large enough, there is anything to choose from, and it is not done.

    With other bits than the reference's the default stays, and on a device without a clock.
    """
    anything = bool(choice.rivals) or bool(choice.variant.knobs)
    if choice.tuned or w.size < SMALLEST or not anything or choice.variant.numerics != "bitwise":
        return None
    where = where_of(choice, w)
    return where if where is HOST or w.size >= SMALLEST_THERE else None


def recalled(choice: Choice, rule: Rule, w: Any) -> Choice:
    """The choice after what this process knows already."""
    where = _where(choice, w) if mode() in ("load", "auto", "force") else None
    if where is None:
        return choice
    try:
        found = _known.get(_place(choice, rule, w, where))
    except TypeError:
        return choice
    return choice if found is None else applied(choice, found)


def applied(choice: Choice, decision: Decision) -> Choice:
    """The choice with another kernel, knobs and reason."""
    everybody = [(choice.variant, choice.backend), *choice.rivals]
    place = next(k for k, (variant, _) in enumerate(everybody) if variant.name == decision.variant)
    variant, backend = everybody.pop(place)
    why = f"{choice.why}; {decision.why}"
    rivals = tuple(everybody)
    return choice._replace(
        variant=variant, backend=backend, why=why, knobs=decision.knobs, rivals=rivals, tuned=True
    )


def _place(choice: Choice, rule: Rule, w: Any, where: Where) -> Any:
    return rule.as_built, w.shape, w.dtype, layout_of(w), names(choice), threads_available(), where.about


def _decided(choice: Choice, rule: Rule, w: Any, how: str, where: Where) -> Decision:
    try:
        key = key_of(rule, w.shape, w.dtype, layout_of(w), names(choice), threads_available(), where)
        if key not in _known:
            found = None if how == "force" else stored(choice, key)
            _known[key] = found or _measured(choice, rule, w.dtype, key, how, where)
        return _known[key]
    except Warning:
        raise
    except Exception as error:
        # A rule that takes its own sizes alone and not those of its bucket, or no memory for the arrays to
        # measure with: the step itself may well succeed.
        return _default(choice, f"{type(error).__name__}: {error}")


def _default(choice: Choice, because: str) -> Decision:
    return Decision(choice.variant.name, {}, f"not measured: {because}")


def stored(choice: Choice, key: Key) -> Decision | None:
    """What the disk knows of a key, if it makes sense here."""
    from . import store

    entry = store.read(key.text)
    if entry is None:
        return None
    if label(entry.variant, entry.knobs) not in {c.label for c in candidates(choice)}:
        store.warn(f"the measured speeds of {key.text} name a kernel or knobs that there are not")
        return None
    return decision_of(entry)


def decision_of(entry: Entry) -> Decision:
    """What an entry says."""
    chosen = label(entry.variant, entry.knobs)
    if chosen != entry.default and {chosen, entry.default} <= entry.seconds.keys():
        gain = 100 * (entry.seconds[entry.default] / max(entry.seconds[chosen], 1e-9) - 1)
        why = f"{chosen} was measured {gain:.0f} % faster than {entry.default}"
    elif chosen != entry.default:
        why = f"{chosen} takes the place of {entry.default}: {entry.wrong.get(entry.default, 'not timed')}"
    else:
        why = f"nothing was measured clearly faster than {chosen}"
    return Decision(entry.variant, dict(entry.knobs), why)


def _measured(choice: Choice, rule: Rule, dtype: Any, key: Key, how: str, where: Where) -> Decision:
    """Measure and keep; the default if there may be no measuring now."""
    global _spent
    if how == "load":
        return _default(choice, "MEMOPT_TUNE=load, and nothing is stored for it")
    if os.getpid() != _born:
        return _default(choice, "this process was forked")
    left = min(KEY_SECONDS, PROCESS_SECONDS - _spent) if how == "auto" else KEY_SECONDS
    if left <= 0:
        return _default(choice, f"the {PROCESS_SECONDS:g} s that a process may measure are over")
    entry, spent = measured(choice, rule, dtype, key, left, PROCESS_SECONDS, how == "force", where)
    _spent += spent
    if entry is None:
        return _default(choice, "another process was measuring")
    if entry.company > COMPANY:
        # The next measurement would have the same company.
        _spent = max(_spent, PROCESS_SECONDS)
        return _default(choice, f"other work took {100 * entry.company:.0f} % of the processors meanwhile")
    return decision_of(entry)


def measured(
    choice: Choice,
    rule: Rule,
    dtype: Any,
    key: Key,
    seconds: float,
    patience: float,
    anew: bool,
    where: Where = HOST,
) -> tuple[Entry | None, float]:
    """Measure a key and keep what was found, unless the machine was busy; or take what another process found.

    Parameters
    ----------
    choice, rule, dtype, key
        The default, the rule as built, the parameter's dtype, and their key.
    seconds : float
        For measuring, compilation apart.
    patience : float
        Seconds to wait while another process measures.
    anew : bool
        Whatever is stored.
    where : Where
        The host, or a device of the parameter's.

    Returns
    -------
    entry, spent
        None after waiting in vain; the seconds it took, compilation apart.
    """
    from . import measure, store

    everybody, ticks = candidates(choice), where.clock or clock
    compared = measure.compare(rule, dtype, key, everybody, ticks, where)
    begin, limit = clock(), seconds - compared.spent
    with _one_at_a_time(patience) as alone:
        if not alone:
            return None, compared.spent + clock() - begin
        if not anew and stored(choice, key) is not None and (entry := store.read(key.text)) is not None:
            return entry, compared.spent + clock() - begin
        result = measure.timed(rule, dtype, key, compared, limit, ticks, where)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = store.Entry(
            key=key.text,
            variant=result.chosen.variant.name,
            knobs=result.chosen.knobs,
            default=everybody[0].label,
            seconds=result.seconds,
            slow=compared.slow,
            wrong=compared.wrong,
            rounds=result.rounds,
            company=result.company,
            measured=now,
        )
        if entry.company <= COMPANY:
            store.write(entry)
    return entry, compared.spent + clock() - begin


@contextlib.contextmanager
def _one_at_a_time(patience: float) -> Iterator[bool]:
    """Whether no other process of this user measures, waiting for so long; a lock dies with its process."""
    import filelock

    from . import store

    try:
        lock = filelock.FileLock(store.prepared() / "measure.lock", timeout=patience)
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    except (OSError, NotImplementedError, MemoptError):
        # No folder to put a lock in: what cannot be kept is measured by everyone.
        yield True
        return
    try:
        yield True
    finally:
        lock.release()
