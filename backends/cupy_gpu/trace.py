"""A rule's one expression as CUDA C: called once with names in place of numbers, it says what it computes.

Each operation becomes one statement of the compute type, in the order in which the expression has them, so
that the compiler is left no choice of association:

    adagrad(w, g, s, learning_rate, eps_root, eps)  ->      const Real e1 = g_ * g_;
                                                            const Real e2 = s_ + e1;
                                                            ...

Only what ends in ``w`` or a slot is kept. The functions are those of :mod:`memopt_ref.parts.scalar`; the text
has others of the same names, and the same bits, in ``common.cuh``.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memopt_ref.parts import scalar
from memopt_ref.rules.elementwise import Expression, parameters

#: What ``common.cuh`` calls the functions of :mod:`memopt_ref.parts.scalar`.
FUNCTIONS = {
    "sqrt": "square_root",
    "absolute": "absolute",
    "sign": "sign",
    "maximum": "maximum",
    "minimum": "minimum",
    "select": "select",
    "ratio": "ratio",
}


class Traced(NamedTuple):
    """Statements in order, and by the name of each member of the result the name that holds it."""

    statements: tuple[str, ...]
    results: dict[str, str]


class UntraceableError(Exception):
    """The expression does what has no statement in C with the same bits."""


class _Program:
    """The statements so far: which name holds what, computed from which other names."""

    def __init__(self) -> None:
        self.lines: dict[str, tuple[str, tuple[str, ...]]] = {}

    def operation(self, text: str, *operands: Any, kind: str = "Real") -> Symbol:
        """One more statement; ``text`` has a ``{}`` for each operand."""
        for x in operands:
            if not isinstance(x, Symbol):
                raise UntraceableError(f"the literal {x!r}, which is no number of the compute dtype")
        names = tuple(x.name for x in operands)
        name = f"e{len(self.lines) + 1}"
        self.lines[name] = f"const {kind} {name} = {text.format(*names)};", names
        return Symbol(self, name, kind)

    def needed(self, names: Sequence[str]) -> tuple[str, ...]:
        """The statements that these names depend on, in order."""
        kept, waiting = set(), list(names)
        while waiting:
            name = waiting.pop()
            if name in self.lines and name not in kept:
                kept.add(name)
                waiting += self.lines[name][1]
        return tuple(line for name, (line, _) in self.lines.items() if name in kept)


class Symbol:
    """A number, or the truth of a comparison, that is known by name only."""

    __array_ufunc__ = None

    def __init__(self, program: _Program, name: str, kind: str = "Real") -> None:
        self.program, self.name, self.kind = program, name, kind

    def __bool__(self) -> bool:
        raise UntraceableError("a branch")

    def __neg__(self) -> Symbol:
        return self.program.operation("-{}", self)

    __hash__ = None  # type: ignore[assignment]


def _binary(sign: str, takes: str = "Real", gives: str = "Real") -> Any:
    def method(x: Symbol, y: Any) -> Symbol:
        if x.kind != takes or (isinstance(y, Symbol) and y.kind != takes):
            raise UntraceableError(f"the operator {sign} on {x.kind}")
        return x.program.operation(f"{{}} {sign} {{}}", x, y, kind=gives)

    return method


def _reflected(sign: str) -> Any:
    def method(x: Symbol, y: Any) -> Symbol:
        return x.program.operation(f"{{}} {sign} {{}}", y, x)

    return method


for _name, _sign in {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}.items():
    setattr(Symbol, f"__{_name}__", _binary(_sign))
    setattr(Symbol, f"__r{_name}__", _reflected(_sign))
for _name, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}.items():
    setattr(Symbol, f"__{_name}__", _binary(_sign, gives="bool"))
for _name, _sign in {"and": "&", "or": "|"}.items():
    setattr(Symbol, f"__{_name}__", _binary(_sign, takes="bool", gives="bool"))


def _function(name: str) -> Callable[..., Symbol]:
    def call(*operands: Any) -> Symbol:
        programs = [x.program for x in operands if isinstance(x, Symbol)]
        if not programs or name not in FUNCTIONS:
            raise UntraceableError(f"the function {name}")
        places = ", ".join("{}" for _ in operands)
        return programs[0].operation(f"{FUNCTIONS[name]}({places})", *operands)

    return call


_TRACED = types.SimpleNamespace(**{name: _function(name) for name in scalar.__all__})


def _rebound(value: Any) -> Any:
    """What stands in for a global of the expression: for a function of ``parts.scalar``, its text.

    Another expression, which this one calls, is retold too.
    """
    if value is scalar:
        return _TRACED
    for name in scalar.__all__:
        if value is getattr(scalar, name):
            return getattr(_TRACED, name)
    return _retold(value) if hasattr(value, "returns") and isinstance(value, types.FunctionType) else value


def _retold(expression: Any) -> Any:
    """The same function among the functions that write."""
    code = expression.__code__
    names = {name: _rebound(x) for name, x in expression.__globals__.items() if name in code.co_names}
    return types.FunctionType(code, names)


@functools.cache
def trace(expression: Expression, wanted: tuple[str, ...]) -> Traced:
    r"""The statements that compute some members of an expression's result.

    Parameters
    ----------
    expression : function
        Of ``w``, ``g``, slots and coefficients, marked with ``returns``; admitted by
        :mod:`memopt_ref.backends.numba_cpu.admit`.
    wanted : tuple of str
        Members of its result. The arguments are read by their names with ``_`` at the end.

    Raises
    ------
    UntraceableError
        It holds a literal or a branch, or calls what ``FUNCTIONS`` does not name.

    Examples
    --------
    >>> from memopt_ref.rules.sgd import sgd
    >>> print(*trace(sgd, ("w",)).statements, sep="\n")
    const Real e1 = learning_rate_ * g_;
    const Real e2 = w_ - e1;
    """
    program = _Program()
    members = _retold(expression)(*(Symbol(program, f"{name}_") for name in parameters(expression)))
    results = dict(zip(expression.returns, members, strict=True))  # type: ignore[attr-defined]
    held = {}
    for name in wanted:
        if not isinstance(results[name], Symbol):
            raise UntraceableError(f"the literal {results[name]!r}")
        held[name] = results[name].name
    return Traced(program.needed(list(held.values())), held)
