"""What a launch is given: types against the signature, and copies that lie as on a device."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from .build import Entry

#: Bytes before and after an argument's copy, and what they hold: a number, since NaN would stay NaN.
ZONE, PATTERN = 512, 0x5A
_DTYPES = {
    "float": "float32",
    "double": "float64",
    "int": "int32",
    "unsigned int": "uint32",
    "long long int": "int64",
    "long long unsigned int": "uint64",
    "long int": "int64",
    "long unsigned int": "uint64",
    "short int": "int16",
    "char": "int8",
    "signed char": "int8",
    "unsigned char": "uint8",
    "bool": "bool",
}
#: Types that hold a 16-bit float, as they are commonly called; bare bits may be any of these.
_HALVES = {"bfloat16": "bfloat16", "__nv_bfloat16": "bfloat16", "float16": "float16", "__half": "float16"}


@dataclasses.dataclass(frozen=True)
class Window:
    """An argument whose memory lies ``start`` entries after the address that the kernel is given.

    So indices beyond 2^31 are tested with a small array.
    """

    array: Any
    start: int


@dataclasses.dataclass
class Stretch:
    """Bytes of the host that arguments lie in, and where the kernel finds them."""

    low: int
    high: int
    names: list[str]
    item: int
    writable: bool
    in_place: bool = False
    room: Any = None
    moved: int = 0

    def place(self) -> None:
        """Copy into memory with red zones, as a GPU's allocator would align it."""
        if self.in_place or self.low == self.high:
            return
        size = self.high - self.low
        self.room = np.full(size + 2 * ZONE + 256, PATTERN, np.uint8)
        base = self.room.ctypes.data
        start = base + ZONE + (self.low - base - ZONE) % 256
        self.moved = start - self.low
        self.body = self.room[start - base : start - base + size]
        ctypes.memmove(start, self.low, size)

    def bring_back(self) -> str | None:
        """Copy back what may have been written; says where a red zone was."""
        if self.room is None:
            return None
        if self.writable:
            ctypes.memmove(self.low, self.body.ctypes.data, self.body.size)
        start = self.body.ctypes.data - self.room.ctypes.data
        zones = (self.room[:start][::-1], "before"), (self.room[start + self.body.size :], "after")
        for zone, side in zones:
            touched = np.flatnonzero(zone != PATTERN)
            if touched.size:
                return f"write {touched[0]} bytes {side} '{'/'.join(self.names)}'"
        return None


def stretches_of(
    name: str, entry: Entry, args: Sequence[Any], touched: Sequence[Any]
) -> tuple[list[Stretch], dict[int, Stretch], dict[int, int]]:
    """Check the arguments' types, and join those whose memory overlaps."""
    if len(args) != len(entry.types):
        raise TypeError(f"{name}: {len(args)} arguments for {len(entry.types)}: {', '.join(entry.names)}")
    pieces, pointers = [], {}
    for i, (arg, kind) in enumerate(zip(args, entry.types, strict=True)):
        label = f"{name}: argument {i} ({entry.names[i]})"
        if not kind.endswith(("*", "* __restrict__", "* restrict")):
            _check_scalar(label, arg, kind, entry.sizes[i])
            continue
        array, start = (arg.array, arg.start) if isinstance(arg, Window) else (arg, 0)
        constant = _check_array(label, array, kind, entry.items[i])
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data,) * 2
        pointers[i] = array.ctypes.data - start * array.itemsize
        pieces.append((int(low), int(high), entry.names[i], _cell(array.itemsize), not constant, i))
    for k, array in enumerate(touched):
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data,) * 2
        pieces.append((int(low), int(high), f"touched {k}", _cell(array.itemsize), array.flags.writeable, -1))
    pieces.sort(key=lambda piece: piece[:2])
    stretches: list[Stretch] = []
    owner: dict[int, Stretch] = {}
    members: list[list[Any]] = []
    for piece in pieces:
        low, high, label, item, writable, i = piece
        if stretches and low < stretches[-1].high and low < high:
            s = stretches[-1]
            s.high, s.item, s.writable = max(s.high, high), min(s.item, item), s.writable or writable
            s.names.append(label)
            members[-1].append(piece)
        else:
            s = Stretch(low, high, [label], item, writable)
            stretches.append(s)
            members.append([piece])
        s.in_place |= i < 0
        owner[i] = s
    for s, group in zip(stretches, members, strict=True):
        if s.writable and len(group) > 1 and any(i >= 0 and entry.restricted[i] for *_, i in group):
            raise TypeError(f"{name}: {' and '.join(s.names)} overlap, and one of them is __restrict__")
    return stretches, owner, pointers


def _cell(itemsize: int) -> int:
    return min(8, itemsize & -itemsize) or 1


def _check_scalar(label: str, arg: Any, kind: str, size: int) -> None:
    if not isinstance(arg, np.generic):
        raise TypeError(f"{label} is a Python {type(arg).__name__}: pass a NumPy scalar for {kind}")
    wanted = _DTYPES.get(kind)
    same = arg.dtype == wanted if wanted else arg.nbytes == size
    if not same:
        raise TypeError(f"{label} is {arg.dtype}, the parameter is {kind}")


def _check_array(label: str, array: Any, kind: str, item: int) -> bool:
    """Whether the pointer is to const; raises where the dtype is another."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{label} is a {type(array).__name__}: pass an array for {kind}")
    pointee = kind.rpartition("*")[0].strip()
    constant = pointee.startswith("const ")
    pointee = pointee.removeprefix("const ").removeprefix("volatile ")
    wanted = _DTYPES.get(pointee) or _HALVES.get(pointee.lower())
    if wanted is not None:
        same = array.dtype.name == wanted
    elif pointee == "short unsigned int":
        same = array.dtype.name in ("uint16", "float16", "bfloat16")
    else:
        same = pointee == "void" or item % array.itemsize == 0 or array.itemsize % item == 0
    if not same:
        raise TypeError(f"{label} is an array of {array.dtype}, the parameter is {kind}")
    if not constant and not array.flags.writeable:
        raise TypeError(f"{label} is read-only, the parameter is {kind}")
    return constant
