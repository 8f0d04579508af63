"""The kernels of a device go through the tuner: its clock, its name in the key, the reference's bits."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import types

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import cupy_gpu, tuning
from memopt_ref.backends.cupy_gpu import elementwise
from memopt_ref.backends.cupy_gpu.device import RecordingDevice, Timed, instead
from memopt_ref.backends.tuning import key as keys
from memopt_ref.backends.tuning import settle, store
from memopt_ref.errors import BackendError
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import Gpu, simulated
from tests.cupy_gpu.stand_in import Clocked, install, on_device, plain
from tests.numba_cpu.inputs import same_bits

#: Seconds of a launch by the threads of its blocks.
PRICES = {128: 0.004, 256: 0.003, 512: 0.001}
SHAPE = (40, 30)


def clocked(about="A Device sm_90, driver 1"):
    return Clocked(about, lambda kernel: PRICES[int(kernel.definitions["BLOCK"])])


def half_wrong(rule, w, g, state, block=256):
    """The kernel; but its largest blocks lose a bit."""
    elementwise.step(rule, w, g, state, block)
    if block == 512:
        w[...] = np.nextafter(w, np.float32(9))


def with_steps(monkeypatch, step):
    """The kernels of the backend are this one with three settings."""
    variant = dataclasses.replace(elementwise.VARIANTS[0], step=step, knobs={"block": (256, 128, 512)})
    monkeypatch.setattr(cupy_gpu, "VARIANTS", (variant,))


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    """A module ``cupy`` whose arrays are stand-ins, small buckets, a folder of its own."""
    monkeypatch.setenv("MEMOPT_TUNE", "auto")
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(settle, "SMALLEST", 64)
    monkeypatch.setattr(settle, "SMALLEST_THERE", 64)
    monkeypatch.setattr(keys, "LARGEST_THERE", 2**14)
    with_steps(monkeypatch, elementwise.step)
    tuning.forget()
    yield install(monkeypatch)
    tuning.forget()


def run(device, steps=2):
    """Steps of SGD with momentum on the device, and what the optimizer says of them."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(SHAPE).astype(np.float32)
    grads = [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(steps)]
    rule = mo.SGD(momentum=0.9)
    with instead(device):
        opt = mo.Optimizer(on_device(w), rule, nonfinite="propagate")
        for g in grads:
            opt.step(on_device(g))
        said = opt.explain()
    reference = mo.Optimizer(w, rule, "numpy")
    for g in grads:
        reference.step(g)
    assert same_bits(plain(opt.params), w)
    assert same_bits(plain(opt.state["leaves"][""]["m"]), reference.state["leaves"][""]["m"])
    return said


@simulated
def test_the_fastest_by_the_devices_clock_is_taken_kept_and_loaded(cupy):
    device = clocked()
    assert isinstance(device, Timed)
    said = run(device)
    assert "cupy.elementwise(block=512) was measured 200 % faster than cupy.elementwise" in said
    ((_, entry),) = store.entries()
    assert "; A Device sm_90, driver 1; cupy.elementwise" in entry.key
    assert "threads" not in entry.key
    assert entry.seconds == {
        "cupy.elementwise": pytest.approx(0.003),
        "cupy.elementwise(block=128)": pytest.approx(0.004),
        "cupy.elementwise(block=512)": pytest.approx(0.001),
    }
    tuning.forget()
    again = clocked()
    assert run(again) == said
    assert len(again.launches) == 2
    assert again.asked == 0


@simulated
def test_another_driver_or_device_is_another_key(cupy, monkeypatch):
    run(clocked())
    tuning.forget()
    monkeypatch.setitem(PRICES, 128, 0.0005)
    assert "block=128" in run(clocked("A Device sm_90, driver 2"))
    tuning.forget()
    assert "block=512) was measured" in run(clocked())
    assert len(list(store.entries())) == 2


@simulated
def test_a_device_without_a_clock_and_a_small_tensor_keep_the_default(cupy, monkeypatch):
    assert "measured" not in run(SimulatedDevice("plain"))
    assert not isinstance(RecordingDevice(), Timed)
    monkeypatch.setattr(settle, "SMALLEST_THERE", 2**20)
    device = clocked()
    assert "measured" not in run(device)
    assert device.asked == 0


@simulated
def test_a_kernel_with_other_bits_is_left_out_loudly(cupy, monkeypatch):
    with_steps(monkeypatch, half_wrong)
    with pytest.warns(RuntimeWarning, match=r"block=512\) is left out .* has not the bits of the reference"):
        said = run(clocked())
    assert "nothing was measured clearly faster than cupy.elementwise" in said


@simulated
def test_where_no_kernel_has_the_bits_it_is_said_and_nothing_is_kept(cupy, monkeypatch):
    def wrong(rule, w, g, state, block=256):
        elementwise.step(rule, w, g, state, block)
        if w.shape != SHAPE:
            w[...] = 0

    with_steps(monkeypatch, wrong)
    with pytest.warns(RuntimeWarning, match="is left out"):
        said = run(clocked())
    assert "not measured: BackendError: A Device" in said
    assert list(store.entries()) == []


@simulated
def test_random_choices_have_the_same_bits_there_too(cupy, monkeypatch):
    monkeypatch.setenv("MEMOPT_TUNE", "random")
    assert "was drawn at random" in run(clocked())


@simulated
def test_it_can_be_measured_ahead_of_the_first_step(cupy):
    device = clocked()
    with instead(device):
        (found,) = tuning.tune([mo.SGD(momentum=0.9)], [SHAPE], backend="cupy")
    assert (found.status, found.entry.variant, found.entry.knobs) == (
        "measured",
        "cupy.elementwise",
        {"block": 512},
    )
    again = clocked()
    assert "block=512) was measured" in run(again)
    assert again.asked == 0
    with instead(SimulatedDevice("plain")), pytest.raises(BackendError, match="a device with a clock"):
        tuning.tune([mo.SGD()], [SHAPE], backend="cupy")


# CuPy's clock


@pytest.fixture
def events(monkeypatch):
    """A module ``cupy`` whose events are a millisecond and a half apart."""
    module = types.ModuleType("cupy")
    count, log = itertools.count(), []

    class Event:
        def record(self):
            self.number = next(count)
            log.append("record")

        def synchronize(self):
            log.append("wait")

    class Device:
        compute_capability, attributes = "90", {"MultiProcessorCount": 132}

        def __init__(self, number):
            self.number = number

        def __enter__(self):
            log.append(("enter", self.number))

        def __exit__(self, *error):
            log.append("leave")

    runtime = types.SimpleNamespace(
        getDeviceProperties=lambda n: {"name": b"Some GPU"}, driverGetVersion=lambda: 12090
    )
    module.cuda = types.SimpleNamespace(
        Device=Device,
        Event=Event,
        runtime=runtime,
        get_elapsed_time=lambda a, b: 1.5 * (b.number - a.number),
    )
    module.__version__, module.log = "14.2.0", log
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.delitem(sys.modules, "memopt_ref.backends.cupy_gpu.cupy_device", raising=False)
    yield module
    sys.modules.pop("memopt_ref.backends.cupy_gpu.cupy_device", None)


def test_the_clock_of_a_gpu_adds_up_what_lies_between_its_events(events):
    from memopt_ref.backends.cupy_gpu.cupy_device import CuPyDevice

    gpu = CuPyDevice(2)
    assert [gpu.clock() for _ in range(4)] == pytest.approx([0.0, 0.0015, 0.003, 0.0045])
    assert events.log[:4] == [("enter", 2), "record", "wait", "leave"]


def test_a_gpu_is_known_by_its_name_driver_and_compiler(events, monkeypatch):
    from memopt_ref.backends.cupy_gpu import cupy_device, nvrtc

    monkeypatch.setattr(nvrtc, "version", lambda: (12, 9))
    monkeypatch.setattr(cupy_device, "driver", lambda: "570.86")
    gpu = cupy_device.CuPyDevice(0)
    assert gpu.about == "Some GPU sm_90, driver 570.86, CuPy 14.2.0, NVRTC 12.9"
    assert isinstance(gpu, Timed)


def test_the_driver_is_as_the_system_tells_it_or_that_of_its_cuda(events, monkeypatch):
    from memopt_ref.backends.cupy_gpu import cupy_device

    line = "NVRM version: NVIDIA UNIX {}x86_64 Kernel Module {} 570.86.15  Release Build  (dvs-builder)\n"
    for told in (line.format("", ""), line.format("Open Kernel Module for ", "")):
        cupy_device.driver.cache_clear()
        monkeypatch.setattr(cupy_device.Path, "read_text", lambda *a, told=told, **o: told)
        assert cupy_device.driver() == "570.86.15"
    cupy_device.driver.cache_clear()

    def silent(*arguments, **options):
        raise OSError

    monkeypatch.setattr(cupy_device.Path, "read_text", silent)
    assert cupy_device.driver() == "for CUDA 12090"


@pytest.mark.gpu
def test_a_gpu_measures_by_its_own_clock_and_keeps_the_bits(monkeypatch, tmp_path):
    gpu = Gpu()
    monkeypatch.setenv("MEMOPT_TUNE", "force")
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path))
    tuning.forget()
    before = gpu.device.clock()
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(2**21).astype(np.float32) for _ in range(2))
    opt = mo.Optimizer(gpu.to(w), mo.Adam())
    opt.step(gpu.to(g))
    mo.Optimizer(w, mo.Adam(), "numpy").step(g)
    assert same_bits(gpu.back(opt.params), w)
    assert gpu.device.clock() > before
    ((_, entry),) = store.entries()
    assert gpu.device.about in entry.key
    assert entry.wrong == {}
    assert min(entry.seconds.values()) > 0
    tuning.forget()
