"""Parameter groups as plain values, for ``state_dict``: numbers as they are, everything else as text.

``torch.load`` reads such values with its default ``weights_only=True``; text is never turned into anything,
only compared with what the optimizer was made with.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointMismatchError
from ..parts.schedule import Schedule
from ..rules.base import Rule
from . import torch_groups
from .torch_groups import Group


def structure(rule: Rule) -> str:
    """All of a rule that a group does not show as numbers, as text: what a stored state belongs to.

    >>> from memopt_ref.rules.adam import Adam
    >>> structure(Adam(learning_rate=0.5))
    "Adam(weight_decay_mode='l2', bias_correction='paper')"
    """
    numbers = torch_groups.places(rule)
    rest = [f.name for f in dataclasses.fields(rule) if f.name not in numbers]
    return f"{rule.name}({', '.join(f'{name}={_text(getattr(rule, name))}' for name in rest)})"


def _text(value: Any) -> str:
    # The address of a function is another one in every process.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def packed(group: Mapping[str, Any]) -> Group:
    """The group in plain values: the rule's structure and schedules as text, which is compared on loading."""
    plain = {key: _plain(value) for key, value in group.items()}
    return {**plain, "rule": structure(group["rule"])}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return _text(value) if isinstance(value, Schedule) else value


def unpacked(saved: Mapping[str, Any], group: Group, where: str) -> Group:
    """The group with what was saved: numbers are taken over, the rule and schedules have to be the same.

    Raises
    ------
    CheckpointMismatchError
        Another rule, or another schedule; the message says what is stored and what was wanted.
    """
    own = structure(group["rule"])
    if saved.get("rule") != own:
        got = f"the state of {saved.get('rule', 'another optimizer')}"
        advice = "Make the optimizer with the rule that was saved."
        raise CheckpointMismatchError(where, got, own, advice)
    new: Group = {key: _taken(f"{where}[{key!r}]", value, group.get(key)) for key, value in saved.items()}
    new |= {key: group[key] for key in ("params", "param_names", "rule") if key in group}
    missing = [key for key in torch_groups.shown(group["rule"]) if key not in new]
    if missing:
        advice = "The state was saved by another release or changed since."
        raise CheckpointMismatchError(where, f"no {missing[0]!r}", f"the numbers of {own}", advice)
    return new


def _taken(where: str, saved: Any, mine: Any) -> Any:
    if isinstance(saved, tuple | list) and isinstance(mine, tuple) and len(saved) == len(mine):
        return tuple(_taken(where, s, m) for s, m in zip(saved, mine, strict=True))
    if isinstance(saved, str) and (isinstance(mine, Schedule) or _is_number(mine)):
        if not isinstance(mine, Schedule) or _text(mine) != saved:
            advice = "Make the optimizer with the schedule that was saved."
            raise CheckpointMismatchError(where, f"the stored schedule {saved}", _text(mine), advice)
        return mine
    return saved


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
