"""Rules as JSON: class names and fields, nothing else.

A rule, schedule, cover, hash family, compressor or quantiser is ``{"ClassName": {"field": value, ...}}``; a
tuple is a list; numbers, strings, booleans and None are themselves. Python's JSON writes a float in the
shortest form that reads back to the same bits, and keeps 1 and 1.0 apart. What is not in the table of known
classes, such as a function, becomes ``{"ClassName": null}``: it was there, and is not stored.

Reading looks a name up in the table, and calls that class with its fields, which checks them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from importlib import import_module
from typing import Any

from ..errors import CheckpointFormatError, MemoptError
from .header import DAMAGED
from .layout import TEXT_LIMIT

VALUE_LIMIT = 2**16
"""Most values (numbers, names, lists) in the JSON of all rules of a file: a Python object costs many times
the two bytes that a hostile file would spend on it."""

_MODULES = {
    "parts.compressors": ("Identity", "OneBit", "ScaledSign", "TopK"),
    "parts.covers": ("AxisCover", "HashCover", "IndexCover"),
    "parts.fixed_hashes": ("LegacyHash", "TableHash"),
    "parts.hashing": ("Avalanche", "CarterWegman", "MultiplyShift"),
    "parts.quantize": ("Quantiser",),
    "parts.schedule": ("Product",),
    "rules.adafactor": ("Adafactor",),
    "rules.adagrad": ("AdaGrad",),
    "rules.adagrad_forms": ("AdaGradNorm", "FullMatrixAdaGrad", "RowWiseAdaGrad"),
    "rules.adam": ("Adam", "AdamW"),
    "rules.amsgrad": ("AMSGrad",),
    "rules.analysed_microadam": ("AnalysedMicroAdam",),
    "rules.count_sketch": ("CountSketchAdaGrad", "CountSketchMomentum"),
    "rules.count_sketch_adam": ("CountSketchAdam", "CountSketchRMSProp"),
    "rules.error_feedback": ("EF21", "ErrorFeedbackSGD"),
    "rules.ftrl": ("FTRLProximal",),
    "rules.ggt": ("GGT",),
    "rules.low_rank": ("LowRankAdam",),
    "rules.microadam": ("MicroAdam",),
    "rules.rmsprop": ("RMSProp",),
    "rules.sgd": ("SGD",),
    "rules.shampoo": ("Shampoo",),
    "rules.sm3": ("SM3",),
    "rules.topk_adam": ("TopKAdam",),
    "schedules": (
        "Constant",
        "CoolDown",
        "Cosine",
        "Exponential",
        "InverseSqrt",
        "InverseTime",
        "Linear",
        "Piecewise",
        "WarmUp",
    ),
}
CLASSES = {name: module for module, names in _MODULES.items() for name in names}
"""The module of every class that a checkpoint may name."""

LATER_FIELDS: dict[tuple[str, str], Any] = {}
"""(class, field) of a field that a release added: the value, as in JSON, that means what was done before."""


@dataclasses.dataclass(frozen=True)
class NotStored:
    """Stands for a rule that is stored in part only; ``fields`` says which are missing, such as functions."""

    name: str
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} without {', '.join(self.fields)}"


def known_class(name: str) -> Any:
    """The class of this name in the table."""
    if name not in CLASSES:
        return None
    return getattr(import_module(f"..{CLASSES[name]}", __package__), name)


def encode(value: Any, where: str, missing: list[str]) -> Any:
    """``value`` for JSON; what cannot be stored is named in ``missing``.

    Examples
    --------
    >>> from memopt_ref.schedules import Function, WarmUp
    >>> missing = []
    >>> encode(WarmUp(0.1, 5), "SGD.learning_rate", missing), missing
    ({'WarmUp': {'value': 0.1, 'steps': 5, 'power': 2}}, [])
    >>> encode(Function(abs), "SGD.learning_rate", missing), missing
    ({'Function': None}, ['SGD.learning_rate (a Function)'])
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, tuple | list):
        return [encode(member, where, missing) for member in value]
    name = type(value).__name__
    if known_class(name) is type(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {name: {field: encode(getattr(value, field), f"{name}.{field}", missing) for field in fields}}
    missing.append(f"{where} (a {name})")
    return {name: None}


def count(text: str) -> int:
    """How many values this JSON can hold at most, without parsing it.

    >>> count('[{"a": [1, 2]}, 3]')
    6
    """
    return 1 + sum(map(text.count, ",[{"))


def fits(text: str) -> bool:
    """Whether a reader takes JSON of this length (quoted, in a header) and number of values."""
    return len(json.dumps(text)) <= TEXT_LIMIT // 2 and count(text) <= VALUE_LIMIT


def parse(where: str, text: str) -> Any:
    """The JSON in ``text``.

    Raises
    ------
    CheckpointFormatError
        It is no JSON, has a key twice, holds NaN or infinity, is too deep or has too many values.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise ValueError("a key occurs twice")
        return members

    if count(text) > VALUE_LIMIT:
        raise CheckpointFormatError(where, f"up to {count(text)} values", f"at most {VALUE_LIMIT}", DAMAGED)
    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        got = f"{text[:60]!r} ({str(error)[:80]})"
        raise CheckpointFormatError(where, got, "JSON of rules", DAMAGED) from None


def decode(where: str, value: Any) -> Any:
    """What :func:`encode` was given, or a :class:`NotStored` where a part of it is missing.

    Raises
    ------
    CheckpointFormatError
        An unknown class or field, a missing field, or a value that the class refuses.

    Examples
    --------
    >>> decode("rule", {"WarmUp": {"value": 0.1, "steps": 5, "power": 2}})
    WarmUp(value=0.1, steps=5, power=2)
    """
    try:
        return _decode(where, value)
    except RecursionError:
        raise CheckpointFormatError(where, "values too deep to read", "a rule", DAMAGED) from None


def _decode(where: str, value: Any) -> Any:
    if isinstance(value, list):
        items = tuple(_decode(where, member) for member in value)
        return next((item for item in items if isinstance(item, NotStored)), items)
    if not isinstance(value, dict):
        return value
    name, members = next(iter(value.items()), ("", 0))
    if len(value) == 1 and members is None:
        return NotStored(name, (where,))
    kind = known_class(name)
    if len(value) != 1 or kind is None or not isinstance(members, dict):
        raise CheckpointFormatError(where, f"{value!r:.60}", "a class of this library", DAMAGED)
    wanted = [field.name for field in dataclasses.fields(kind)]
    later = {f: LATER_FIELDS[name, f] for f in wanted if (name, f) in LATER_FIELDS and f not in members}
    members = later | members
    if set(members) != set(wanted):
        got = f"the fields {', '.join(sorted(members))!r:.200}"
        raise CheckpointFormatError(f"{where}: {name}", got, ", ".join(wanted), DAMAGED)
    found = {field: _decode(f"{name}.{field}", member) for field, member in members.items()}
    missing = [f for member in found.values() if isinstance(member, NotStored) for f in member.fields]
    if missing:
        return NotStored(name, tuple(missing))
    try:
        return kind(**found)
    except (MemoptError, TypeError, ValueError, OverflowError, AttributeError, LookupError) as error:
        got = f"{name} with {str(error)[:200]}"
        raise CheckpointFormatError(where, got, "fields that the class takes", DAMAGED) from error
