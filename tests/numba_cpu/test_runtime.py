"""Threads, forks and the user's own settings, on every threading layer that is installed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import runtime  # noqa: E402

PREPARE = """
import os, sys, threading, warnings
import numpy as np, memopt_ref as mo, numba
from memopt_ref.backends.numba_cpu import engine, runtime

N = 1 << 17

def step(times=1):
    w = np.ones(N, np.float32)
    opt = mo.Optimizer(w, mo.Adam(), backend="numba")
    for _ in range(times):
        opt.step(np.ones(N, np.float32))
    v = np.ones(N, np.float32)
    other = mo.Optimizer(v, mo.Adam(), backend="numpy")
    for _ in range(times):
        other.step(np.ones(N, np.float32))
    assert w.tobytes() == v.tobytes()

"""
THREADS = """
step()
assert numba.threading_layer() == sys.argv[1], numba.threading_layer()
errors = []
def many():
    try:
        step(25)
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=many) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
assert not errors, errors
"""
FORK = """
step()
assert numba.threading_layer() == sys.argv[1]
child = os.fork()
if child == 0:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(2)
    said = [str(w.message) for w in caught if "forked" in str(w.message)]
    os._exit(0 if len(said) == (sys.argv[1] == "omp") else 7)
_, status = os.waitpid(child, 0)
assert status == 0, status
step()
"""
FORK_IN_A_THREAD = """
step()
def hold():
    step(120)
thread = threading.Thread(target=hold); thread.start()
for _ in range(3):
    child = os.fork()
    if child == 0:
        warnings.simplefilter("ignore")
        step()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
thread.join()
"""


LIBRARIES = {"omp": "omppool", "workqueue": "workqueue", "tbb": "tbbpool"}


def installed(layer: str) -> bool:
    try:
        importlib.import_module(f"numba.np.ufunc.{LIBRARIES[layer]}")
    except ImportError:
        return False
    return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize(
    "script", [THREADS, FORK, FORK_IN_A_THREAD], ids=["threads", "fork", "fork-in-a-thread"]
)
@pytest.mark.parametrize("layer", LIBRARIES)
def test_threads_and_children_step_on_every_layer(layer, script):
    if not installed(layer):
        pytest.skip(f"numba has no {layer} here")
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PREPARE + script, layer]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_without_the_guard_the_child_dies_and_so_does_the_workqueue():
    """The checks above, seen to fail: the guard taken away."""
    unguarded = {
        "omp": FORK.replace("child = os.fork()", "runtime._after_fork = None\nchild = os.fork()").replace(
            "    with warnings", "    runtime._orphaned = False\n    with warnings"
        ),
        "workqueue": "import contextlib\nruntime._turn = contextlib.nullcontext()\n"
        + THREADS.replace("step(25)", "step(400)"),
    }
    for layer in filter(installed, unguarded):
        environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
        command = [sys.executable, "-W", "ignore", "-c", PREPARE + unguarded[layer], layer]
        done = subprocess.run(command, capture_output=True, env=environment, check=False, timeout=120)
        assert done.returncode != 0, layer


#: The thread that forks is not the one that has the lock.
FORK_BESIDE_A_LOCK = """
import os, signal, sys, threading
import numba
from numba.np.ufunc import parallel
from memopt_ref.backends.numba_cpu import runtime
numba.get_num_threads()
statuses = []
def fork():
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(0 if runtime.threads(1 << 20) > 0 else 1)
    statuses.append(os.waitpid(child, 0)[1])
with parallel._backend_init_thread_lock:
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
sys.exit(statuses != [0])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_wait_for_a_lock_of_numbas_that_another_thread_had():
    def run(script):
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
        return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode

    assert run(FORK_BESIDE_A_LOCK) == 0
    unguarded = "numba.get_num_threads()\nruntime.parallel = None"
    assert run(FORK_BESIDE_A_LOCK.replace("numba.get_num_threads()", unguarded)) == 1


def test_the_users_number_of_threads_is_put_back_even_after_an_error():
    before = numba.get_num_threads()

    def fails():
        assert numba.get_num_threads() == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runtime.launch(fails, (), 1)
    assert numba.get_num_threads() == before
    seen = []
    runtime.launch(lambda: seen.append(numba.get_num_threads()), (), before)
    assert seen == [before]


def test_small_tensors_are_stepped_in_one_thread_and_the_users_mask_is_heard():
    assert runtime.threads(runtime.SERIAL_BELOW - 1) == 1
    assert runtime.threads(runtime.SERIAL_BELOW) == numba.get_num_threads()
    assert runtime.threads(10, 1 << 20) == numba.config.NUMBA_NUM_THREADS
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert runtime.threads(1 << 20) == 1
    finally:
        numba.set_num_threads(before)
