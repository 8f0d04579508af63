"""A rule as the hyper-parameters of one of torch's parameter groups, and back.

A group shows every number of its rule under the rule's own name, except where torch has another one:
``lr`` for ``learning_rate``, and ``betas`` where there are both ``beta1`` and ``beta2``. What is written
there, by a learning-rate scheduler for example, holds from the next step on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from ..errors import HyperparameterError
from ..parts.schedule import Schedule
from ..rules.base import Rule

#: What torch writes into a group, or this module does: never a hyper-parameter.
_OWN = frozenset({"params", "param_names", "rule", "step", "lr", "initial_lr"})
_GLOSSARY = frozenset(
    {
        "betas",
        "beta1",
        "beta2",
        "momentum",
        "dampening",
        "nesterov",
        "eps",
        "eps_root",
        "weight_decay",
        "initial_accumulator",
    }
)

Group = dict[str, Any]
#: Key in the group and, for a pair, the place in it.
Place = tuple[str, int | None]


@dataclasses.dataclass(frozen=True, eq=False)
class FromGroup(Schedule):
    """The number that a parameter group holds at the moment, as a schedule.

    Examples
    --------
    >>> group = {"lr": 0.1}
    >>> learning_rate = FromGroup(group, ("lr", None))
    >>> group["lr"] = 0.01
    >>> learning_rate(1)
    0.01
    """

    group: Group = dataclasses.field(repr=False)
    place: Place

    def __call__(self, step: int) -> float:
        """The group's number; a Schedule in the group is taken at ``step``."""
        value = look_up(self.group, self.place)
        if isinstance(value, Schedule):
            return value(step)
        if isinstance(value, bool) or not isinstance(value, int | float):
            wanted = "a number or a Schedule"
            raise HyperparameterError(
                _shown(self.place), repr(value), wanted, "Write a number into the group."
            )
        return value


def look_up(group: Mapping[str, Any], place: Place) -> Any:
    """What the group holds at this place; a 0-d tensor as its number."""
    key, index = place
    value = group[key] if index is None else group[key][index]
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _shown(place: Place) -> str:
    key, index = place
    return f"param_groups[...][{key!r}]" + ("" if index is None else f"[{index}]")


def places(rule: Rule) -> dict[str, Place]:
    """Where a group shows each number of the rule that may change between steps.

    >>> from memopt_ref.rules.adam import Adam
    >>> places(Adam())["learning_rate"], places(Adam())["beta2"]
    (('lr', None), ('betas', 1))
    """
    numbers = [f.name for f in dataclasses.fields(rule) if _may_be_scheduled(f)]
    paired = {"beta1", "beta2"} <= set(numbers)
    found: dict[str, Place] = {}
    for name in numbers:
        if name == "learning_rate":
            found[name] = ("lr", None)
        elif paired and name in ("beta1", "beta2"):
            found[name] = ("betas", ("beta1", "beta2").index(name))
        else:
            found[name] = (name, None)
    return found


def _may_be_scheduled(field: dataclasses.Field[Any]) -> bool:
    try:
        field.metadata["check"](field.name, Schedule())
    except (KeyError, HyperparameterError):
        return False
    return True


def shown(rule: Rule) -> Group:
    """The keys and numbers of a group with this rule.

    >>> from memopt_ref.rules.sgd import SGD
    >>> shown(SGD(momentum=0.9))
    {'lr': 0.01, 'weight_decay': 0.0, 'momentum': 0.9, 'dampening': 0.0}
    """
    group: Group = {}
    pairs: dict[str, dict[int, Any]] = {}
    for name, (key, index) in places(rule).items():
        if index is None:
            group[key] = getattr(rule, name)
        else:
            pairs.setdefault(key, {})[index] = getattr(rule, name)
            group[key] = None
    return group | {key: (pair[0], pair[1]) for key, pair in pairs.items()}


def with_rule(group: Mapping[str, Any], rule: Rule) -> Group:
    """A group as given by the user, with its own rule in it and every number of that rule shown.

    Parameters
    ----------
    group : mapping
        ``params`` and, if wished, hyper-parameters that differ from the rule's, by the rule's names or by
        torch's. Other keys stay; a misspelt hyper-parameter, or one that the rule does not have, is an error.
    rule : Rule
        The rule that these change.
    """
    rest, changes = dict(group), {}
    where = places(rule)
    for name in (f.name for f in dataclasses.fields(rule)):
        place = where.get(name, (name, None))
        if place[0] in rest:
            try:
                changes[name] = look_up(rest, place)
            except (TypeError, LookupError) as error:
                got = repr(rest[place[0]])
                raise HyperparameterError(place[0], got, "a pair of numbers", "Pass (0.9, 0.999).") from error
        if name in rest:
            changes[name] = look_up(rest, (name, None))
    for key in {*changes, *(where[name][0] for name in changes if name in where)}:
        rest.pop(key, None)
    _check_strangers(rest, rule, where.values())
    own = rule.replace(**changes)
    return {**rest, "rule": own, **shown(own)}


def _check_strangers(rest: Mapping[str, Any], rule: Rule, known: Iterable[Place]) -> None:
    names = sorted({f.name for f in dataclasses.fields(rule)} | {key for key, _ in known})
    for key in rest:
        if key in _OWN:
            continue
        near = get_close_matches(key, names, n=1, cutoff=0.8)
        if key in _GLOSSARY or near:
            advice = f"Did you mean {near[0]!r}?" if near else f"{rule.name} has no such hyper-parameter."
            raise HyperparameterError("param group", repr(key), f"one of {', '.join(names)}", advice)


def live(group: Group, shapes: Iterable[tuple[tuple[int, ...], Any]]) -> tuple[Rule, dict[str, Any]]:
    """The group's rule with its numbers taken from the group at every step.

    Parameters
    ----------
    group : dict
        With its rule and numbers.
    shapes : iterable of (shape, dtype)
        The parameters'. A number that decides which slots they need (a momentum of 0 has none) cannot change.

    Returns
    -------
    rule : Rule
    fixed : dict
        The numbers that cannot change, by the rule's names.
    """
    built: Rule = group["rule"]
    rule, kinds, fixed = built, set(shapes), {}
    wanted = [_layout(built, *kind) for kind in kinds]
    for name, place in places(built).items():
        value = getattr(built, name)
        try:
            candidate = rule.replace(**{name: FromGroup(group, place)})
            same = value is not None and [_layout(candidate, *kind) for kind in kinds] == wanted
        except HyperparameterError:
            same = False
        if same:
            rule = candidate
        else:
            fixed[name] = value
    return rule, fixed


def _layout(rule: Rule, shape: tuple[int, ...], dtype: Any) -> dict[str, tuple[Any, ...]]:
    return {name: (slot.shape, slot.dtype) for name, slot in rule.slots(shape, dtype).items()}


def check_numbers(group: Group, shapes: Iterable[tuple[tuple[int, ...], Any]]) -> None:
    """Raise HyperparameterError if a number is out of range, or has changed and cannot."""
    rule, fixed = live(group, shapes)
    check_fixed(group, fixed)
    rule.at(1)


def check_fixed(group: Group, fixed: Mapping[str, Any]) -> None:
    """Raise HyperparameterError if a number that cannot change has changed."""
    for name, value in fixed.items():
        place = places(group["rule"])[name]
        now = look_up(group, place)
        if now != value:
            wanted = f"{value!r}, as when the optimizer was made: it decides what state there is"
            advice = "Make the optimizer with this value (schedulers: cycle_momentum=False)."
            raise HyperparameterError(_shown(place), repr(now), wanted, advice)
