"""Shapes of a model's parameters from the header of a safetensors file: 8 bytes of length, that much JSON.

The arrays behind the header are never read, so a file of many gigabytes takes a few kilobytes of reading.
Nothing that a header says is executed; a shard's name is only looked up in the folder of its index.
"""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any

from .errors import DtypeError, FileFormatError
from .shapes import ShapeDtype, Shapes, dtype_of, leaf_shape

HEADER_LIMIT = 100_000_000
"""Longest header in bytes: the limit of the format's own reader."""

MAX_RANK = 64
"""NumPy's own limit; it also keeps a hostile shape from costing time."""

_BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64} | {
    f"{kind}{bits}": bits for kind in "IUF" for bits in (8, 16, 32, 64) if (kind, bits) != ("F", 8)
}
_BITS |= {"BF16": 16, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def shapes_from_safetensors(path: str | Path, dtype: Any = None) -> Shapes:
    """Shapes of the floating-point tensors in a safetensors file, or in all shards of an index.

    Only the header is read and checked (lengths, offsets against shapes and dtypes); the arrays behind it may
    even be missing. Integer and boolean tensors are left out: they are not trained.

    Parameters
    ----------
    path : path
        ``*.safetensors``, or ``*.safetensors.index.json`` with its shards beside it.
    dtype : dtype, optional
        Plan as if every tensor had this dtype; needed when the file stores 8-bit or smaller floats.

    Returns
    -------
    dict
        Path to :class:`ShapeDtype`, sorted by name.

    Raises
    ------
    FileFormatError
        The file is not what it claims to be.

    Examples
    --------
    >>> import tempfile, os
    >>> header = b'{"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "model.safetensors")
    ...     _ = file.write_bytes(len(header).to_bytes(8, "little") + header)
    ...     shapes_from_safetensors(file)
    {'w': ShapeDtype(shape=(2, 3), dtype=dtype(bfloat16))}
    """
    path = Path(path)
    stored = _read_index(path) if path.suffix == ".json" else _read_header(path)
    shapes: Shapes = {}
    for name, (code, shape) in sorted(stored.items()):
        if code not in _FLOATS and not code.startswith("F"):
            continue
        if code not in _FLOATS and dtype is None:
            wanted = "F64, F32, F16 or BF16"
            raise DtypeError(
                name, f"dtype {code}", wanted, "Name the dtype that the parameters are trained in."
            )
        shapes[name] = leaf_shape(name, ShapeDtype(shape, dtype_of(dtype or _FLOATS[code])), dtype)
    return shapes


def _read_index(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    weight_map = json_object(path, read_bytes(path, 0, HEADER_LIMIT)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FileFormatError(
            str(path), "no 'weight_map'", "an index of shards", "Pass *.safetensors.index.json."
        )
    stored: dict[str, tuple[str, tuple[int, ...]]] = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        # A name from a file is only ever looked up in the folder of the index.
        if not re.fullmatch(r"[\w.-]+\.safetensors", shard, re.ASCII):
            wanted = "plain names such as model-00001-of-00002.safetensors"
            raise FileFormatError(str(path), f"the shard {shard!r}", wanted, "Do not use this index.")
        stored |= _read_header(path.with_name(shard))
    if stored.keys() != weight_map.keys():
        odd = min(stored.keys() ^ weight_map.keys())
        raise FileFormatError(
            str(path), f"{odd!r} on one side only", "the tensors of the shards", "Fetch it again."
        )
    return stored


def _read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    prefix = read_bytes(path, 0, 8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= HEADER_LIMIT:
        got = f"{len(prefix)} bytes" if len(prefix) < 8 else f"a header of {length} bytes"
        raise FileFormatError(str(path), got, f"2 to {HEADER_LIMIT} bytes", "This is not a safetensors file.")
    raw = read_bytes(path, 8, length)
    if len(raw) < length or raw[:1] != b"{":
        got = (
            f"{len(raw)} of {length} header bytes"
            if len(raw) < length
            else f"a header that starts with {raw[:1]!r}"
        )
        raise FileFormatError(
            str(path), got, "a whole header, from '{' on", "The file is cut short or no safetensors."
        )
    stored, spans = {}, []
    for name, entry in json_object(path, raw).items():
        if name != "__metadata__":
            stored[name], span = _entry(f"{path}: {name}", entry)
            spans.append(span)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            got = f"data from byte {begin} on where {end} was reached"
            raise FileFormatError(str(path), got, "tensors without gaps or overlap", "The file is damaged.")
        end = stop
    return stored


def _entry(where: str, entry: Any) -> tuple[tuple[str, tuple[int, ...]], tuple[int, int]]:
    entry = entry if isinstance(entry, dict) else {}
    code, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    whole = all(
        isinstance(axes, list)
        and len(axes) <= MAX_RANK
        and all(type(n) is int and 0 <= n < 2**63 for n in axes)
        for axes in (shape, offsets)
    )
    if not isinstance(code, str) or code not in _BITS or not whole or len(offsets) != 2:
        wanted = "a known dtype, a shape and two data_offsets"
        raise FileFormatError(
            where, f"{entry!r:.120}", wanted, "The header is damaged or newer than this library."
        )
    bits = prod(shape) * _BITS[code]
    if bits != 8 * (offsets[1] - offsets[0]):
        got = f"{offsets[1] - offsets[0]} bytes of data"
        raise FileFormatError(where, got, f"{bits // 8} for {code} {shape}", "The header is damaged.")
    return (code, tuple(shape)), (offsets[0], offsets[1])


def read_bytes(path: Path, begin: int, length: int) -> bytes:
    """At most ``length`` bytes of a file from ``begin`` on."""
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(min(length, path.stat().st_size))
    except OSError as error:
        raise FileFormatError(str(path), str(error.strerror), "a readable file", "Check the path.") from error


def json_object(path: Path, raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``; a key that occurs twice is an error, as to the format's own reader."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise ValueError("a key occurs twice")
        return members

    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            str(path), f"bad JSON ({error})", "a JSON object", "The file is damaged."
        ) from error
    if not isinstance(found, dict):
        raise FileFormatError(
            str(path), f"a JSON {type(found).__name__}", "a JSON object", "The file is damaged."
        )
    return found
