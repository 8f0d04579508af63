"""Asking for a GPU, and what is launched on it: no GPU is needed, and CuPy is a stand-in."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import types

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import backends
from memopt_ref.backends import fits
from memopt_ref.backends.cupy_gpu import arrays, device, elementwise, nvrtc, store
from memopt_ref.backends.cupy_gpu.device import RecordingDevice, device_of, instead
from memopt_ref.backends.cupy_gpu.kernel import Kernel, defined
from memopt_ref.errors import BackendError

KERNEL = Kernel("f", 'extern "C" __global__ void f(int *x) { x[0] = 1; }', defined(BLOCK=64))
has_cupy = next(row for row in backends.status() if row.name == "cupy").available


@pytest.mark.skipif(has_cupy, reason="CuPy is installed")
def test_asking_for_cupy_where_there_is_none_says_what_to_install():
    for ask in (
        lambda: mo.Optimizer(np.ones(3), mo.SGD(), backend="cupy"),
        lambda: mo.use_backend("cupy"),
        lambda: backends.select(mo.SGD(), (3,), "float32", library="cupy", backend="cupy"),
    ):
        with pytest.raises(BackendError) as caught:
            ask()
        assert caught.value.got == "'cupy'"
        assert "upy is not installed: pip install 'memopt-ref[cuda12]'" in caught.value.advice
    (row,) = (row for row in backends.status() if row.name == "cupy")
    assert row.reason.startswith("cupy is not installed: pip install")


@pytest.fixture
def installed(monkeypatch):
    """As if CuPy were installed beside a driver."""
    own = backends.registry._importable
    monkeypatch.setattr(backends.registry, "_importable", lambda name: name == "cupy" or own(name))
    known = backends.registry.known("cupy", "a test")
    ready = backends.Backend("cupy", "cupy", known.module, "cupy", lambda: (True, "ready"), automatic=True)
    monkeypatch.setitem(backends.registry._backends, "cupy", ready)


def test_asking_for_cupy_with_numpy_arrays_says_to_copy_them(installed):
    with pytest.raises(
        BackendError, match="Copy the arrays to the library cupy first: it is never done silently"
    ):
        mo.Optimizer(np.ones(3), mo.SGD(), backend="cupy")


def test_rules_for_device_arrays_find_their_kernels(installed):
    choice = backends.select(mo.Adam(), (3,), "float32", library="cupy")
    assert (choice.variant.name, choice.backend.name) == ("cupy.elementwise", "cupy")
    assert backends.select(mo.SM3(), (3, 4), "bfloat16", library="cupy").variant.name == "cupy.sm3"
    with pytest.raises(BackendError, match="iterate_power"):
        backends.select(mo.FTRLProximal(lr_power=-0.2), (3,), "float32", library="cupy")


def test_arrays_of_numpy_are_stepped_without_a_look_at_the_gpu(monkeypatch):
    def never():
        raise AssertionError("the driver was asked")

    known = backends.registry.known("cupy", "a test")
    watched = backends.Backend("cupy", "cupy", known.module, "numpy", never, automatic=True)
    monkeypatch.setitem(backends.registry._backends, "cupy", watched)
    mo.Optimizer(np.ones(3), mo.SGD()).step(np.ones(3))


def test_a_machine_without_a_driver_is_told_so(monkeypatch):
    monkeypatch.setattr(fits.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    fits.cupy.cache_clear()
    try:
        assert fits.cupy() == (False, "there is no NVIDIA driver: it takes a machine with an NVIDIA GPU")
    finally:
        fits.cupy.cache_clear()


def test_the_package_loads_neither_cupy_nor_numba_nor_nvrtc():
    code = """
import sys
import memopt_ref.backends.cupy_gpu
from memopt_ref.backends.cupy_gpu import bind, device, engine, many, nvrtc, sm3_engine, state, store
wrong = {"cupy", "numba", "scipy", "torch"} & set(sys.modules)
assert not wrong, wrong
assert nvrtc.library.cache_info().currsize == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_arrays_of_the_host_are_not_stepped_on_a_device_silently():
    w = np.ones(3, np.float32)
    with pytest.raises(BackendError, match="Copy the arrays to the device first"):
        elementwise.step(mo.SGD(), w, np.ones(3, np.float32), {})
    assert np.all(w == 1)


def test_a_device_may_be_put_in_the_place_of_another():
    one, two = RecordingDevice(), RecordingDevice()
    with instead(one):
        with instead(two):
            assert device_of(np.ones(3)) is two
        assert device_of(np.ones(3)) is one


# A stand-in for CuPy


class Array:
    """What an array of CuPy shows of itself."""

    def __init__(self, number=0):
        self.device = types.SimpleNamespace(id=number)


class Cupy(types.ModuleType):
    """As much of CuPy as a launch uses; ``done`` is what happened, in order."""

    def __init__(self):
        super().__init__("cupy")
        self.done = []
        done = self.done

        class Device:
            compute_capability = "90"
            attributes = {"MultiProcessorCount": 132}

            def __init__(self, number):
                self.number = number

            def __enter__(self):
                done.append(("enter", self.number))

            def __exit__(self, *error):
                done.append(("leave", self.number))

        class RawModule:
            def __init__(self, path):
                done.append(("load", path))

            def get_function(self, name):
                return Function(name)

        class Function:
            def __init__(self, name):
                self.name = name

            def __setattr__(self, name, value):
                if name == "max_dynamic_shared_size_bytes":
                    done.append(("allow", value))
                object.__setattr__(self, name, value)

            def __call__(self, *arguments, **options):
                done.append((self.name, *arguments, options))

        self.cuda = types.SimpleNamespace(Device=Device)
        self.RawModule = RawModule
        self.ndarray = Array


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    stand_in = Cupy()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path))
    monkeypatch.delitem(sys.modules, "memopt_ref.backends.cupy_gpu.cupy_device", raising=False)
    store._folder.cache_clear()
    yield stand_in
    sys.modules.pop("memopt_ref.backends.cupy_gpu.cupy_device", None)
    store._folder.cache_clear()


@pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
def test_a_launch_happens_on_the_arrays_device_with_code_that_is_compiled_once(cupy):
    from memopt_ref.backends.cupy_gpu.cupy_device import CuPyDevice

    gpu = CuPyDevice(3)
    assert (gpu.processors, gpu.arch) == (132, 90)
    x = Array(3)
    gpu.launch(KERNEL, (7,), (64,), [x, np.int32(1)])
    gpu.launch(KERNEL, (7, 2), (64,), [x], shared=1000)
    steps = [step[0] for step in cupy.done]
    assert steps == ["enter", "load", "f", "leave", "enter", "f", "leave"]
    assert cupy.done[0] == ("enter", 3)
    assert cupy.done[2] == ("f", (7,), (64,), (x, np.int32(1)), {"shared_mem": 0})
    path = cupy.done[1][1]
    assert path.endswith(".cubin")
    assert "sm_90" in path
    cupy.done.clear()
    gpu.launch(KERNEL, (1,), (64,), [x], shared=60_000)
    gpu.launch(KERNEL, (1,), (64,), [x], shared=60_000)
    assert [step for step in cupy.done if step[0] == "allow"] == [("allow", 60_000)]


@pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
def test_the_device_of_an_array_is_that_of_its_number(cupy, monkeypatch):
    first, second = device_of(Array(0)), device_of(Array(1))
    assert (first.number, second.number) == (0, 1)
    assert device_of(Array(1)) is second


@pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
def test_code_is_kept_on_disk_and_made_anew_when_it_is_damaged(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path))
    compiled, count = nvrtc.compiled, []
    monkeypatch.setattr(nvrtc, "compiled", lambda *a: count.append(a) or compiled(*a))
    path = store.cubin(KERNEL, 90)
    code = path.read_bytes()
    assert code.startswith(b"\x7fELF")
    assert store.cubin(KERNEL, 90) == path
    assert len(count) == 1
    assert store.cubin(KERNEL, 80) != path
    path.write_bytes(code[:-1] + b"?")
    assert store.cubin(KERNEL, 90).read_bytes() == code
    assert len(count) == 3
    other = Kernel(KERNEL.name, KERNEL.source.replace("1;", "2;"), KERNEL.options)
    assert store.cubin(other, 90) != path


def test_a_folder_that_others_can_write_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "cubin").mkdir()
    (tmp_path / "cubin").chmod(0o777)
    store._folder.cache_clear()
    with pytest.warns(RuntimeWarning, match="can be written by another user"):
        assert store._folder(tmp_path) != tmp_path / "cubin"
    store._folder.cache_clear()


def test_small_arrays_are_copied_to_a_device_once():
    like, layout = np.ones(3), np.arange(5)
    kept = arrays.kept(like, layout)
    assert kept is arrays.kept(like, layout.copy())
    assert kept is not layout
    assert kept is not arrays.kept(like, layout.astype(np.int32))
    for k in range(arrays.KEPT + 5):
        arrays.kept(like, np.array([k, k]))
    assert len(arrays._kept) <= arrays.KEPT


def test_kernels_differ_by_name_text_and_options():
    for other in (
        Kernel("g", KERNEL.source, KERNEL.options),
        Kernel("f", KERNEL.source + " ", KERNEL.options),
        Kernel("f", KERNEL.source, defined(BLOCK=32)),
    ):
        assert other.digest != KERNEL.digest
        assert other != KERNEL
    assert KERNEL.definitions == {"BLOCK": "64"}
    assert device.Launch(KERNEL, (1,), (1,), (), 0).kernel.digest == KERNEL.digest
    assert contextlib.nullcontext is type(arrays.place(np.ones(1)))
