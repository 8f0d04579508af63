"""Where a key's arrays lie while kernels are compared and timed, and whose clock tells their seconds.

On the host that is this module's :data:`HOST`. On a device the arrays are made there, the clock is the
device's own (events on its stream, so that a launch counts until it has ended), and the key names the device
with its driver and compiler, since what is fast on one is not on another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memopt_ref.rules.base import Rule

from . import machine

if TYPE_CHECKING:
    from ..selection import Choice


def _quiet() -> Callable[[], float]:
    """Of a device nobody tells what others do with it, and its steps hardly wait for the processors."""
    return lambda: 0.0


class Where(NamedTuple):
    """A place for arrays.

    ``about`` is what a key says of it, nothing of the host; ``clock`` tells seconds, None being the host's;
    ``put`` moves an array of NumPy there and ``library`` makes others; ``begin`` makes a rule's state;
    ``snapshot`` is a copy on the host; ``company`` is that of :mod:`.machine`.
    """

    about: str
    clock: Callable[[], float] | None
    library: Any
    put: Callable[[Any], Any]
    begin: Callable[[Rule, Any], dict[str, Any]]
    snapshot: Callable[[Any], Any]
    company: Callable[[], Callable[[], float]]


def _begin(rule: Rule, w: Any) -> dict[str, Any]:
    return rule.init_leaf(w)


HOST = Where("", None, np, lambda x: x, _begin, copy.deepcopy, lambda: machine.company())


def where_of(choice: Choice, w: Any) -> Where | None:
    """Where kernels for this parameter are measured; None if its device has no clock."""
    return HOST if choice.backend.library == "numpy" else on_device(w)


def on_device(w: Any) -> Where | None:
    """Beside an array of a device; None if that has no clock: one that only records, for example."""
    from ..cupy_gpu import leaves
    from ..cupy_gpu.arrays import namespace
    from ..cupy_gpu.device import Timed, device_of

    device = device_of(w)
    if not isinstance(device, Timed):
        return None
    return Where(
        device.about,
        device.clock,
        namespace(w),
        lambda x: leaves.placed(x, w),
        lambda rule, like: leaves.init_leaf(rule, like),
        lambda x: leaves.to_host(x),
        _quiet,
    )
