"""The optimizer on device arrays, through the doors that it opens for them: see :mod:`.stand_in`."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import optimizer
from memopt_ref.backends.cupy_gpu.device import instead
from memopt_ref.errors import AliasError, BackendError, NonFiniteError
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import simulated
from tests.cupy_gpu.stand_in import Stand, install, on_device, plain
from tests.numba_cpu.inputs import same_bits

pytestmark = simulated


@pytest.fixture
def cupy(monkeypatch):
    """A module ``cupy`` whose arrays are stand-ins."""
    with instead(SimulatedDevice()):
        yield install(monkeypatch)


SHAPES = {"embedding": (30, 8), "weight": (17, 12), "bias": (17,), "scale": ()}
GROUPS = [("bias", mo.SGD(momentum=0.9)), ("embedding", mo.SM3(momentum=0.9)), ("weight", mo.Adafactor())]


def numbers(seed):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}


def optimizers(**options):
    host, device = numbers(0), {name: on_device(x) for name, x in numbers(0).items()}
    rule = mo.AdamW(weight_decay=0.1)
    return (
        mo.Optimizer(host, rule, groups=GROUPS, backend="numpy", **options),
        mo.Optimizer(device, rule, groups=GROUPS, **options),
    )


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"nonfinite": "zero"}], ids=str)
def test_device_arrays_are_stepped_in_place_with_the_references_bits(cupy, options):
    host, device = optimizers(**options)
    before = dict(device.params)
    for k in range(3):
        grads = numbers(k + 1)
        assert host.step(grads, scale=0.5) == device.step(
            {n: on_device(g) for n, g in grads.items()}, scale=0.5
        )
    for name, w in host.params.items():
        assert device.params[name] is before[name]
        assert same_bits(plain(device.params[name]), w), name
        for slot, x in host.state["leaves"][name].items():
            assert same_bits(plain(device.state["leaves"][name][slot]), x), (name, slot)
    assert device.state_nbytes == host.state_nbytes
    assert "cupy" in device.explain()


def test_a_step_on_a_device_that_takes_another_gradient_would_be_noticed(cupy):
    host, device = optimizers()
    host.step(numbers(1))
    device.step({n: on_device(g * np.float32(1 + 1e-6)) for n, g in numbers(1).items()})
    assert not same_bits(plain(device.params["weight"]), host.params["weight"])


def test_a_checkpoint_goes_from_a_device_to_a_device_and_to_the_host(cupy, tmp_path):
    host, device = optimizers()
    for k in range(2):
        host.step(numbers(k))
        device.step({n: on_device(g) for n, g in numbers(k).items()})
    device.save(tmp_path / "device.memopt", params=True)
    host.save(tmp_path / "host.memopt", params=True)
    assert (tmp_path / "device.memopt").read_bytes() == (tmp_path / "host.memopt").read_bytes()
    blank = {name: on_device(np.zeros_like(x)) for name, x in numbers(0).items()}
    resumed = mo.Optimizer.load(tmp_path / "host.memopt", blank)
    arrays = [x for leaf in resumed.state["leaves"].values() for x in leaf.values() if np.ndim(x)]
    assert arrays
    assert all(type(x) is Stand for x in arrays)
    resumed.step({n: on_device(g) for n, g in numbers(9).items()})
    host.step(numbers(9))
    assert all(same_bits(plain(blank[name]), w) for name, w in host.params.items())


def test_nothing_is_stepped_when_a_gradient_is_not_finite(cupy):
    _, device = optimizers()
    grads = {n: on_device(g) for n, g in numbers(1).items()}
    grads["weight"][3, 4] = np.nan
    before = {n: plain(w).copy() for n, w in device.params.items()}
    with pytest.raises(NonFiniteError, match="weight"):
        device.step(grads)
    assert all(same_bits(plain(w), before[n]) for n, w in device.params.items())
    assert device.step_count == 0


def test_arrays_of_two_libraries_or_devices_are_refused(cupy):
    params = {"a": on_device(np.ones(3, np.float32)), "b": np.ones(3, np.float32)}
    with pytest.raises(BackendError, match=r"b: "):
        mo.Optimizer(params, mo.Adam())
    _, device = optimizers()
    with pytest.raises(BackendError, match=r"bias: got a numpy.ndarray; .* cupy.asarray"):
        device.step(numbers(1))
    elsewhere = on_device(np.ones(3, np.float32))
    elsewhere.number = 1
    with pytest.raises(BackendError):
        mo.Optimizer({"a": on_device(np.ones(3, np.float32)), "b": elsewhere}, mo.Adam())


def test_tied_weights_on_a_device_are_refused(cupy):
    w = on_device(np.ones((4, 4), np.float32))
    with pytest.raises(AliasError, match="leaves that do not share memory"):
        mo.Optimizer({"a": w, "b": w[1:]}, mo.Adam())


def test_a_gradient_in_a_parameters_memory_is_copied_first(cupy):
    w = on_device(np.arange(1, 9, dtype=np.float32))
    host = np.arange(1, 9, dtype=np.float32)
    mo.Optimizer({"w": w}, mo.Adam()).step({"w": w[::-1]})
    mo.Optimizer({"w": host}, mo.Adam(), backend="numpy").step({"w": host[::-1]})
    assert same_bits(plain(w), host)


def test_the_two_places_answer_to_the_same_names():
    from memopt_ref import host
    from memopt_ref.backends.cupy_gpu import leaves

    assert set(host.__all__) == set(leaves.__all__)
    assert optimizer._home_of(np.ones(2)) is host
