"""The state of torch's optimizer: for each parameter its slots as tensors, exactly as the rule declares them.

Arrays lie where the parameter does; counters and seeds lie on the host, where a step needs them.

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
from . import torch_bridge

Tensors = dict[str, Any]


def as_tensors(leaf: Mapping[str, Any]) -> Tensors:
    """A leaf's slots as tensors: arrays share their memory, counters and seeds become 0-d on the host.

    >>> as_tensors({"m": np.zeros(2, np.float32), "t": np.int64(3)})
    {'m': tensor([0., 0.]), 't': tensor(3)}
    """
    return {name: torch_bridge.tensor(value) for name, value in leaf.items()}


class Views:
    """A leaf's slots as arrays, viewed anew only where a tensor has been replaced; counters are read anew.

    >>> Views().of("w", {"m": torch.zeros(2), "t": torch.tensor(3)})
    {'m': array([0., 0.], dtype=float32), 't': np.int64(3)}
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, tuple[Any, ...], Any]] = {}

    def of(self, where: str, state: Mapping[str, Any]) -> dict[str, Any]:
        """Views of the tensors, NumPy scalars of 0-d integers on the host."""
        return {name: self._one(where, name, t) for name, t in state.items()}

    def _one(self, where: str, name: str, t: Any) -> Any:
        known = self._known.get(name)
        place = torch_bridge.place(t)
        if known is None or known[0] is not t or known[1] != place:
            known = t, place, torch_bridge.view(f"{where}: slot {name!r}", t)
            self._known[name] = known
        x = known[2]
        return x[()] if isinstance(x, np.ndarray) and x.ndim == 0 and x.dtype.kind in "iu" else x


def put_counters(state: Mapping[str, Any], leaf: Mapping[str, Any]) -> None:
    """Write the counters of a stepped leaf into its tensors; the arrays are there already."""
    for name, value in leaf.items():
        if isinstance(value, np.integer):
            state[name].numpy()[()] = value


def check(where: str, state: Any, slots: Mapping[str, Slot], beside: Any = None) -> None:
    """Raise unless these are the declared slots: names, dtypes and shapes.

    Parameters
    ----------
    where : str
        The leaf's path.
    state : mapping of name to tensor
    slots : mapping of name to Slot
    beside : tensor, optional
        The parameter where the slots have to lie, counters on the host; without it they may lie anywhere
        that they can be copied from.

    Raises
    ------
    CheckpointMismatchError
        Names the leaf, the slot, what is stored and what was wanted.
    BackendError
        A tensor on another device.
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
        _check_place(place, value, slot, beside)
        found = torch_bridge.dtype_of(value.dtype), tuple(value.shape)
        if found != (slot.dtype, slot.shape) or value.layout != torch.strided:
            kind = "" if value.layout == torch.strided else f" of layout {value.layout}"
            got = f"{found[0]}{list(found[1])}{kind}"
            raise CheckpointMismatchError(place, got, wanted, f"{advice} Nothing is ever cast.")


def _check_place(where: str, value: Any, slot: Slot, beside: Any) -> None:
    got = f"a torch.Tensor on {value.device}"
    if beside is None:
        if value.device.type != "cpu" and torch_bridge.bridge_of(value) is None:
            hint = 'Load it with torch.load(..., map_location="cpu").'
            raise BackendError(where, got, "a tensor on the CPU or a CUDA device", hint)
        return
    wanted = torch.device("cpu") if slot.is_counter else beside.device
    if value.device != wanted:
        hint = "Make the optimizer after the model has moved, and load the state: load_state_dict copies it."
        raise BackendError(where, got, f"a tensor on {wanted}", hint)
