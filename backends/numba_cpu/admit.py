"""Which element-wise rules a compiled loop serves bit for bit. Nothing here loads Numba.

The reasons are sentences for ``explain()``; whatever is refused runs on the reference.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterable
from typing import Any

import numpy as np

from memopt_ref.errors import MemoptError
from memopt_ref.parts import scalar
from memopt_ref.parts.slots import Slot, compute_dtype
from memopt_ref.rules.base import Rule
from memopt_ref.rules.elementwise import Elementwise, Expression, parameters

from .kinds import kind_of

#: What a kernel takes the place of: a rule that overrides one of these means something else by it.
_REPLACED = ("step", "values_dense", "values", "advance", "decayed", "decay_rate")
_OPERATORS = {"+", "-", "*", "/", "+=", "-=", "*=", "/=", "&", "|"}


def refusal(rule: Elementwise, shape: tuple[int, ...], dtype: Any) -> str:
    """Why no compiled loop steps this tensor; empty if one does.

    Parameters
    ----------
    rule : Elementwise
        As built, perhaps with schedules.
    shape : tuple of int
    dtype : dtype
        The parameter's.

    Examples
    --------
    >>> from memopt_ref.rules.adam import Adam
    >>> from memopt_ref.rules.ftrl import FTRLProximal
    >>> refusal(Adam(), (3, 4), np.dtype("float32"))
    ''
    >>> refusal(FTRLProximal(lr_power=-0.2), (3,), np.dtype("float32"))
    'iterate_power() uses power, whose last bit differs between mathematical libraries'
    """
    if kind_of(np.dtype(dtype)) is None:
        return f"no kernel for {np.dtype(dtype)}"
    own = [name for name in _REPLACED if getattr(type(rule), name) is not getattr(Elementwise, name)]
    if own or rule.native_rows or rule.couples_rows:
        what = f"{own[0]}()" if own else "row-sparse step"
        return f"{rule.name} has a {what} of its own"
    slots = rule.slots(shape, dtype)
    for name, slot in slots.items():
        if not _fits(name, slot, shape, dtype):
            return f"slot {name!r} has not one number of the compute dtype for each entry"
    try:
        numbers = rule.at(1).coefficients(1)
        expression = rule.expression(slots.keys())
    except MemoptError as error:
        return str(error)
    return of_expression(expression, tuple(n for n, s in slots.items() if not s.is_counter), tuple(numbers))


def decay_of(rule: Rule, w: Any) -> tuple[str, float]:
    """How ``rule.decayed`` changes an entry, and by which number, computed as it does."""
    if rule.weight_decay == 0:
        return "none", 1.0
    if rule.weight_decay_mode == "l2":
        return "l2", float(rule.weight_decay)
    return "factor", float(1.0 - rule.weight_decay * rule.decay_rate(w))


def of_family(rule: Rule, family: type[Rule], replaced: Iterable[str], dtype: Any) -> str:
    """Why a family's kernel does not step this rule's tensors of a dtype; empty if it may.

    Parameters
    ----------
    rule : Rule
        Of the family or derived from it.
    family : type
        The rule that the kernel was written for.
    replaced : iterable of str
        The methods that the kernel takes the place of: a rule that overrides one means something else by it.
    dtype : dtype
        The parameter's.

    Examples
    --------
    >>> from memopt_ref.rules.sgd import SGD
    >>> of_family(SGD(), SGD, ["step"], "float32"), of_family(SGD(), SGD, ["step"], "int8")
    ('', 'no kernel for int8')
    """
    for name in replaced:
        if getattr(type(rule), name) is not getattr(family, name):
            return f"{rule.name} has a {name}() of its own"
    return "" if kind_of(np.dtype(dtype)) is not None else f"no kernel for {np.dtype(dtype)}"


def _fits(name: str, slot: Slot, shape: tuple[int, ...], dtype: Any) -> bool:
    if slot.is_counter:
        return name == "t"
    whole = slot.shape == shape and slot.axes == tuple(range(len(shape)))
    return whole and slot.dtype == compute_dtype(dtype)


@functools.cache
def of_expression(expression: Expression, slots: tuple[str, ...], numbers: tuple[str, ...]) -> str:
    """Why an expression cannot be compiled with the reference's bits; empty if it can."""
    name = getattr(expression, "__name__", repr(expression))
    if not isinstance(expression, types.FunctionType) or expression.__closure__ or expression.__defaults__:
        return f"{name} is not a plain function of its module"
    returned = getattr(expression, "returns", ())
    strangers = [p for p in parameters(expression) if p not in {"w", "g", *slots, *numbers}]
    missing = [p for p in ("w", *slots) if p not in returned]
    if strangers or missing or expression.__code__.co_flags & 0x0C:
        return f"{name}() does not take and return exactly w, the slots and coefficients"
    literals = [c for c in expression.__code__.co_consts if c is not None and not isinstance(c, str)]
    if literals:
        return f"{name}() holds the literal {literals[0]!r}, which is no number of the compute dtype"
    for instruction in dis.get_instructions(expression):
        if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
            return f"{name}() has a branch or a loop"
        if instruction.opname == "BINARY_OP" and instruction.argrepr not in _OPERATORS:
            return f"{name}() uses the operator {instruction.argrepr}"
    for called in expression.__code__.co_names:
        found = expression.__globals__.get(called, getattr(scalar, called, None))
        if found is not scalar and (called not in scalar.__all__ or found is not getattr(scalar, called)):
            return f"{name}() uses {called}, which is not in memopt_ref.parts.scalar"
        if called == "power":
            return f"{name}() uses power, whose last bit differs between mathematical libraries"
    return ""
