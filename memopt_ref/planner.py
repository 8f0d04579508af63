"""How many bytes of state a rule needs for a model, exactly, before anything is allocated.

The bytes follow from ``rule.slots(shape, dtype)`` alone, the declaration that ``init`` allocates from.
Counters (a tensor's own step count, seeds) are shown apart from accumulators: papers count the latter only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import HyperparameterError, MemoptError
from .groups import Pattern, assign
from .planned import LeafPlan, Plan, RulePlan, label
from .rules.base import Rule
from .shapes import ShapeDtype, Shapes, shapes_of

Groups = Iterable[tuple[Pattern, Rule]]


def plan(params: Any, rules: Any, *, groups: Groups = (), dtype: Any = "float32") -> Plan:
    """What each rule would keep for these parameters, from their shapes and dtypes alone.

    Parameters
    ----------
    params : tree
        Arrays, or in a tree of shapes a tuple of ints is a leaf.
    rules : Rule, list of rules, or dict of name to rule
        What to compare.
    groups : iterable of (pattern, Rule)
        As the Optimizer takes them: leaves that a glob or predicate matches keep that rule
        in every comparison.
    dtype : dtype
        Of the leaves that are tuples of ints.

    Returns
    -------
    Plan
        A rule that cannot serve a leaf is reported there, not raised.

    Raises
    ------
    ShapeError, DtypeError
        A leaf that is no parameter.
    PatternError
        A pattern that matches no leaf.
    HyperparameterError
        What came is no rule.

    Examples
    --------
    >>> import memopt_ref as mo
    >>> print(mo.plan({"emb": (50257, 768), "b": (768,)}, [mo.SGD(), mo.Adam()]))
    38,598,144 parameters in 2 tensors: 147.2 MiB, gradients the same
    rule  accumulators  counters  bytes/parameter  with parameters and gradients
    SGD              0         0                0                      294.5 MiB
    Adam   308,785,152        16                8                      589.0 MiB
    >>> mo.plan((50257, 768), mo.Adam()).fits("24GiB")
    ['Adam']
    """
    shapes = shapes_of(params, dtype)
    pairs = list(groups)
    return Plan(shapes, tuple(_rule_plan(name, rule, pairs, shapes) for name, rule in _named(rules).items()))


def state_nbytes(rule: Rule, shapes: Any, dtype: Any = "float32") -> int:
    """Bytes that ``rule.init`` allocates for these shapes, counters and all.

    Parameters
    ----------
    rule : Rule
    shapes : tree
        As in :func:`plan`.
    dtype : dtype
        Of the leaves that are tuples of ints.

    Returns
    -------
    int

    Raises
    ------
    MemoptError
        The rule cannot serve a leaf.

    Examples
    --------
    >>> from memopt_ref.rules.adam import Adam
    >>> state_nbytes(Adam(), (10**6, 10**6))
    8000000000008
    """
    (found,) = plan(shapes, rule, dtype=dtype).rules
    for leaf in found.refused:
        raise leaf.error()
    return found.state_nbytes


def _named(rules: Any) -> dict[str, Rule]:
    """Every form of ``rules`` by name."""
    if isinstance(rules, Mapping):
        return {str(name): rule for name, rule in rules.items()}
    if not isinstance(rules, Rule | list | tuple):
        wanted = "a rule, a list of rules or a dict of them"
        raise HyperparameterError("rules", repr(rules), wanted, "Pass an instance such as Adam().")
    named: dict[str, Rule] = {}
    for rule in [rules] if isinstance(rules, Rule) else rules:
        name = label(rule) if isinstance(rule, Rule) else repr(rule)
        named[name if name not in named else f"{name} #{len(named) + 1}"] = rule
    return named


def _rule_plan(name: str, rule: Rule, groups: Groups, shapes: Shapes) -> RulePlan:
    known: dict[Any, LeafPlan] = {}
    leaves = []
    for path, chosen in assign(shapes, rule, groups).items():
        key = (id(chosen), shapes[path])
        if key not in known:
            known[key] = _leaf_plan(chosen, shapes[path])
        leaves.append(dataclasses.replace(known[key], path=path))
    return RulePlan(name, tuple(leaves))


def _leaf_plan(rule: Rule, leaf: ShapeDtype) -> LeafPlan:
    refusal, slots = None, {}
    try:
        slots = rule.slots(leaf.shape, leaf.dtype)
    except MemoptError as error:
        refusal = error
    return LeafPlan(
        path="",
        rule=rule,
        shape=leaf.shape,
        dtype=str(leaf.dtype),
        slots={name: slot.nbytes for name, slot in slots.items()},
        counter_nbytes=sum(slot.nbytes for slot in slots.values() if slot.is_counter),
        refusal=refusal,
    )
