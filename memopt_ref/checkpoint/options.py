"""The metadata of a checkpoint: each parameter's rule, dtype and shape, and the rules and options as JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from .. import __version__, clipping
from ..errors import CheckpointWarning, MemoptError
from ..nonfinite import check_policy
from ..rules.base import Rule
from .header import Header, leaf_text
from .layout import CODES
from .values import VALUE_LIMIT, NotStored, decode, encode, fits, parse


class Options(NamedTuple):
    """What an optimizer is told; ``rules[0]`` is for the leaves that no group matches."""

    nonfinite: str
    max_norm: float | None
    rules: tuple[Rule | NotStored, ...]


def metadata(
    arrays: Mapping[str, Any],
    rules: Mapping[str, Rule],
    default: Rule,
    nonfinite: str,
    max_norm: float | None,
) -> dict[str, str]:
    """The metadata of a checkpoint; warns of what its rules hold and cannot be stored.

    Examples
    --------
    >>> import numpy as np
    >>> from memopt_ref.rules.adagrad_forms import AdaGradNorm
    >>> rule = AdaGradNorm()
    >>> made = metadata({"w": np.zeros((2, 3))}, {"w": rule}, rule, "raise", None)
    >>> made["leaf/w"], made["optimizer"][:55]
    ('0 F64 [2,3]', '{"max_norm":null,"nonfinite":"raise","rules":[{"AdaGrad')
    """
    # By identity: two equal rules may hold functions that differ.
    distinct = {id(rule): rule for rule in (default, *rules.values())}
    index = {key: k for k, key in enumerate(distinct)}
    missing: list[str] = []
    stored = [encode(rule, "rule", missing) for rule in distinct.values()]
    while not fits(_json(stored)):
        longest = max(range(len(stored)), key=lambda k: len(_json(stored[k])))
        name = next(iter(stored[longest]))
        missing.append(f"{name} (more than {VALUE_LIMIT} values)")
        stored[longest] = {name: None}
    if missing:
        what = ", ".join(dict.fromkeys(missing))
        advice = "pass rule= or groups= again to Optimizer.load"
        # To the caller of Optimizer.save.
        warnings.warn(f"not stored: {what}; {advice}", CheckpointWarning, stacklevel=4)
    leaves = {
        f"leaf/{path}": leaf_text(index[id(rules[path])], CODES[w.dtype], w.shape)
        for path, w in arrays.items()
    }
    options = {"max_norm": max_norm, "nonfinite": nonfinite, "rules": stored}
    return {**leaves, "library": __version__, "optimizer": _json(options)}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def options(header: Header) -> Options:
    """The options and rules in a header.

    Raises
    ------
    CheckpointFormatError
        They are not what this library writes.
    """
    found = parse(header.where, header.values["optimizer"])
    if not isinstance(found, dict) or set(found) != {"max_norm", "nonfinite", "rules"}:
        raise header.wrong(f"{found!r:.60} as options", "max_norm, nonfinite and rules")
    if not isinstance(found["rules"], list) or not found["rules"]:
        raise header.wrong(f"{found['rules']!r:.60} as rules", "a list of rules")
    rules = tuple(decode(f"{header.where}: rule {k}", rule) for k, rule in enumerate(found["rules"]))
    for k, rule in enumerate(rules):
        if not isinstance(rule, Rule | NotStored):
            raise header.wrong(f"{rule!r:.60} as rule {k}", "a rule")
    try:
        check_policy(found["nonfinite"])
        if found["max_norm"] is not None:
            clipping.check_max_norm(found["max_norm"])
    except (MemoptError, TypeError, OverflowError) as error:
        raise header.wrong(str(error)[:200], "options of an optimizer") from error
    return Options(found["nonfinite"], found["max_norm"], rules)
