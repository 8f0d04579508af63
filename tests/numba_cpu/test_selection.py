"""When the compiled kernels are chosen, when they wait, and what is said where they cannot be."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import backends
from memopt_ref.backends import fits
from memopt_ref.backends.numba_cpu import elementwise
from memopt_ref.errors import BackendError

needs_numba = pytest.mark.skipif(not backends.status()[0].available, reason=backends.status()[0].reason)


@pytest.fixture(autouse=True)
def _defaults(monkeypatch):
    """Which kernel is the default is looked at here, whatever ``MEMOPT_TUNE`` draws elsewhere."""
    monkeypatch.setenv("MEMOPT_TUNE", "off")


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@needs_numba
def test_auto_takes_the_kernel_where_there_is_one_and_the_reference_elsewhere():
    params = {"a": np.ones((4, 3), np.float32), "b": np.ones((4, 3), np.float32)}
    with mo.tuning.use_mode("off"):
        lines = mo.Optimizer(params, mo.Adam(), groups=[("b", mo.Shampoo())]).explain().splitlines()
    assert "numba.elementwise" in lines[0]
    assert "numpy_ref" in lines[1]
    assert "no kernel for Shampoo yet" in lines[1]


@needs_numba
def test_the_environment_keeps_the_reference(monkeypatch):
    monkeypatch.setenv("MEMOPT_BACKEND", "numpy")
    assert backends.select(mo.Adam(), (3,), "float32").variant.name == "numpy_ref"
    assert backends.select(mo.Adam(), (3,), "float32", backend="numba").variant.name == "numba.elementwise"


@needs_numba
def test_small_tensors_do_not_wake_numba_and_large_ones_do():
    code = """
import sys, numpy as np, memopt_ref as mo
from memopt_ref.backends.numba_cpu.elementwise import WAKE
opt = mo.Optimizer({"a": np.ones(9), "b": np.ones(WAKE)}, mo.SGD())
opt.step({"a": np.ones(9), "b": None})
assert "numba" not in sys.modules
opt.step({"a": np.ones(9), "b": np.ones(WAKE)})
assert "memopt_ref.backends.numba_cpu.engine" in sys.modules
opt.step({"a": np.ones(9), "b": np.ones(WAKE)})
a, b = opt.params["a"], opt.params["b"]
assert a[0] == 1 - 0.01 - 0.01 - 0.01 and b[0] == 1 - 0.01 - 0.01
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@needs_numba
def test_many_steps_of_small_tensors_wake_numba_as_well():
    code = """
import sys, numpy as np, memopt_ref as mo
from memopt_ref.backends.numba_cpu import elementwise
elementwise.NAPS = 6
loaded = []
for rule in (mo.Adam(), mo.SM3(), mo.TopKAdam(), mo.MicroAdam(), mo.CountSketchAdam()):
    opt = mo.Optimizer({"a": np.ones((9, 3)), "b": np.ones((3, 2))}, rule)
    for _ in range(2):
        opt.step({"a": np.full((9, 3), 0.5), "b": np.full((3, 2), 0.5)})
        loaded.append("memopt_ref.backends.numba_cpu.engine" in sys.modules)
assert loaded == [False] * 3 + [True] * 7, loaded
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_a_numba_that_is_missing_is_no_backend_and_the_library_works():
    code = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
import numpy as np, memopt_ref as mo
assert mo.backends.status()[0][2:] == (False, "numba is not installed"), mo.backends.status()
w = np.ones(20000, np.float32)
opt = mo.Optimizer(w, mo.Adam())
opt.step(w.copy())
assert "numpy_ref" in opt.explain()
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_numba_that_cannot_be_loaded_costs_speed_and_a_warning_not_the_step():
    code = """
import sys, warnings
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llvmlite":
            raise OSError("libLLVM.so: cannot open shared object file")
sys.meta_path.insert(0, Broken())
import numpy as np, memopt_ref as mo
w = np.ones(20000, np.float32)
opt = mo.Optimizer(w, mo.SGD(learning_rate=0.5))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    opt.step(w.copy())
    opt.step(np.ones_like(w))
assert w[0] == 0.0 and opt.step_count == 2
assert ["Numba could not be loaded" in str(x.message) for x in caught] == [True], caught
assert "Numba could not be loaded" in mo.Optimizer(np.ones(3), mo.SGD()).explain()
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_numpy_newer_than_numba_takes_is_told_from_what_is_written(monkeypatch):
    fits._numba.cache_clear()
    monkeypatch.setattr(fits.metadata, "version", lambda name: "0.68.1")
    needs = ["llvmlite<0.51,>=0.50.0dev0", "numpy<2.6,>=1.22"]
    monkeypatch.setattr(fits.metadata, "requires", lambda name: needs)
    assert fits._numba("2.5.5") == (True, "ready")
    reason = "numba 0.68.1 needs numpy <2.6,>=1.22, and 2.6.0 is installed"
    assert fits._numba("2.6.0") == (False, reason)
    monkeypatch.setattr(fits.np, "__version__", "2.6.0")
    assert backends.status()[0].reason in (reason, "numba is not installed")
    if backends.status()[0].reason == reason:
        with pytest.raises(BackendError, match=r"Numba 0\.68\.1 needs numpy"):
            backends.select(mo.SGD(), (3,), "float32", backend="numba")
        assert backends.select(mo.SGD(), (3,), "float32").variant.name == "numpy_ref"
    fits._numba.cache_clear()


def test_an_old_numba_and_a_disabled_one_are_no_backend(monkeypatch):
    fits._numba.cache_clear()
    monkeypatch.setattr(fits.metadata, "version", lambda name: "0.59.1")
    assert fits._numba("2.4.0")[1] == "numba 0.59.1 is installed, and 0.64 is the oldest that will do"
    fits._numba.cache_clear()
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert fits.numba() == (False, "NUMBA_DISABLE_JIT is set")


def test_a_numba_without_written_needs_is_tried(monkeypatch):
    def unknown(name):
        raise fits.metadata.PackageNotFoundError(name)

    fits._numba.cache_clear()
    monkeypatch.setattr(fits.metadata, "version", unknown)
    assert fits._numba("2.4.0") == (True, "ready")
    fits._numba.cache_clear()


@needs_numba
def test_an_expression_that_does_not_compile_is_stepped_by_the_reference(monkeypatch):
    from memopt_ref.backends.numba_cpu import engine

    def fails(*arguments):
        raise TypeError("not today")

    engine.kernel.cache_clear()
    monkeypatch.setattr(engine, "bind", fails)
    w = np.ones(4, np.float32)
    with pytest.warns(RuntimeWarning, match=r"sgd\(\) cannot be compiled, NumPy steps instead \(not today\)"):
        elementwise.step(mo.SGD(learning_rate=0.5), w, np.ones(4), {})
    elementwise.step(mo.SGD(learning_rate=0.5), w, np.ones(4), {})
    assert w[0] == 0
    engine.kernel.cache_clear()
