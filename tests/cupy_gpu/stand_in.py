"""A stand-in for CuPy: its arrays lie in the host's memory, so that the simulated device can step them.

They are told from NumPy's by their type alone, as CuPy's are. What would copy one to the host silently fails
where the library's own checks are asked; what a GPU, a stream or CuPy itself would do, they cannot show.
"""

from __future__ import annotations

import contextlib
import sys
import types
from typing import NamedTuple

import numpy as np

from memopt_ref import backends
from memopt_ref.backends import resolver
from tests.cuda_sim.device import SimulatedDevice

#: NumPy's functions under the names that CuPy has too.
FUNCTIONS = (
    *("zeros", "empty", "ones", "array", "ascontiguousarray", "argsort", "flatnonzero", "unique"),
    *("arange", "copyto", "concatenate", "asfortranarray", "broadcast_to"),
)


class Clocked(SimulatedDevice):
    """A simulated device with a clock, on which a launch takes what ``price`` of the kernel says.

    Attributes
    ----------
    now : float
        Seconds; anyone may move them on.
    asked : int
        How often the clock was.
    """

    def __init__(self, about="A Device sm_90, driver 1", price=lambda kernel: 1e-3):
        super().__init__("plain")
        self.about, self.price, self.now, self.asked = about, price, 0.0, 0

    def clock(self):
        self.asked += 1
        return self.now

    def launch(self, kernel, *arguments, **options):
        super().launch(kernel, *arguments, **options)
        self.now += self.price(kernel)


class Where(NamedTuple):
    id: int


class Pointer(NamedTuple):
    ptr: int


class Stand(np.ndarray):
    """An array of the stand-in library, on device 0 if nothing else is said."""

    number = 0

    @property
    def device(self):
        return Where(self.number)

    @property
    def data(self):
        return Pointer(self.ctypes.data)


def on_device(x):
    return np.array(x).view(Stand)


def plain(x):
    return x.view(np.ndarray) if isinstance(x, Stand) else x


def _there(found):
    if isinstance(found, tuple):
        return tuple(map(_there, found))
    return found.view(Stand) if isinstance(found, np.ndarray) else found


def _standing(function):
    return lambda *a, **o: _there(function(*a, **o))


def _copied(x, *arguments, **options):
    """What comes from the host is copied, as it would be to a device."""
    return np.array(x, *arguments, **options).view(Stand)


def library():
    """The module ``cupy``."""
    module = types.ModuleType("cupy")
    module.ndarray = Stand
    for name in FUNCTIONS:
        setattr(module, name, _standing(getattr(np, name)))
    module.asarray = lambda x, *a, **o: x if isinstance(x, Stand) and not (a or o) else _copied(x, *a, **o)
    module.asnumpy = lambda x: np.array(x.view(np.ndarray))
    stream = types.SimpleNamespace(ptr=0, synchronize=lambda: None)
    module.cuda = types.SimpleNamespace(
        Device=lambda number: contextlib.nullcontext(), get_current_stream=lambda: stream
    )
    return module


def install(monkeypatch):
    """As if CuPy were installed, with a driver: ``monkeypatch`` takes it away again."""
    module = library()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(resolver, "_known", {Stand: "cupy"})
    monkeypatch.setattr(backends.registry.Backend, "available", lambda self: (True, "ready"))
    return module
