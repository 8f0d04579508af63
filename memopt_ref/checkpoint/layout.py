r"""The bytes of a checkpoint: the safetensors layout, in one canonical form.

::

    8 bytes        N, the length of the header, little-endian
    N bytes        JSON: {"__metadata__":{"checksum":"...",...},"name":{"data_offsets":[0,48],...},...}
    the rest       the tensors, little-endian, in C order, without gaps

Keys are sorted, nothing is optional, the JSON is ASCII without spaces, padded with spaces to N = 0 mod 8. The
tensors lie sorted by (-itemsize, name), so that each is aligned to its own items and readers that map the
file can view it. Equal contents give equal bytes.

``checksum`` comes first, at a fixed place: the XXH3-128 of the length and the header, with zeros in its own
place, so that it is checked before any JSON is parsed. The metadata's ``tensors`` holds the XXH3-128 of each
tensor's bytes, in the order of their names. They guard against accidents, not against forgery.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import xxhash

HEADER_LIMIT = 16 * 2**20
"""Longest header in bytes."""

RANK_LIMIT = 64
"""NumPy's own limit."""

TEXT_LIMIT = 2**20
"""Longest string in a header as it is written, the checksums apart."""

SIZE_LIMIT = 2**63
"""No tensor has this many bytes, whatever its shape says."""

DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
} | {f"{kind.upper()}{8 * n}": np.dtype(f"{kind}{n}") for kind in "iu" for n in (1, 2, 4, 8)}
"""The dtypes that a checkpoint may hold, by the format's names."""

CODES = {dtype: code for code, dtype in DTYPES.items()}
FORMAT = "memopt_ref 1"
START = '{"__metadata__":{"checksum":"'
DIGITS = 32


class Tensor(NamedTuple):
    """A tensor as the header declares it; ``begin`` and ``end`` count from the end of the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int
    checksum: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""
        dtype: np.dtype[Any] = DTYPES[self.code]
        return dtype


def kind(dtype: Any, shape: Iterable[int]) -> str:
    """A dtype and shape in words.

    >>> kind("float32", (3, 4))
    'float32[3, 4]'
    """
    return f"{np.dtype(dtype)}[{', '.join(map(str, shape))}]"


def fits_in_memory(shape: Iterable[int], itemsize: int) -> bool:
    """Whether a tensor could exist, its axes of length 0 apart, which hide any length beside them.

    >>> fits_in_memory((0, 2**40), 4), fits_in_memory((0, 2**62), 4)
    (True, False)
    """
    return prod(n or 1 for n in shape) * itemsize < SIZE_LIMIT


def image(x: Any) -> Any:
    """The bytes of an array or counter as they are stored, as a flat array of uint8; a view where that is so.

    >>> image(np.array([[1, 2], [3, 4]], ">i2").T)
    array([1, 0, 3, 0, 2, 0, 4, 0], dtype=uint8)
    """
    array = np.asarray(x)
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    if sys.byteorder == "big":
        array = array.byteswap()
    return array.reshape(-1).view(np.uint8)


def as_stored(array: Any) -> Any:
    """Change an array whose bytes came from a file from little-endian to this machine's order, in place."""
    return array.byteswap(inplace=True) if sys.byteorder == "big" else array


def checksum(pieces: Iterable[Any]) -> str:
    """XXH3-128 of the pieces' bytes in a row, as 32 hexadecimal digits.

    >>> checksum([b"ab", b"c"]) == checksum([b"abc"])
    True
    """
    hash128 = xxhash.xxh3_128()
    for piece in pieces:
        hash128.update(piece)
    return hash128.hexdigest()


def header_checksum(prefix: bytes, header: bytes | bytearray) -> str:
    """The checksum of a header with zeros where it is kept itself."""
    view, at = memoryview(header), len(START)
    return checksum([prefix, view[:at], b"0" * DIGITS, view[at + DIGITS :]])


def data_order(names: Mapping[str, np.dtype[Any]]) -> list[str]:
    """The names in the order in which their tensors lie.

    >>> data_order({"b": np.dtype("i8"), "a": np.dtype("u1"), "c": np.dtype("i8")})
    ['b', 'c', 'a']
    """
    return sorted(names, key=lambda name: (-names[name].itemsize, name))


def header(metadata: Mapping[str, str], arrays: Mapping[str, Any]) -> bytes:
    """The length and the header for these arrays, whose bytes are read to compute their checksums.

    Parameters
    ----------
    metadata : mapping of str to str
        Without ``checksum``, ``format`` and ``tensors``.
    arrays : mapping of name to array or counter
        Of dtypes in :data:`DTYPES`.

    Examples
    --------
    >>> made = header({}, {"w": np.arange(3, dtype=np.float32)})
    >>> int.from_bytes(made[:8], "little") == len(made) - 8, len(made) % 8
    (True, 0)
    """
    spans, end = {}, 0
    for name in data_order({name: x.dtype for name, x in arrays.items()}):
        spans[name] = [end, end + arrays[name].nbytes]
        end = spans[name][1]
    sums = "".join(checksum([image(arrays[name])]) for name in sorted(arrays))
    own = {"checksum": "0" * DIGITS, "format": FORMAT, "tensors": sums}
    entries = {
        name: {"data_offsets": spans[name], "dtype": CODES[x.dtype], "shape": list(x.shape)}
        for name, x in arrays.items()
    }
    text = json.dumps({"__metadata__": {**metadata, **own}, **entries}, sort_keys=True, separators=(",", ":"))
    assert text.startswith(START), "another name sorts before the metadata"
    return sealed(text)


def sealed(text: str) -> bytes:
    """The length and the header of this text, padded, with its checksum in place."""
    padded = text.encode("ascii") + b" " * (-len(text) % 8)
    prefix, at = len(padded).to_bytes(8, "little"), len(START)
    own = header_checksum(prefix, padded).encode()
    return prefix + padded[:at] + own + padded[at + DIGITS :]
