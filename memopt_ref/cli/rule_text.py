"""Rules from the command line: ``Adam, SM3(momentum=0.9), CountSketchAdam(compression=5)``.

The text is parsed as Python but never evaluated: only calls of the library's own rules and covers with
literal arguments have a meaning.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any

import memopt_ref

from ..errors import HyperparameterError
from ..planned import label
from ..rules.base import Rule

_WANTED = "rules such as Adam or SM3(momentum=0.9), joined by commas"


def known_names() -> dict[str, str]:
    """What may be called, by its lower-case name: every rule and cover of the public names."""
    rooms = [
        names for home, names in memopt_ref._NAMES.items() if home.startswith(("rules.", "parts.covers"))
    ]
    return {name.lower(): name for names in rooms for name in names if name != "Rule"}


def parse_rules(text: str, where: str = "--rules") -> dict[str, Rule]:
    """The rules that a text names, by the text of each.

    Parameters
    ----------
    text : str
        Calls joined by commas; the names are those of the library in any case, arguments are literals.
    where : str
        What an error message names.

    Returns
    -------
    dict
        Name to rule, in the order of the text.

    Raises
    ------
    HyperparameterError
        Not such a text, an unknown name, or a hyper-parameter outside its range.

    Examples
    --------
    >>> parse_rules("sgd, Adam(beta1=0.5)")["Adam(beta1=0.5)"].beta1
    0.5
    """
    try:
        parsed = ast.parse(f"[{text.strip()}]", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise HyperparameterError(where, repr(text), _WANTED, "Check the brackets and quotes.") from None
    if not isinstance(parsed, ast.List) or not parsed.elts:
        raise HyperparameterError(where, repr(text), _WANTED, "Name at least one rule.")
    rules: dict[str, Rule] = {}
    for element in parsed.elts:
        made = _value(element, where)
        if not isinstance(made, Rule):
            raise HyperparameterError(where, ast.unparse(element), _WANTED, "Name a rule.")
        name = ast.unparse(element) if isinstance(element, ast.Call) and element.keywords else label(made)
        if name in rules:
            raise HyperparameterError(where, f"{name} twice", "distinct rules", "Leave one out.")
        rules[name] = made
    return rules


def _value(node: ast.expr, where: str) -> Any:
    if isinstance(node, ast.Name):
        return _call(node, [], {}, where)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = {str(k.arg): _value(k.value, where) for k in node.keywords if k.arg is not None}
        if len(arguments) == len(node.keywords):
            return _call(node.func, [_value(a, where) for a in node.args], arguments, where)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(member, where) for member in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise HyperparameterError(
            where, ast.unparse(node), "a literal or a rule", "Write the value out."
        ) from None


def _call(function: ast.Name, positional: Sequence[Any], keywords: dict[str, Any], where: str) -> Any:
    names = known_names()
    if function.id.lower() not in names:
        wanted = "one of " + ", ".join(sorted(names.values()))
        raise HyperparameterError(where, repr(function.id), wanted, "Check the spelling.")
    kind = getattr(memopt_ref, names[function.id.lower()])
    try:
        return kind(*positional, **keywords)
    except TypeError as error:
        wanted = "arguments among " + ", ".join(f.name for f in dataclasses.fields(kind))
        raise HyperparameterError(
            f"{where} {kind.__name__}", str(error), wanted, "Give them by name."
        ) from None
