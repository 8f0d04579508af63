"""Rules without a CUDA kernel on device arrays: refused with the way out, and served where they say so."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import cupy_host as host
from memopt_ref.backends.cupy_gpu import VARIANTS
from memopt_ref.backends.cupy_gpu.device import instead
from memopt_ref.errors import BackendError
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import simulated
from tests.cupy_gpu.stand_in import Stand, install, on_device, plain
from tests.numba_cpu.inputs import same_bits

pytestmark = simulated

WITHOUT = {
    "shampoo": mo.Shampoo(),
    "shampoo-momentum": mo.Shampoo(momentum=0.9, interval=2),
    "ggt": mo.GGT(window=3),
    "full": mo.FullMatrixAdaGrad(),
    "power": mo.FTRLProximal(lr_power=-0.2),
    "hash-cover": mo.SM3(cover=mo.HashCover(depth=2, width=5)),
}


@pytest.fixture
def cupy(monkeypatch):
    """A module ``cupy`` whose arrays are stand-ins."""
    monkeypatch.setenv("MEMOPT_TUNE", "off")
    with instead(SimulatedDevice()):
        yield install(monkeypatch)


def numbers(seed):
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal((7, 5)).astype(np.float32), "b": np.asarray(rng.standard_normal(), "f4")}


def pair(rule, device="cupy-host"):
    """On the host's arrays by the reference, and on the device's; ``b`` has a kernel."""
    groups = [("b", mo.Adam())]
    there = {name: on_device(x) for name, x in numbers(0).items()}
    return mo.Optimizer(numbers(0), rule, "numpy", groups), mo.Optimizer(there, rule, device, groups)


@pytest.mark.parametrize("name", WITHOUT)
def test_it_is_refused_with_the_way_out(cupy, name):
    with pytest.raises(
        BackendError, match=r"backend='cupy-host': it copies such a leaf to the host and back"
    ):
        pair(WITHOUT[name], "auto")
    with pytest.raises(BackendError, match=r"cupy-host"):
        pair(WITHOUT[name], "cupy")


@pytest.mark.parametrize("name", WITHOUT)
def test_by_its_name_it_has_the_bits_of_the_reference_and_says_where_it_steps(cupy, name):
    mine, other = pair(WITHOUT[name])
    before = dict(other.params)
    for k in range(3):
        mine.step(numbers(k + 1))
        other.step({n: on_device(g) for n, g in numbers(k + 1).items()})
    for n, w in mine.params.items():
        assert other.params[n] is before[n]
        assert same_bits(plain(other.params[n]), w)
        for slot, x in mine.state["leaves"][n].items():
            there = other.state["leaves"][n][slot]
            assert same_bits(plain(there), x), slot
            assert (type(there) is Stand) == (type(x) is np.ndarray)
    with_kernel, without = other.explain().splitlines()
    assert "cupy.elementwise" in with_kernel
    assert "numpy_ref on a host copy" in without


def test_a_step_that_is_not_copied_back_is_noticed(cupy, monkeypatch):
    monkeypatch.setattr(host, "placed", lambda x, w: w if x.shape == w.shape else x.view(Stand))
    mine, other = pair(mo.Shampoo())
    mine.step(numbers(1))
    other.step({n: on_device(g) for n, g in numbers(1).items()})
    assert not same_bits(plain(other.params["w"]), mine.params["w"])


def test_what_has_a_kernel_does_not_leave_the_device(cupy):
    for rule in (mo.Adam(), mo.SM3(), mo.Adafactor()):
        assert host.supports(rule, (4, 3), np.dtype("float32"))[0] is False
    assert host.VARIANTS[:-1] == VARIANTS


def test_a_rule_that_refuses_leaves_everything_as_it_was(cupy, monkeypatch):
    _, other = pair(mo.Shampoo())
    state = {n: plain(x).copy() for n, x in other.state["leaves"]["w"].items()}
    monkeypatch.setattr(mo.Shampoo, "step", lambda *a: (_ for _ in ()).throw(np.linalg.LinAlgError("no")))
    with pytest.raises(np.linalg.LinAlgError):
        other.step({n: on_device(g) for n, g in numbers(1).items()})
    assert same_bits(plain(other.params["w"]), numbers(0)["w"])
    assert all(same_bits(plain(other.state["leaves"]["w"][n]), x) for n, x in state.items())
