"""Whether a file holds what the parameters and their rules ask for: no slot more or less, nothing cast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointMismatchError, MemoptError
from ..groups import Pattern, assign, check_rule
from ..parts.slots import Slot
from ..rules.base import Rule
from .header import Header, Leaf
from .layout import kind
from .values import NotStored

_ADVICE = "Nothing is cast: load with the parameters and the rules that were saved."
_STEP = Slot((), np.dtype(np.int64))


class Wanted(NamedTuple):
    """A tensor that must be there: the leaf, what of it, and its declaration."""

    path: str
    what: str
    slot: Slot


def assigned(
    header: Header,
    arrays: Mapping[str, Any],
    stored: tuple[Rule | NotStored, ...],
    rule: Rule | None = None,
    groups: Iterable[tuple[Pattern, Rule]] = (),
) -> tuple[Rule, dict[str, Rule]]:
    """The default rule and the rule of every leaf: as stored, unless ``rule`` or ``groups`` take their place.

    Parameters
    ----------
    header : Header
    arrays : mapping of path to array
        Any object with a shape and a dtype will do.
    stored : tuple of Rule and NotStored
        As in the header, the default first.
    rule : Rule, optional
        For the leaves of the default rule.
    groups : iterable of (pattern, Rule)
        For the leaves that they match.

    Raises
    ------
    CheckpointMismatchError
        A leaf is missing, extra, or of another dtype or shape; or its rule is neither stored nor supplied.
    """
    nobody = Rule()
    supplied = assign(arrays, nobody, groups)
    if rule is not None:
        check_rule("rule", rule)
    default = stored[0] if rule is None else rule
    rules: dict[str, Rule] = {}
    for leaf in header.leaves():
        _check_leaf(header, leaf, arrays, len(stored))
        own: Rule | NotStored = supplied[leaf.path]
        if own is nobody:
            own = default if leaf.rule == 0 else stored[leaf.rule]
        if isinstance(own, NotStored):
            where, wanted = leaf.path or "parameter", "a rule that is stored whole, or supplied"
            advice = f"Pass load(..., {'rule=...' if leaf.rule == 0 else 'groups=[(pattern, rule)]'})."
            raise CheckpointMismatchError(where, f"a stored {own}", wanted, advice)
        rules[leaf.path] = own
    for path, w in arrays.items():
        if path not in rules:
            got, wanted = f"a parameter {kind(w.dtype, w.shape)}", f"nothing, as in {header.where}"
            raise CheckpointMismatchError(path or "parameter", got, wanted, _ADVICE)
    # A default that steps no leaf need not be known.
    return nobody if isinstance(default, NotStored) else default, {path: rules[path] for path in arrays}


def _check_leaf(header: Header, leaf: Leaf, arrays: Mapping[str, Any], rules: int) -> None:
    if leaf.rule >= rules:
        raise header.wrong(f"rule {leaf.rule} for {leaf.path[:60]!r}", f"one of {rules}")
    w = arrays.get(leaf.path)
    if w is None or kind(w.dtype, w.shape) != leaf.kind:
        got = "no parameter of this path" if w is None else f"a parameter {kind(w.dtype, w.shape)}"
        wanted = f"{leaf.kind}, as in {header.where}"
        raise CheckpointMismatchError(leaf.path or "parameter", got, wanted, _ADVICE)


def has_params(header: Header) -> bool:
    """Whether a parameter is stored; all must be, then."""
    return any(tensor.name.startswith("params/") for tensor in header.tensors())


def tensors_of(arrays: Mapping[str, Any], rules: Mapping[str, Rule], params: bool) -> dict[str, Wanted]:
    """The tensors that a checkpoint of these leaves must hold, by name.

    Examples
    --------
    >>> from memopt_ref.rules.adagrad import AdaGrad
    >>> list(tensors_of({"w": np.zeros(3)}, {"w": AdaGrad()}, params=True))
    ['step', 'state/w/s', 'params/w']
    """
    wanted = {"step": Wanted("the optimizer", "step", _STEP)}
    for path, rule in rules.items():
        for name, slot in _slots(path, rule, arrays[path]).items():
            wanted[f"state/{path}/{name}"] = Wanted(path, f"slot {name}", slot)
    for path, w in arrays.items() if params else ():
        wanted[f"params/{path}"] = Wanted(path, "the parameter itself", Slot(tuple(w.shape), w.dtype))
    return wanted


def _slots(path: str, rule: Rule, w: Any) -> dict[str, Slot]:
    try:
        return rule.slots(tuple(w.shape), w.dtype)
    except (MemoptError, ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as error:
        wanted = f"a rule that serves {kind(w.dtype, w.shape)}"
        got = f"{rule.name} ({str(error)[:200]})"
        raise CheckpointMismatchError(path or "parameter", got, wanted, _ADVICE) from error


def check_tensors(
    header: Header,
    wanted: Mapping[str, Wanted],
    rules: Mapping[str, Rule],
    unknown: frozenset[str] = frozenset(),
) -> None:
    """Raise unless the file has every tensor that is wanted, no other, each of its dtype and shape.

    Parameters
    ----------
    header : Header
    wanted : mapping of name to Wanted
    rules : mapping of path to Rule
        For the message.
    unknown : set of paths
        Leaves whose slots are not known, since their rule is not stored.

    Raises
    ------
    CheckpointMismatchError
        It names the leaf and the slot, what is stored and what is wanted.
    """
    found = 0
    for tensor in header.tensors():
        stored = f"{kind(tensor.dtype, tensor.shape)} stored"
        if tensor.name not in wanted:
            path, _, name = tensor.name.partition("/")[2].rpartition("/")
            if path not in unknown or not tensor.name.startswith("state/"):
                raise _mismatch(path, f"slot {name}", stored, "no such slot", rules)
            continue
        own, found = wanted[tensor.name], found + 1
        if (tensor.dtype, tensor.shape) != (own.slot.dtype, own.slot.shape):
            raise _mismatch(own.path, own.what, stored, kind(own.slot.dtype, own.slot.shape), rules)
    if found < len(wanted):
        there = {tensor.name for tensor in header.tensors()}
        own = next(own for name, own in wanted.items() if name not in there)
        wish = kind(own.slot.dtype, own.slot.shape)
        raise _mismatch(own.path, own.what, "nothing stored", wish, rules)


def _mismatch(
    path: str, what: str, got: str, wanted: str, rules: Mapping[str, Rule]
) -> CheckpointMismatchError:
    of = f" of {rules[path].name}" if path in rules else ""
    return CheckpointMismatchError(f"{path or 'parameter'}, {what}", got, wanted + of, _ADVICE)
