"""The shared table of rules through the optimizer on device arrays: one of a kind simulated, all on a GPU.

``pytest -m gpu`` runs every case in every dtype on the first GPU, with the arrays and kernels that ship.
Cases without a kernel are stepped on a host copy there, as ``backend="cupy-host"`` does, so that none is left
out.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import VARIANTS
from memopt_ref.backends.cupy_gpu.device import instead
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import Gpu, simulated
from tests.cupy_gpu.stand_in import install, on_device, plain
from tests.numba_cpu.inputs import hard, same_bits
from tests.table import all_cases, dtype_of

STEPS = 3


class There:
    """Device arrays of the stand-in library."""

    to, back = staticmethod(on_device), staticmethod(plain)

    def running(self):
        return instead(SimulatedDevice("check"))


def has_kernel(case):
    dtype = np.dtype("float32")
    return all(any(v.supports(case.rule, s, dtype)[0] for v in VARIANTS) for s in case.shapes)


def one_of_a_kind():
    """The first case of each class of rules that has kernels."""
    first = {}
    for case in filter(has_kernel, all_cases()):
        first.setdefault(type(case.rule), case)
    return list(first.values())


def numbers(case, dtype, seed):
    def one(k, shape):
        return np.clip(hard(shape, "float64", seed=100 * seed + k, share=0), -1e3, 1e3)

    return {str(k): np.asarray(one(k, shape)).astype(dtype_of(dtype)) for k, shape in enumerate(case.shapes)}


def gradients(case, dtype, step, to):
    """Dense ones, and at the second step two rows of each table with duplicates."""
    found = {}
    for name, g in numbers(case, dtype, 1 + step).items():
        if step == 1 and g.ndim > 1 and g.size:
            indices = np.array([0, len(g) - 1, 0])
            found[name] = mo.RowSparse(to(indices), to(g[indices]), g.shape)
        else:
            found[name] = to(g)
    return found


def assert_steps_as_the_reference(machine, case, dtype):
    host = numbers(case, dtype, 0)
    there = {name: machine.to(w) for name, w in numbers(case, dtype, 0).items()}
    options = {"nonfinite": "propagate"}
    reference = mo.Optimizer(host, case.rule, "numpy", **options)
    device = mo.Optimizer(there, case.rule, "cupy-host", **options)
    for step in range(STEPS):
        reference.step(gradients(case, dtype, step, lambda x: x))
        device.step(gradients(case, dtype, step, machine.to))
    for name, w in host.items():
        assert device.params[name] is there[name]
        assert same_bits(machine.back(there[name]), w), (name, dtype, w.shape)
        for slot, x in reference.state["leaves"][name].items():
            mine = machine.back(device.state["leaves"][name][slot])
            assert same_bits(mine, x), (name, slot, dtype, w.shape)


@simulated
@pytest.mark.parametrize("case", one_of_a_kind(), ids=lambda case: case.name)
def test_a_rule_of_each_kind_has_the_bits_of_the_reference(case, monkeypatch):
    monkeypatch.setenv("MEMOPT_TUNE", "off")
    install(monkeypatch)
    machine = There()
    with machine.running(), np.errstate(all="ignore"):
        assert_steps_as_the_reference(machine, case, "float32")


@pytest.mark.gpu
@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_every_case_on_a_gpu(case, monkeypatch):
    machine = Gpu()
    monkeypatch.setenv("MEMOPT_TUNE", "off")
    with machine.running(), np.errstate(all="ignore"):
        for dtype in case.dtypes:
            assert_steps_as_the_reference(machine, case, dtype)


@simulated
def test_a_step_that_is_off_by_a_bit_is_noticed(monkeypatch):
    install(monkeypatch)
    case = next(case for case in all_cases() if case.name == "sgd")
    machine = There()
    machine.to = lambda x: on_device(np.nextafter(x, np.float32(9)) if x.dtype.kind == "f" else x)
    with machine.running(), contextlib.suppress(Warning), pytest.raises(AssertionError):
        assert_steps_as_the_reference(machine, case, "float32")
