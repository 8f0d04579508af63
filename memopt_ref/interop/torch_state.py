"""The state of torch's optimizer: for each parameter its slots as tensors, exactly as the rule declares them.

``torch.optim.Optimizer.load_state_dict`` casts every tensor of the state to the parameter's dtype, which
turns MicroAdam's int16 indices beside bfloat16 parameters into other indices. Here nothing is cast: what is
stored has to be what the rule declares, or it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import BackendError, CheckpointMismatchError
from ..parts.slots import Slot
from . import tensors

Tensors = dict[str, Any]


def as_tensors(leaf: Mapping[str, Any]) -> Tensors:
    """A leaf's slots as tensors: arrays share their memory, counters and seeds become 0-d tensors.

    >>> as_tensors({"m": np.zeros(2, np.float32), "t": np.int64(3)})
    {'m': tensor([0., 0.]), 't': tensor(3)}
    """
    return {name: tensors.tensor(value) for name, value in leaf.items()}


def as_leaf(where: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The other way: views of the tensors, NumPy scalars of 0-d integers.

    >>> as_leaf("w", {"m": torch.zeros(2), "t": torch.tensor(3)})
    {'m': array([0., 0.], dtype=float32), 't': np.int64(3)}
    """
    views = {name: tensors.view(f"{where}: slot {name!r}", t) for name, t in state.items()}
    return {n: x[()] if x.ndim == 0 and x.dtype.kind in "iu" else x for n, x in views.items()}


def put_counters(state: Mapping[str, Any], leaf: Mapping[str, Any]) -> None:
    """Write the counters of a stepped leaf into its tensors; the arrays are there already."""
    for name, value in leaf.items():
        if not isinstance(value, np.ndarray):
            state[name].numpy()[()] = value


def check(where: str, state: Any, slots: Mapping[str, Slot]) -> None:
    """Raise unless these are the declared slots: names, dtypes and shapes.

    Raises
    ------
    CheckpointMismatchError
        Names the leaf, the slot, what is stored and what was wanted.
    BackendError
        A tensor on a device.
    """
    advice = "Load the state of an optimizer with the same rule and parameters."
    if not isinstance(state, Mapping) or set(state) != set(slots):
        got = f"slots {', '.join(map(str, state)) or 'none'}" if isinstance(state, Mapping) else "no slots"
        wanted = f"slots {', '.join(slots) or 'none'}"
        raise CheckpointMismatchError(where, got, wanted, advice)
    for name, slot in slots.items():
        value, place = state[name], f"{where}: slot {name!r}"
        wanted = f"{slot.dtype}{list(slot.shape)}"
        if not isinstance(value, torch.Tensor):
            raise CheckpointMismatchError(place, f"a {type(value).__name__}", f"a tensor {wanted}", advice)
        if value.device.type != "cpu":
            hint = 'Load it with torch.load(..., map_location="cpu").'
            raise BackendError(place, f"a torch.Tensor on {value.device}", "a tensor on the CPU", hint)
        array = tensors.view(place, value)
        if array.dtype != slot.dtype or array.shape != slot.shape:
            got = f"{array.dtype}{list(array.shape)}"
            raise CheckpointMismatchError(place, got, wanted, f"{advice} Nothing is ever cast.")
