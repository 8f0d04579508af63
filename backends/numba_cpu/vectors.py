"""Vectors of sixteen numbers in compiled code, in LLVM's own terms, which name no processor.

For the few loops that LLVM does not vectorise by itself: a list of the places where a condition holds, 4-bit
codes, extremes of a short run. An address is an int64; nothing knows a bound. Where the processor has no such
vectors LLVM makes do with narrower ones, or writes out sixteen instructions for one: right, but perhaps slow,
so :func:`available` is asked first.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

from memopt_ref.parts import scalar

from .options import STRICT

LANES = 16


class Vector(types.Type):
    """Sixteen numbers of one kind, held in a register."""

    def __init__(self, name: str, lane: Any) -> None:
        super().__init__(name=name)
        self.lane = lane


FLOATS = Vector("float32x16", ir.FloatType())
INTEGERS = Vector("int32x16", ir.IntType(32))
TRUTHS = Vector("bool16", ir.IntType(1))


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is one value of LLVM's."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(kind.lane, LANES))


@functools.cache
def available() -> bool:
    """Whether these vectors are known to pay on the processor that code is compiled for: x86 with AVX2.

    Measured on MicroAdam: with AVX-512 under half the time of plain loops, with AVX2 three quarters of it.
    """
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith("x86_64") and bool({"+avx2", "+avx512f"} & set(features.split(",")))


def _instruction(returned: Any, *taken: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic of ``generate(builder, *values)``: arguments of these types in, one of that out."""

    def make(generate: Callable[..., Any]) -> Any:
        def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            out = generate(builder, *arguments)
            return context.get_dummy_value() if returned is types.void else out

        # Numba wants to see the number of arguments; it converts them to the types here, or refuses.
        def of_one(typing_context: Any, x: Any) -> Any:
            return returned(*taken), lower

        def of_two(typing_context: Any, x: Any, y: Any) -> Any:
            return returned(*taken), lower

        def of_three(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
            return returned(*taken), lower

        typed = (of_one, of_two, of_three)[len(taken) - 1]
        typed.__name__, typed.__doc__ = generate.__name__, generate.__doc__
        return intrinsic(typed)

    return make


_PLACE, _NUMBER = types.int64, types.float32
_FLOATS, _INTEGERS = (ir.VectorType(kind.lane, LANES) for kind in (FLOATS, INTEGERS))


def _constant(values: Any, lane: Any = INTEGERS.lane) -> Any:
    values = list(values)
    return ir.Constant(ir.VectorType(lane, len(values)), [ir.Constant(lane, v) for v in values])


def _load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _store(builder: Any, address: Any, value: Any, align: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def _all_lanes(builder: Any, value: Any, count: int = LANES) -> Any:
    one = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, 1), ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    return builder.shuffle_vector(one, one, _constant([0] * count))


def _call(builder: Any, name: str, returned: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(returned, [x.type for x in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@_instruction(FLOATS, _PLACE)
def floats_at(builder: Any, address: Any) -> Any:
    """The sixteen floats at an address."""
    return _load(builder, address, _FLOATS, 4)


@_instruction(types.void, _PLACE, FLOATS)
def put_floats(builder: Any, address: Any, x: Any) -> None:
    """Write sixteen floats."""
    _store(builder, address, x, 4)


@_instruction(FLOATS, _NUMBER)
def everywhere(builder: Any, x: Any) -> Any:
    """One float in all lanes."""
    return _all_lanes(builder, x)


@_instruction(FLOATS, FLOATS, FLOATS)
def _add(builder: Any, x: Any, y: Any) -> Any:
    return builder.fadd(x, y)


@_instruction(FLOATS, FLOATS, FLOATS)
def _subtract(builder: Any, x: Any, y: Any) -> Any:
    return builder.fsub(x, y)


@_instruction(FLOATS, FLOATS, FLOATS)
def _multiply(builder: Any, x: Any, y: Any) -> Any:
    return builder.fmul(x, y)


@_instruction(FLOATS, FLOATS, FLOATS)
def _divide(builder: Any, x: Any, y: Any) -> Any:
    return builder.fdiv(x, y)


def _make_operator(symbol: Any, function: Any) -> None:
    @overload(symbol, jit_options=STRICT)
    def chosen(x: Any, y: Any) -> Any:
        def value(x: Any, y: Any) -> Any:
            return function(x, y)

        return value if x == FLOATS and y == FLOATS else None


for _symbol, _function in (
    (operator.add, _add),
    (operator.sub, _subtract),
    (operator.mul, _multiply),
    (operator.truediv, _divide),
):
    _make_operator(_symbol, _function)


@_instruction(FLOATS, FLOATS)
def root(builder: Any, x: Any) -> Any:
    """Square roots, correctly rounded."""
    return _call(builder, "llvm.sqrt.v16f32", _FLOATS, x)


@_instruction(FLOATS, FLOATS, FLOATS)
def quotient(builder: Any, x: Any, y: Any) -> Any:
    """``x / y``, 0 where ``y`` is 0."""
    zero, one = (_constant([v] * LANES, FLOATS.lane) for v in (0.0, 1.0))
    nothing = builder.fcmp_ordered("==", y, zero)
    return builder.select(nothing, zero, builder.fdiv(x, builder.select(nothing, one, y)))


def _make_function(meaning: Any, function: Any, arguments: int) -> None:
    """An expression's function on vectors; on scalars it is :mod:`.scalar`'s."""

    def of_one(x: Any) -> Any:
        def value(x: Any) -> Any:
            return function(x)

        return value if x == FLOATS else None

    def of_two(x: Any, y: Any) -> Any:
        def value(x: Any, y: Any) -> Any:
            return function(x, y)

        return value if x == FLOATS and y == FLOATS else None

    overload(meaning, jit_options=STRICT)((of_one, of_two)[arguments - 1])


@_instruction(FLOATS, FLOATS, FLOATS)
def smaller(builder: Any, x: Any, y: Any) -> Any:
    """``x`` where it is less than ``y``, else ``y`` (so also where one is NaN)."""
    return builder.select(builder.fcmp_ordered("<", x, y), x, y)


@_instruction(FLOATS, FLOATS, FLOATS)
def larger(builder: Any, x: Any, y: Any) -> Any:
    """``x`` where it is greater than ``y``, else ``y`` (so also where one is NaN)."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def _or_nan(builder: Any, sign: str, x: Any, y: Any) -> Any:
    chosen = builder.select(builder.fcmp_ordered(sign, x, y), x, y)
    return builder.select(builder.fcmp_unordered("uno", x, x), x, chosen)


@_instruction(FLOATS, FLOATS, FLOATS)
def lesser(builder: Any, x: Any, y: Any) -> Any:
    """The smaller as NumPy has it: NaN if either is, of two zeros the second."""
    return _or_nan(builder, "<", x, y)


@_instruction(FLOATS, FLOATS, FLOATS)
def greater(builder: Any, x: Any, y: Any) -> Any:
    """The larger as NumPy has it: NaN if either is, of two zeros the second."""
    return _or_nan(builder, ">", x, y)


_make_function(scalar.sqrt, root, 1)
_make_function(scalar.ratio, quotient, 2)
_make_function(scalar.minimum, lesser, 2)
_make_function(scalar.maximum, greater, 2)


@_instruction(types.boolean, FLOATS, FLOATS, FLOATS)
def ordered(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """Whether no lane of the three is NaN."""
    where = builder.or_(builder.fcmp_unordered("uno", x, y), builder.fcmp_unordered("uno", z, z))
    bits = builder.bitcast(where, ir.IntType(LANES))
    return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, 0))


def _exchanged(builder: Any, x: Any, distance: int) -> Any:
    return builder.shuffle_vector(x, x, _constant([lane ^ distance for lane in range(LANES)]))


@intrinsic
def extremes_of(typing_context: Any, x: Any, y: Any) -> Any:
    """The least of ``x`` and the greatest of ``y``, of sixteen floats each, none of them NaN.

    Of two zeros either. The greatest is the least of what is negated: both are found in one vector's halves.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        low, high = arguments[0], builder.fneg(arguments[1])
        ends, half = range(0, 2 * LANES, LANES), LANES // 2
        parts = [[end + k + lane for end in ends for lane in range(half)] for k in (0, half)]
        one, two = (builder.shuffle_vector(low, high, _constant(part)) for part in parts)
        least = builder.select(builder.fcmp_ordered("<", one, two), one, two)
        for distance in (4, 2, 1):
            other = _exchanged(builder, least, distance)
            least = builder.select(builder.fcmp_ordered("<", least, other), least, other)
        found = [builder.extract_element(least, ir.Constant(ir.IntType(32), k)) for k in (0, half)]
        return context.make_tuple(builder, signature.return_type, [found[0], builder.fneg(found[1])])

    return types.UniTuple(_NUMBER, 2)(FLOATS, FLOATS), generate


@_instruction(FLOATS, _PLACE)
def nibbles_at(builder: Any, address: Any) -> Any:
    """The sixteen 4-bit codes in eight bytes as floats, the high half of a byte before its low half."""
    words = _load(builder, address, ir.VectorType(ir.IntType(32), 2), 1)
    spread = builder.shuffle_vector(words, words, _constant([0] * 8 + [1] * 8))
    shifted = builder.lshr(spread, _constant([4, 0, 12, 8, 20, 16, 28, 24] * 2))
    return builder.sitofp(builder.and_(shifted, _constant([15] * LANES)), _FLOATS)


@_instruction(types.void, _PLACE, FLOATS, FLOATS)
def put_nibbles(builder: Any, address: Any, x: Any, y: Any) -> None:
    """The way back for 32 floats in [0, 16), cut to whole numbers: sixteen bytes."""
    even, odd = (builder.shuffle_vector(x, y, _constant(range(k, 2 * LANES, 2))) for k in (0, 1))
    even, odd = builder.fptosi(even, _INTEGERS), builder.fptosi(odd, _INTEGERS)
    pairs = builder.or_(builder.shl(even, _constant([4] * LANES)), odd)
    _store(builder, address, builder.trunc(pairs, ir.VectorType(ir.IntType(8), LANES)), 1)


@_instruction(TRUTHS, FLOATS, FLOATS)
def reaches(builder: Any, x: Any, least: Any) -> Any:
    """Where the magnitude is at least ``least``, or either is NaN."""
    size = _call(builder, "llvm.fabs.v16f32", _FLOATS, x)
    return builder.fcmp_unordered(">=", size, least)


@_instruction(_PLACE, TRUTHS)
def count(builder: Any, where: Any) -> Any:
    """In how many lanes it holds."""
    bits = builder.bitcast(where, ir.IntType(LANES))
    return builder.zext(_call(builder, "llvm.ctpop.i16", bits.type, bits), ir.IntType(64))


@_instruction(INTEGERS, _PLACE)
def places_from(builder: Any, first: Any) -> Any:
    """first, first + 1, ..."""
    start = _all_lanes(builder, builder.trunc(first, ir.IntType(32)))
    return builder.add(start, _constant(range(LANES)))


@_instruction(types.void, _PLACE, INTEGERS, TRUTHS)
def put_chosen(builder: Any, address: Any, x: Any, where: Any) -> None:
    """Write the integers of the lanes where it holds, one after the other, and nothing else."""
    pointer = builder.inttoptr(address, ir.IntType(32).as_pointer())
    _call(builder, "llvm.masked.compressstore.v16i32", ir.VoidType(), x, pointer, where)


@_instruction(INTEGERS, _PLACE)
def integers_at(builder: Any, address: Any) -> Any:
    """The sixteen 32-bit integers at an address."""
    return _load(builder, address, _INTEGERS, 4)


@_instruction(types.void, _PLACE, INTEGERS)
def put_integers(builder: Any, address: Any, x: Any) -> None:
    """Write sixteen integers."""
    _store(builder, address, x, 4)


@_instruction(INTEGERS, FLOATS)
def images_of(builder: Any, x: Any) -> Any:
    """The bits of sixteen floats."""
    return builder.bitcast(x, _INTEGERS)


@_instruction(INTEGERS, INTEGERS, INTEGERS)
def larger_integers(builder: Any, x: Any, y: Any) -> Any:
    """The larger, as unsigned integers."""
    return builder.select(builder.icmp_unsigned(">", x, y), x, y)


@_instruction(types.uint32, INTEGERS)
def greatest_of(builder: Any, x: Any) -> Any:
    """The greatest of sixteen unsigned integers."""
    for distance in (8, 4, 2, 1):
        other = _exchanged(builder, x, distance)
        x = builder.select(builder.icmp_unsigned(">", x, other), x, other)
    return builder.extract_element(x, ir.Constant(ir.IntType(32), 0))


@_instruction(INTEGERS, _PLACE)
def integer_everywhere(builder: Any, x: Any) -> Any:
    """One integer, cut to 32 bits, in all lanes."""
    return _all_lanes(builder, builder.trunc(x, ir.IntType(32)))


@_instruction(TRUTHS, INTEGERS, INTEGERS)
def is_from(builder: Any, x: Any, least: Any) -> Any:
    """Where ``x >= least``, as signed integers."""
    return builder.icmp_signed(">=", x, least)


@_instruction(FLOATS, _PLACE)
def bfloat16_at(builder: Any, address: Any) -> Any:
    """Sixteen bfloat16, widened."""
    halves = _load(builder, address, ir.VectorType(ir.IntType(16), LANES), 2)
    return builder.bitcast(builder.shl(builder.zext(halves, _INTEGERS), _constant([16] * LANES)), _FLOATS)


@_instruction(FLOATS, FLOATS, FLOATS)
def evens(builder: Any, x: Any, y: Any) -> Any:
    """Every second of 32 floats, from the first on."""
    return builder.shuffle_vector(x, y, _constant(range(0, 2 * LANES, 2)))


@_instruction(FLOATS, FLOATS, FLOATS)
def odds(builder: Any, x: Any, y: Any) -> Any:
    """Every second of 32 floats, from the second on."""
    return builder.shuffle_vector(x, y, _constant(range(1, 2 * LANES, 2)))


@_instruction(types.void, _PLACE, FLOATS, FLOATS)
def put_pairs(builder: Any, address: Any, x: Any, y: Any) -> None:
    """The way back: sixteen pairs of an ``x`` and a ``y``."""
    order = [lane for pair in range(LANES) for lane in (pair, LANES + pair)]
    for k, part in enumerate((order[:LANES], order[LANES:])):
        there = builder.add(address, ir.Constant(address.type, 4 * LANES * k))
        _store(builder, there, builder.shuffle_vector(x, y, _constant(part)), 4)


@_instruction(types.void, _PLACE, _PLACE)
def add_pair(builder: Any, address: Any, other: Any) -> None:
    """Add the two floats at another address to the two floats at an address."""
    kind = ir.VectorType(ir.FloatType(), 2)
    added = builder.fadd(_load(builder, address, kind, 4), _load(builder, other, kind, 4))
    _store(builder, address, added, 4)


@_instruction(types.void, _PLACE)
def fetch(builder: Any, address: Any) -> None:
    """Begin to bring the cache line at an address near; any address will do."""
    word = ir.IntType(32)
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    _call(
        builder,
        "llvm.prefetch.p0",
        ir.VoidType(),
        pointer,
        *(ir.Constant(word, v) for v in (0, 3, 1)),
    )
