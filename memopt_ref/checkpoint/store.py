"""Saving, loading, verifying and inspecting an optimizer's checkpoint.

Tensors: ``step``, every slot as ``state/PATH/SLOT`` (counters and seeds as 0-d integers), and if asked every
parameter as ``params/PATH``. Keys are paths, never positions; a path is compared, never opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError, CheckpointMismatchError
from ..groups import Pattern
from ..rules.base import Rule, State
from ..shapes import ShapeDtype
from . import files, layout, schema
from .files import Path, Source
from .header import Header, Leaf, check_length
from .layout import Tensor
from .options import Options, metadata, options

_PIECE = 2**16
_PATH_LIMIT = 2**16


class Restored(NamedTuple):
    """What an optimizer goes on from; ``params`` by path if they were stored."""

    rules: dict[str, Rule]
    default: Rule
    state: State
    params: dict[str, Any] | None
    nonfinite: Any
    max_norm: float | None


class Contents(NamedTuple):
    """What a file holds, without the arrays."""

    path: str
    nbytes: int
    library: str
    step: int
    options: Options
    leaves: tuple[Leaf, ...]
    tensors: tuple[Tensor, ...]


def save(
    path: Path,
    arrays: Mapping[str, Any],
    rules: Mapping[str, Rule],
    default: Rule,
    state: State,
    nonfinite: str,
    max_norm: float | None,
    *,
    params: bool,
    keep: int,
) -> None:
    """Write a checkpoint; see :meth:`memopt_ref.Optimizer.save`.

    Raises
    ------
    CheckpointError
        A path or dtype that cannot be stored, or too many tensors for one header.
    CheckpointWriteError
        The system refused; what was there is as it was.
    """
    tensors = _tensors(arrays, state, params)
    head = layout.header(metadata(arrays, rules, default, nonfinite, max_norm), tensors)
    if len(head) - 8 > layout.HEADER_LIMIT:
        got, wanted = f"a header of {len(head) - 8} bytes", f"at most {layout.HEADER_LIMIT}"
        raise CheckpointError(str(path), got, wanted, "Join small parameters, or use several optimizers.")

    def fill(write: files.Write) -> None:
        write(head)
        for name in layout.data_order({name: x.dtype for name, x in tensors.items()}):
            write(layout.image(tensors[name]))

    files.replace(path, fill, _check_bytes, keep)


def _tensors(arrays: Mapping[str, Any], state: State, params: bool) -> dict[str, Any]:
    tensors: dict[str, Any] = {"step": np.int64(state["step"])}
    for path, slots in state["leaves"].items():
        tensors |= {f"state/{path}/{name}": value for name, value in slots.items()}
    tensors |= {f"params/{path}": w for path, w in arrays.items()} if params else {}
    for name, x in tensors.items():
        if x.dtype not in layout.CODES:
            wanted = f"one of {', '.join(map(str, layout.CODES))}"
            raise CheckpointError(name, f"dtype {x.dtype}", wanted, "Convert it first.")
    for path in arrays:
        if len(path) > _PATH_LIMIT:
            got, wanted = f"a path of {len(path)} characters", f"at most {_PATH_LIMIT}"
            raise CheckpointError(path[:60], got, wanted, "Rename it.")
    return tensors


def load(
    path: Path, arrays: Mapping[str, Any], rule: Rule | None, groups: Iterable[tuple[Pattern, Rule]]
) -> Restored:
    """Read a checkpoint for these parameters, writing none; see :meth:`memopt_ref.Optimizer.load`.

    The schema is checked before anything is allocated, and each tensor's checksum after it is read.
    """
    with Source(path) as source:
        header = _header(source)
        found = options(header)
        default, rules = schema.assigned(header, arrays, found.rules, rule, groups)
        stored = schema.has_params(header)
        wanted = schema.tensors_of(arrays, rules, stored)
        schema.check_tensors(header, wanted, rules)
        read = {tensor.name: _read(source, header, tensor) for tensor in header.tensors()}
    state: State = {"step": int(read["step"]), "leaves": {own: {} for own in arrays}}
    for name, (own, what, slot) in wanted.items():
        if name.startswith("state/"):
            value = read[name]
            state["leaves"][own][what.removeprefix("slot ")] = value[()] if slot.is_counter else value
    params = {own: read[f"params/{own}"] for own in arrays} if stored else None
    return Restored(rules, default, state, params, found.nonfinite, found.max_norm)


def _header(source: Source) -> Header:
    prefix = bytearray(min(8, source.nbytes))
    source.read_into(0, prefix)
    raw = bytearray(check_length(source.where, bytes(prefix), source.nbytes))
    source.read_into(8, raw)
    return Header(source.where, bytes(prefix), raw, source.nbytes)


def _read(source: Source, header: Header, tensor: Tensor) -> Any:
    array = np.empty(tensor.shape, tensor.dtype)
    view = array.reshape(-1).view(np.uint8)
    source.read_into(header.start + tensor.begin, view)
    _compare(header, tensor, layout.checksum([view]))
    array = layout.as_stored(array)
    if not array.shape and array.dtype.kind == "i" and array < 0:
        raise header.wrong(f"{tensor.name[:60]!r} = {array}", "a count that is not negative")
    return array


def _compare(header: Header, tensor: Tensor, checksum: str) -> None:
    if checksum != tensor.checksum:
        got = f"bytes of {tensor.name[:60]!r} that are not what their checksum says"
        raise header.wrong(got, "the tensor as it was written")


def _check_bytes(path: Path) -> None:
    """Raise CheckpointFormatError unless every byte is what the checksums say."""
    with Source(path) as source:
        _check_data(source, _header(source))


def _check_data(source: Source, header: Header) -> None:
    piece = memoryview(bytearray(min(_PIECE, source.nbytes)))
    for tensor in header.tensors():
        if not tensor.shape:
            _read(source, header, tensor)
            continue
        places = range(tensor.begin, tensor.end, _PIECE)
        pieces = ((at, piece[: min(_PIECE, tensor.end - at)]) for at in places)

        def filled(at: int, part: memoryview) -> memoryview:
            source.read_into(header.start + at, part)
            return part

        _compare(header, tensor, layout.checksum(filled(at, part) for at, part in pieces))


def inspect(path: Path) -> Contents:
    """What a checkpoint says it holds, from its header and step count alone.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its header is damaged.
    """
    with Source(path) as source:
        return _contents(source, _header(source))


def verify(path: Path) -> Contents:
    """Check every byte of a checkpoint, and that it holds what its own rules ask for.

    Raises
    ------
    CheckpointError
        It names what is wrong first.
    """
    with Source(path) as source:
        header = _header(source)
        found = options(header)
        leaves = {leaf.path: leaf for leaf in header.leaves()}
        shapes = {p: ShapeDtype(leaf.shape, layout.DTYPES[leaf.code]) for p, leaf in leaves.items()}
        for leaf in leaves.values():
            if leaf.rule >= len(found.rules):
                raise header.wrong(f"rule {leaf.rule} for {leaf.path[:60]!r}", f"one of {len(found.rules)}")
        stored = {p: found.rules[leaf.rule] for p, leaf in leaves.items()}
        rules = {p: rule for p, rule in stored.items() if isinstance(rule, Rule)}
        try:
            wanted = schema.tensors_of(shapes, rules, schema.has_params(header))
            schema.check_tensors(header, wanted, rules, frozenset(stored) - frozenset(rules))
        except CheckpointMismatchError as error:
            raise header.wrong(f"{error.where}: {error.got}", error.wanted) from error
        _check_data(source, header)
        return _contents(source, header)


def _contents(source: Source, header: Header) -> Contents:
    tensors = tuple(header.tensors())
    steps = [tensor for tensor in tensors if tensor.name == "step"]
    if not steps or (steps[0].code, steps[0].shape) != ("I64", ()):
        raise header.wrong("no count of steps", "the tensor 'step', int64[]")
    step = int(_read(source, header, steps[0]))
    found = options(header)
    leaves = tuple(header.leaves())
    return Contents(source.where, source.nbytes, header.values["library"], step, found, leaves, tensors)
