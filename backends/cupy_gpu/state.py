"""A rule's state for a parameter on a device, where the reference would make NumPy arrays."""

from __future__ import annotations

from typing import Any

from memopt_ref.parts.random import leaf_seed
from memopt_ref.parts.slots import Slot
from memopt_ref.rules.base import Rule

from .arrays import namespace, place


def init_leaf(rule: Rule, w: Any, path: str = "") -> dict[str, Any]:
    """The state of one tensor before its first step: ``rule.init_leaf``, on the device of ``w``.

    Parameters
    ----------
    rule : Rule
    w : array
        Of CuPy (or of NumPy, where kernels are simulated).
    path : str
        The leaf's, which seeds what is random.

    Returns
    -------
    dict
        Arrays on the device of ``w``; counters and seeds are NumPy scalars.

    Examples
    --------
    >>> import numpy as np
    >>> from memopt_ref.rules.adam import Adam
    >>> sorted(init_leaf(Adam(), np.ones(3, np.float32)))
    ['m', 't', 'v']
    """
    seed = leaf_seed(getattr(rule, "seed", 0), path)
    with place(w):
        return {name: begin(slot, w, seed) for name, slot in rule.slots(tuple(w.shape), w.dtype).items()}


def begin(slot: Slot, w: Any, seed: int) -> Any:
    """One slot, filled with its starting value; an element-wise one lies in memory as its parameter does."""
    if slot.is_counter:
        return slot.begin(w, seed)
    value = slot.start(w, seed) if callable(slot.start) else slot.start
    order = "F" if w.shape == slot.shape and w.flags.f_contiguous and not w.flags.c_contiguous else "C"
    array = namespace(w).empty(slot.shape, slot.dtype, order)
    array[...] = value if isinstance(value, int | float) else namespace(w).asarray(value)
    return array
