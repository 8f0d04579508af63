"""Memory by its address: what lets one compiled loop serve arrays of every layout.

A kernel is called with a table of addresses instead of arrays, so that its type, and with it the compiled
code, does not depend on where an array lies or how it is laid out. A pointer here counts in its own elements,
forwards or backwards, and knows no bounds: these come from ``layout``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _pointer_to(kind: Any) -> Any:
    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(kind).as_pointer())

        return types.CPointer(kind)(types.int64), generate

    return pointer


#: Functions of an address in compiled code: the memory there, read and written as numbers of one type.
as_uint8, as_uint16, as_uint32, as_uint64 = (
    _pointer_to(types.uint8),
    _pointer_to(types.uint16),
    _pointer_to(types.uint32),
    _pointer_to(types.uint64),
)
as_float32, as_float64, as_int64 = (
    _pointer_to(types.float32),
    _pointer_to(types.float64),
    _pointer_to(types.int64),
)


def _call(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * (len(arguments) - 1))
    builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
    return context.get_dummy_value()


@intrinsic
def call_kernel(typing_context: Any, kernel: Any, table: Any, start: Any, stop: Any, numbers: Any) -> Any:
    """Call the loop at the address ``kernel``; see :mod:`.bind` for what the others mean."""
    return types.void(*[types.int64] * 5), _call


@intrinsic
def call_mover(
    typing_context: Any,
    mover: Any,
    array: Any,
    down: Any,
    right: Any,
    rows: Any,
    columns: Any,
    chosen: Any,
    buffer: Any,
) -> Any:
    """Call the gather or scatter at the address ``mover``; see :mod:`.move` for what the others mean."""
    return types.void(*[types.int64] * 8), _call


@intrinsic
def hold(typing_context: Any, array: Any) -> Any:
    """Keep an array until here.

    Its memory is given back after its last use by name, and whoever knows only the address is not asked. So a
    function that takes the address of an array of its own ends with this.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_dummy_value()

    return types.void(array), generate
