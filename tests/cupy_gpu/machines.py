"""Where a test's kernels run: in the simulator, whose arrays are NumPy's, or on a GPU (``pytest -m gpu``)."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest

from memopt_ref.backends import numpy_ref
from memopt_ref.backends.cupy_gpu import device
from memopt_ref.parts.row_sparse import RowSparse
from tests.cuda_sim import build
from tests.cuda_sim.device import SimulatedDevice
from tests.numba_cpu.inputs import hard, same_bits

ready, reason = build.available()
simulated = pytest.mark.skipif(not ready, reason=reason)


class Simulated:
    """Runs and checks on the host."""

    def __init__(self, *arguments, **options) -> None:
        self.device = SimulatedDevice(*arguments, **options)

    @classmethod
    def on(cls, device):
        """On a device that is there already."""
        machine = cls.__new__(cls)
        machine.device = device
        return machine

    def to(self, x):
        return x

    def back(self, x):
        return x

    def running(self):
        return device.instead(self.device)


class Gpu:
    """Runs on the first GPU, on arrays that lie there as the test's lie here."""

    def __init__(self) -> None:
        self.cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
        if not self.cupy.cuda.is_available():
            pytest.skip("there is no GPU")

    @property
    def device(self):
        from memopt_ref.backends.cupy_gpu.cupy_device import on

        return on(0)

    def to(self, x):
        if not isinstance(x, np.ndarray):
            return x
        if x.size == 0:
            return self.cupy.zeros(x.shape, x.dtype)
        low, high = np.lib.array_utils.byte_bounds(x)
        shift = low % 256
        room = self.cupy.zeros(shift + high - low, np.uint8)
        start = room.data + (shift + x.ctypes.data - low)
        there = self.cupy.ndarray(x.shape, x.dtype, start, x.strides)
        there[...] = self.cupy.asarray(np.ascontiguousarray(x))
        return there

    def back(self, x):
        return self.cupy.asnumpy(x) if isinstance(x, self.cupy.ndarray) else x

    def running(self):
        return contextlib.nullcontext()


MACHINES = [
    pytest.param(lambda: Simulated("check"), id="check", marks=simulated),
    pytest.param(Gpu, id="gpu", marks=pytest.mark.gpu),
]


def settled(rule, w):
    """A state as after a while: positive, not all alike."""
    state = rule.init_leaf(w)
    for k, array in enumerate(x for x in state.values() if isinstance(x, np.ndarray)):
        array += np.abs(hard(array.shape, array.dtype.name, seed=50 + k, share=0)).astype(array.dtype)
    return state


def assert_same_steps(machine, step, rule, w, gradients) -> None:
    """Steps in place by ``step(rule, w, g, state)`` and by the reference, from copies of everything."""
    state = settled(rule, w)
    expected_w, expected = w.copy(order="K"), copy.deepcopy(state)
    there_w, there = machine.to(w), {name: machine.to(x) for name, x in state.items()}
    for g in gradients:
        before = copy.deepcopy(g)
        with machine.running():
            step(rule, there_w, moved(machine, g), there)
        numpy_ref.step(rule, expected_w, before, expected)
        assert same_bits(machine.back(there_w), expected_w), "w"
        for name, value in expected.items():
            assert same_bits(machine.back(there[name]), value), name
        values = (g.rows, before.rows) if isinstance(g, RowSparse) else (g, before)
        assert same_bits(*values), "the gradient was written"


def moved(machine, g):
    """A gradient on the machine, with all its parts."""
    if not isinstance(g, RowSparse):
        return machine.to(g)
    return RowSparse(machine.to(g.indices), machine.to(g.rows), g.shape)
