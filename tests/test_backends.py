"""Backends: who is heard first, what runs where, and what an absent one says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import backends
from memopt_ref.backends import Backend, Variant, numpy_ref, registry
from memopt_ref.errors import BackendError
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.sgd import SGD

PACKAGE = Path(mo.__file__).parent
SLOW_SGD = """
from memopt_ref.backends import Variant, numpy_ref

def supports(rule, shape, dtype):
    return rule.name == "SGD" and len(shape) == 1, "only SGD on vectors"

def step(rule, w, g, state):
    step.calls += 1
    numpy_ref.step(rule, w, g, state)

step.calls = 0
VARIANTS = (
    Variant(name="loop.fma", numerics="fma", supports=lambda *a: (True, ""), step=step),
    Variant(name="loop.plain", numerics="bitwise", supports=supports, step=step),
)
"""


@pytest.fixture(autouse=True)
def _defaults(monkeypatch):
    """Which kernel is the default is looked at here, whatever ``MEMOPT_TUNE`` draws elsewhere."""
    monkeypatch.setenv("MEMOPT_TUNE", "off")


@pytest.fixture
def loopback(tmp_path, monkeypatch):
    """A backend with one kernel, registered by the name of a module that is on disk only."""
    (tmp_path / "loopback_kernels.py").write_text(SLOW_SGD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "loopback_kernels", raising=False)
    backend = Backend("loopback", "numpy", "loopback_kernels")
    backends.register(backend)
    yield backend
    backends.unregister("loopback")


def name_of(rule=SGD(), shape=(3,), **options):  # noqa: B008
    choice = backends.select(rule, shape, "float32", **options)
    return choice.variant.name, choice.why


#: What is chosen for SGD when nobody wishes for anything.
AUTOMATIC = "numba.elementwise" if backends.status()[0].available else "numpy_ref"


def test_automatic_choice_is_the_first_backend_with_a_kernel_and_says_if_it_is_the_only_one(monkeypatch):
    if AUTOMATIC != "numpy_ref":
        assert name_of() == (AUTOMATIC, "the first available backend with a kernel for it")
    monkeypatch.setattr(registry, "_backends", {"numpy": registry.known("numpy", "a test")})
    assert name_of() == ("numpy_ref", "the only backend with a kernel for SGD")


def test_argument_before_with_before_environment_before_automatic(loopback, monkeypatch):
    assert backends.requested() == ("auto", "automatic")
    assert name_of()[0] == AUTOMATIC
    monkeypatch.setenv("MEMOPT_BACKEND", "loopback")
    assert backends.requested() == ("loopback", "MEMOPT_BACKEND")
    assert name_of() == ("loop.plain", "loop.fma: its numerics are fma")
    with mo.use_backend("numpy"):
        assert backends.requested() == ("numpy", "use_backend")
        assert name_of() == ("numpy_ref", "use_backend('numpy')")
        assert name_of(backend="loopback")[0] == "loop.plain"
        with mo.use_backend("loopback"):
            assert name_of()[0] == "loop.plain"
            assert name_of(backend="numpy") == ("numpy_ref", "backend='numpy'")
        assert name_of()[0] == "numpy_ref"
    assert name_of()[0] == "loop.plain"
    monkeypatch.setenv("MEMOPT_BACKEND", "")
    assert name_of()[0] == AUTOMATIC


def test_installing_a_backend_changes_nothing_until_it_is_asked_for(loopback):
    assert name_of()[0] == AUTOMATIC
    assert "loopback_kernels" not in sys.modules, "it is imported when it is first chosen"
    assert name_of(backend="loopback")[0] == "loop.plain"
    assert "loopback_kernels" in sys.modules


def test_options_without_a_kernel_run_on_the_reference_and_explain_says_why(loopback):
    params = {"matrix": np.ones((2, 2)), "vector": np.ones(3)}
    opt = mo.Optimizer(params, SGD(), backend="loopback")
    matrix, vector = opt.explain().splitlines()
    assert "numpy_ref" in matrix
    assert "loop.plain: only SGD on vectors" in matrix
    assert "loop.plain" in vector
    assert "numpy_ref" not in vector
    opt.step({"matrix": np.ones((2, 2)), "vector": np.ones(3)})
    assert sys.modules["loopback_kernels"].step.calls == 1


def test_only_bitwise_variants_compete(loopback):
    assert name_of(Adam(), backend="loopback") == (
        "numpy_ref",
        "loop.fma: its numerics are fma; loop.plain: only SGD on vectors",
    )


def test_the_choice_is_made_when_the_optimizer_is_made(loopback):
    with mo.use_backend("loopback"):
        opt = mo.Optimizer(np.ones(3), SGD())
    assert "loop.plain" in opt.explain()


def test_use_backend_belongs_to_its_thread_and_is_undone_by_an_error(loopback):
    seen = []

    def look_from_another_thread_and_fail():
        with mo.use_backend("loopback"):
            thread = threading.Thread(target=lambda: seen.append(backends.requested()))
            thread.start()
            thread.join()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        look_from_another_thread_and_fail()
    assert seen == [("auto", "automatic")]
    assert backends.requested() == ("auto", "automatic")


def test_one_use_backend_object_may_be_entered_again(loopback):
    chosen = mo.use_backend("loopback")
    with chosen, mo.use_backend("numpy"), chosen:
        assert backends.requested()[0] == "loopback"
    assert backends.requested()[0] == "auto"


def test_a_backend_without_kernels_says_plainly_that_this_release_has_none():
    backends.register(Backend("later", "numpy", "memopt_ref.backends.no_such_module", needs="numpy"))
    try:
        for ask in (
            lambda: backends.select(SGD(), (3,), "float32", backend="later"),
            lambda: mo.use_backend("later"),
        ):
            with pytest.raises(BackendError) as caught:
                ask()
            assert caught.value.got == "'later'"
            assert "This release has no later kernels (numpy is installed)" in caught.value.advice
            assert "'numpy'" in caught.value.advice.partition("available: ")[2]
    finally:
        backends.unregister("later")


def test_an_environment_variable_with_a_wrong_name_is_blamed_by_its_name(monkeypatch):
    monkeypatch.setenv("MEMOPT_BACKEND", "fortran")
    with pytest.raises(BackendError, match="MEMOPT_BACKEND: got 'fortran'; wanted one of 'auto', "):
        mo.Optimizer(np.ones(3), SGD())
    assert name_of(backend="numpy")[0] == "numpy_ref"


def test_a_kernel_module_whose_library_is_missing_says_which():
    backends.register(Backend("far", "numpy", numpy_ref.__name__, needs="no_such_library_here"))
    try:
        with pytest.raises(
            BackendError, match=r"No_such_library_here is not installed; available: .*'numpy'"
        ):
            backends.select(SGD(), (3,), "float32", backend="far")
    finally:
        backends.unregister("far")


def test_a_backend_for_another_array_library_asks_for_a_copy_by_hand():
    backends.register(Backend("device", "cupy", numpy_ref.__name__))
    try:
        with pytest.raises(
            BackendError, match="Copy the arrays to the library cupy first: it is never done silently"
        ):
            mo.Optimizer(np.ones(3), SGD(), backend="device")
    finally:
        backends.unregister("device")


def test_two_backends_of_one_name_and_an_unknown_one_are_refused(loopback):
    with pytest.raises(BackendError, match="the name 'loopback' twice"):
        backends.register(loopback)
    with pytest.raises(BackendError, match="got 'nothing'"):
        backends.unregister("nothing")


def test_arrays_without_any_backend_are_refused():
    with pytest.raises(BackendError, match="SGD on torch arrays"):
        backends.select(SGD(), (3,), "float32", library="torch")


def test_status_is_a_table_of_name_availability_and_reason():
    table = backends.status()
    assert [row.name for row in table] == ["numba", "cupy", "numpy", "cupy-host", "numba-flush"]
    assert next(row for row in table if row.name == "numpy")[2:] == (True, "ready")
    lines = str(table).splitlines()
    assert lines[0].split() == ["backend", "arrays", "available", "reason"]
    assert len(lines) == 1 + len(table)
    for row, line in zip(table, lines[1:], strict=True):
        assert line.startswith(row.name)
        assert line.endswith(row.reason)
        assert bool(row.reason)


def test_a_numerics_class_is_one_of_three():
    with pytest.raises(AssertionError, match="fast"):
        Variant(name="x", numerics="fast", supports=numpy_ref.supports, step=numpy_ref.step)


def test_the_resolver_knows_arrays_by_type_and_imports_nothing():
    before = set(sys.modules)
    assert backends.library_of(np.zeros(2)) == "numpy"
    assert backends.library_of(np.float32(1)) == "numpy"
    assert (
        backends.library_of(np.zeros(2).view(np.matrix) if hasattr(np, "matrix") else np.zeros(2)) == "numpy"
    )
    for other in ([1.0], 1.0, None, "x", object()):
        assert backends.library_of(other) is None
        backends.check_array_library("w", other)
    assert set(sys.modules) == before


def test_a_type_seen_before_its_library_was_imported_is_known_afterwards(monkeypatch):
    import types

    class Tensor:
        device = "cpu"

    assert backends.library_of(Tensor()) is None
    module = types.ModuleType("torch")
    module.Tensor = Tensor
    monkeypatch.setitem(sys.modules, "torch", module)
    assert backends.library_of(Tensor()) == "torch"
    with pytest.raises(BackendError, match="shares the tensor's memory"):
        backends.check_array_library("w", Tensor())


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MEMOPT"))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**kept, **environment}, check=False)


@pytest.mark.parametrize(
    "touch",
    [
        "import memopt_ref; memopt_ref.backends",
        "import memopt_ref; memopt_ref.theory",
        "import memopt_ref; memopt_ref.use_backend",
        "import memopt_ref.backends",
        "from memopt_ref import theory",
    ],
)
def test_a_checkout_that_was_not_installed_says_so(tmp_path, touch):
    shutil.copytree(PACKAGE, tmp_path / "memopt_ref", ignore=shutil.ignore_patterns("__pycache__"))
    # -S: without site-packages, so that an installation of this very package is not found either.
    found = python("-S", "-c", touch, PYTHONPATH=str(tmp_path))
    assert found.returncode == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: memopt_ref.")
    assert "this checkout is not installed: run `pip install -e .` in its root" in last


def test_other_missing_modules_are_reported_as_ever(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "memopt_ref", ignore=shutil.ignore_patterns("__pycache__"))
    found = python("-S", "-c", "import memopt_ref.no_such_room", PYTHONPATH=str(tmp_path))
    assert "ModuleNotFoundError: No module named 'memopt_ref.no_such_room'" in found.stderr


def test_the_optimizer_loads_no_accelerator_and_leaks_no_top_level_package():
    script = """
import sys, numpy as np, memopt_ref as mo
mo.Optimizer(np.ones(3), mo.SGD()).step(np.ones(3)); mo.backends.status()
wrong = {"numba", "cupy", "scipy", "torch", "jax", "click", "backends", "theory"} & set(sys.modules)
sys.exit(", ".join(wrong) or 0)
"""
    found = python("-c", script)
    assert (found.returncode, found.stderr) == (0, "")
