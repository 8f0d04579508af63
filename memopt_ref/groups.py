"""Which rule steps which leaf: groups by glob or predicate, the first match wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from .errors import HyperparameterError, PatternError
from .rules.base import Rule

Pattern = str | Callable[[str, Any], bool]


def assign(leaves: Mapping[str, Any], rule: Rule, groups: Iterable[Any]) -> dict[str, Rule]:
    """The rule of every leaf.

    Parameters
    ----------
    leaves : mapping of path to array
    rule : Rule
        For the leaves that no group matches.
    groups : iterable of (pattern, Rule)
        A pattern is a glob over the whole path, in which ``*`` also matches ``/``, or a function of (path,
        array).

    Returns
    -------
    dict
        Rule by path, in the order of ``leaves``.

    Raises
    ------
    PatternError
        A pattern matches no leaf at all. One whose leaves earlier groups took is fine.
    HyperparameterError
        A group is not a pair, or its rule is not a Rule.

    Examples
    --------
    >>> from memopt_ref.rules.sgd import SGD
    >>> rules = assign({"a/bias": 0, "a/kernel": 0}, SGD(), [("*bias", SGD(learning_rate=1.0))])
    >>> rules["a/bias"].learning_rate, rules["a/kernel"].learning_rate
    (1.0, 0.01)
    """
    check_rule("rule", rule)
    chosen: dict[str, Rule] = {}
    for number, group in enumerate(groups):
        where = f"groups[{number}]"
        if isinstance(group, str) or not isinstance(group, tuple | list) or len(group) != 2:
            advice = "Write ('*.bias', Adam()), for example."
            raise HyperparameterError(where, repr(group), "a pair (pattern, rule)", advice)
        pattern, its_rule = group
        check_rule(where, its_rule)
        matched = [path for path, w in leaves.items() if _matches(where, pattern, path, w)]
        if not matched:
            wanted = "a pattern that matches a leaf"
            raise PatternError(where, _named(pattern), wanted, _similar(pattern, leaves))
        for path in matched:
            chosen.setdefault(path, its_rule)
    return {path: chosen.get(path, rule) for path in leaves}


def check_rule(where: str, rule: Any) -> None:
    """Raise HyperparameterError unless ``rule`` is a Rule (and not its class)."""
    if isinstance(rule, type) and issubclass(rule, Rule):
        got, advice = f"the class {rule.__name__}", f"Make one: {rule.__name__}()."
        raise HyperparameterError(where, got, "a rule", advice)
    if not isinstance(rule, Rule):
        advice = "Pass one such as memopt_ref.Adam()."
        raise HyperparameterError(where, f"a {type(rule).__name__}", "a rule", advice)


def _matches(where: str, pattern: Any, path: str, w: Any) -> bool:
    if isinstance(pattern, str):
        return fnmatchcase(path, pattern)
    if callable(pattern):
        return bool(pattern(path, w))
    got, wanted = f"a pattern of type {type(pattern).__name__}", "a glob or a function of (path, array)"
    raise PatternError(where, got, wanted, "Write '*.bias', for example.")


def _named(pattern: Any) -> str:
    if isinstance(pattern, str):
        return repr(pattern)
    return f"the function {getattr(pattern, '__name__', pattern)}"


def _similar(pattern: Any, leaves: Mapping[str, Any]) -> str:
    near = get_close_matches(str(pattern), list(leaves), n=3, cutoff=0.4) or list(leaves)[:3]
    return f"Paths look like {', '.join(map(repr, near))}." if near else "There are no leaves."
