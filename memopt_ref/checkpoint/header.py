"""The reader of a checkpoint's header: one pass over untrusted text, with hard limits, in constant memory.

The checksum is compared before the text is looked at. Then every entry is checked as it is met, and no entry
is kept: what a header may cost is its own length twice, whatever it claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecoder
from math import prod
from typing import NamedTuple

from ..errors import CheckpointFormatError
from .layout import (
    CODES,
    DIGITS,
    DTYPES,
    FORMAT,
    HEADER_LIMIT,
    RANK_LIMIT,
    START,
    TEXT_LIMIT,
    Tensor,
    fits_in_memory,
    header_checksum,
    kind,
)

DAMAGED = "The file is damaged: use the generation before it, or another copy."
NOT_OURS = "Not a checkpoint of this library, or damaged in its first bytes."
FLOATS = ("BF16", "F16", "F32", "F64")
KEYS = ("library", "optimizer", "tensors")

_NUMBER = "(?:0|[1-9][0-9]{0,18})"
_AXES = rf"(?:{_NUMBER}(?:,{_NUMBER}){{0,{RANK_LIMIT - 1}}})?"
_ENTRY = re.compile(
    rf':\{{"data_offsets":\[({_NUMBER}),({_NUMBER})\],"dtype":"([A-Z0-9]{{1,8}})","shape":\[({_AXES})\]\}}'
)
_HALVES = re.compile("[\ud800-\udfff]")
_JSON = JSONDecoder()
_END = re.compile(r"\} {0,7}")
_LEAF = re.compile(rf"({_NUMBER}) ([A-Z0-9]{{1,8}}) \[({_AXES})\]")


class Leaf(NamedTuple):
    """A parameter as the header declares it; ``rule`` is the index of its rule."""

    path: str
    rule: int
    code: str
    shape: tuple[int, ...]

    @property
    def kind(self) -> str:
        """Dtype and shape in words."""
        return kind(DTYPES[self.code], self.shape)


def leaf_text(rule: int, code: str, shape: tuple[int, ...]) -> str:
    """What the metadata says about a leaf, under the key ``leaf/PATH``.

    >>> leaf_text(0, "F32", (3, 4))
    '0 F32 [3,4]'
    """
    return f"{rule} {code} [{','.join(map(str, shape))}]"


class Header:
    """A header that has passed every check that can be made without the arrays behind it.

    Parameters
    ----------
    where : str
        The file's name, for errors.
    prefix : bytes
        The first 8 bytes.
    raw : bytearray
        The header behind them; emptied, since text takes its place.
    nbytes : int
        Length of the whole file.

    Raises
    ------
    CheckpointFormatError
        Wrong length, checksum, JSON, order of names, dtype, shape, size or place of a tensor, or an unknown
        key.

    Examples
    --------
    >>> from memopt_ref.checkpoint import layout
    >>> import numpy as np
    >>> made = layout.header({"library": "0", "optimizer": "{}"}, {"step": np.int64(3)})
    >>> found = Header("file", made[:8], bytearray(made[8:]), len(made) + 8)
    >>> [(t.name, t.code, t.begin, t.end) for t in found.tensors()], found.values["library"]
    ([('step', 'I64', 0, 8)], '0')
    """

    def __init__(self, where: str, prefix: bytes, raw: bytearray, nbytes: int) -> None:
        self.where, self.start = where, 8 + len(raw)
        check_length(where, prefix, nbytes)
        own = raw[len(START) : len(START) + DIGITS]
        if not raw.startswith(START.encode()):
            raise self.wrong(f"a header that starts with {raw[: len(START)]!r}", repr(START), NOT_OURS)
        if header_checksum(prefix, raw).encode() != own:
            raise self.wrong("a header that is not what its checksum says", "the header as it was written")
        try:
            self._text = raw.decode("ascii")
        except UnicodeDecodeError:
            raise self.wrong("bytes beyond ASCII in the header", "ASCII") from None
        raw.clear()
        self.values: dict[str, str] = {}
        self._leaves_at, self._tensors_at = self._check_metadata()
        self._check_places(nbytes)

    def wrong(self, got: str, wanted: str, advice: str = DAMAGED) -> CheckpointFormatError:
        """The error for this file."""
        return CheckpointFormatError(self.where, got, wanted, advice)

    def leaves(self) -> Iterator[Leaf]:
        """The parameters, in the order of their paths."""
        for _, key, value in self._pairs(self._leaves_at):
            if not key.startswith("leaf/"):
                return
            found = _LEAF.fullmatch(value)
            if found is None or found[2] not in FLOATS:
                raise self.wrong(f"{value[:60]!r} for {key!r}", "a rule's number, a dtype and a shape")
            shape = _numbers(found[3])
            if not fits_in_memory(shape, 8):
                raise self.wrong(f"the shape {list(shape)} of {key!r}", "a shape of less than 2^63 bytes")
            yield Leaf(key[5:], int(found[1]), found[2], shape)

    def tensors(self) -> Iterator[Tensor]:
        """The tensors, in the order of their names."""
        at, k, last = self._tensors_at, 0, ""
        sums = self.values["tensors"]
        while self._text.startswith(",", at):
            name, at = self._string(at + 1)
            if not last < name:
                raise self.wrong(f"the name {name[:60]!r} after {last[:60]!r}", "sorted names")
            found = _ENTRY.match(self._text, at)
            if found is None:
                got = f"{self._text[at : at + 60]!r} for {name[:60]!r}"
                raise self.wrong(got, "data_offsets, dtype and shape")
            begin, end, code, shape = int(found[1]), int(found[2]), found[3], _numbers(found[4])
            if code not in DTYPES:
                raise self.wrong(f"the dtype {code} of {name[:60]!r}", f"one of {', '.join(sorted(DTYPES))}")
            itemsize = DTYPES[code].itemsize
            if not fits_in_memory(shape, itemsize) or prod(shape) * itemsize != end - begin:
                got = f"{end - begin} bytes for {name[:60]!r}"
                raise self.wrong(got, f"{prod(shape) * itemsize} for {kind(DTYPES[code], shape)}")
            yield Tensor(name, code, shape, begin, end, sums[DIGITS * k : DIGITS * (k + 1)])
            at, k, last = found.end(), k + 1, name
        if not _END.fullmatch(self._text, at) or len(sums) != DIGITS * k:
            raise self.wrong(f"{self._text[at : at + 60]!r} after {k} tensors", "the end of the header")

    def _pairs(self, at: int) -> Iterator[tuple[int, str, str]]:
        """Keys and values of the metadata from a comma on, each with the place behind it."""
        while self._text.startswith(",", at):
            key, at = self._string(at + 1)
            if not self._text.startswith(":", at):
                raise self.wrong(f"no value for {key[:60]!r}", "a string")
            value, at = self._string(at + 1, HEADER_LIMIT if key == "tensors" else TEXT_LIMIT)
            yield at, key, value

    def _string(self, at: int, limit: int = TEXT_LIMIT) -> tuple[str, int]:
        quoted = self._text.startswith('"', at)
        if not quoted or (end := self._closing_quote(at)) < 0 or end - at > limit:
            raise self.wrong(f"{self._text[at : at + 60]!r}", f"a string of at most {limit} characters")
        try:
            value, end = _JSON.raw_decode(self._text, at)
        except ValueError:
            raise self.wrong(f"{self._text[at : at + 60]!r}", "a string") from None
        if not value.isascii() and _HALVES.search(value):
            raise self.wrong(f"{value[:60]!r}", "text, not half of a surrogate pair")
        return str(value), end

    def _closing_quote(self, at: int) -> int:
        """Where the string that begins at ``at`` ends, found without decoding it; -1 if nowhere."""
        end = at
        while (end := self._text.find('"', end + 1)) >= 0:
            k = end
            while self._text[k - 1] == "\\":
                k -= 1
            if (end - k) % 2 == 0:
                break
        return end

    def _check_metadata(self) -> tuple[int, int]:
        """Where the comma before the first leaf and that before the first tensor are."""
        leaves_at, last = self._check_format(), "format"
        at = leaves_at
        for behind, key, value in self._pairs(at):
            if not last < key or (key not in KEYS and not key.startswith("leaf/")):
                raise self.wrong(f"the key {key[:60]!r} after {last[:60]!r}", "sorted keys of this format")
            if key in KEYS:
                self.values[key] = value
            at, last = behind, key
        if set(self.values) != set(KEYS) or not self._text.startswith("}", at):
            raise self.wrong(f"the metadata {', '.join(self.values)}", ", ".join(KEYS))
        return leaves_at, at + 1

    def _check_format(self) -> int:
        # Every version says its name at this place, whatever else it changes.
        at, key, value = next(self._pairs(len(START) + DIGITS + 1), (0, "", ""))
        if (key, value) != ("format", FORMAT):
            name, _, version = value[:60].partition(" ")
            newer = (key, name) == ("format", FORMAT.partition(" ")[0]) and version.isdecimal()
            advice = "Update memopt_ref: the file is newer than this release." if newer else NOT_OURS
            raise self.wrong(f"the format {value[:60]!r}", repr(FORMAT), advice)
        return at

    def _check_places(self, nbytes: int) -> None:
        """The tensors tile the rest of the file exactly, in their one order."""
        ends = dict.fromkeys(sorted((d.itemsize for d in CODES), reverse=True), 0)
        for tensor in self.tensors():
            ends[tensor.dtype.itemsize] += tensor.end - tensor.begin
        total = 0
        for itemsize, length in ends.items():
            ends[itemsize], total = total, total + length
        if self.start + total != nbytes:
            raise self.wrong(f"a file of {nbytes} bytes", f"{self.start + total}, as its header says")
        for tensor in self.tensors():
            expected = ends[tensor.dtype.itemsize]
            if tensor.begin != expected:
                raise self.wrong(f"{tensor.name[:60]!r} at {tensor.begin}", f"at {expected}, without gaps")
            ends[tensor.dtype.itemsize] = tensor.end
        for _ in self.leaves():
            pass


def check_length(where: str, prefix: bytes, nbytes: int) -> int:
    """The header's length, from the first 8 bytes of a file of ``nbytes``.

    Raises
    ------
    CheckpointFormatError
        It is beyond the limit, or beyond the file.

    Examples
    --------
    >>> check_length("file", (64).to_bytes(8, "little"), 100)
    64
    """
    length = int.from_bytes(prefix, "little")
    least = len(START) + DIGITS
    if len(prefix) < 8 or not least <= length <= min(HEADER_LIMIT, nbytes - 8):
        got = f"{nbytes} bytes" if len(prefix) < 8 else f"a header of {length} bytes in {nbytes}"
        raise CheckpointFormatError(where, got, f"a header of {least} to {HEADER_LIMIT} bytes", NOT_OURS)
    if length % 8:
        raise CheckpointFormatError(where, f"a header of {length} bytes", "a multiple of 8", NOT_OURS)
    return length


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()
