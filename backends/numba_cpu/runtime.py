"""Threads and forks around compiled loops that run in parallel.

Of Numba's threading layers, ``workqueue`` aborts the process when two Python threads launch at once, and
``omp`` kills a child that was forked after a launch and launches again. So launches on the first take turns,
and a child of the second steps in one thread. A child of any gets a new lock where Numba has one for its
threads: another thread may have had the old one. The user's number of threads is put back after each launch.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numba
from numba.np.ufunc import parallel

#: Entries below which threads cost more than they gain.
SERIAL_BELOW = 32768

_turn = threading.Lock()
_orphaned = False
_warned = False


def layer() -> str | None:
    """Numba's threading layer, or None before the first launch in this process."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


def _after_fork() -> None:
    global _turn, _orphaned
    _turn = threading.Lock()
    # Numba takes this lock whenever it is asked for its threads, and whoever had it is not in the child.
    if hasattr(parallel, "_backend_init_thread_lock"):
        parallel._backend_init_thread_lock = threading.RLock()
    # Whoever launched it: the library of threads remembers its process.
    _orphaned = _orphaned or layer() == "omp"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threads(entries: int, wanted: int | None = None) -> int:
    """Number of threads for a step of this many entries; ``wanted`` is heard before the rule of thumb."""
    global _warned
    number = (1 if entries < SERIAL_BELOW else numba.get_num_threads()) if wanted is None else wanted
    if number > 1 and _orphaned:
        if not _warned:
            _warned = True
            what = "this process was forked after Numba had started OpenMP threads: it steps in one thread"
            warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=2)
        return 1
    return min(number, int(numba.config.NUMBA_NUM_THREADS))


def launch(loop: Callable[..., None], arguments: tuple[Any, ...], number: int) -> None:
    """Run a parallel loop in ``number`` threads, in turn where the threading layer wants it."""
    if layer() in ("omp", "tbb"):
        _launch(loop, arguments, number)
    else:
        with _turn:
            _launch(loop, arguments, number)


def _launch(loop: Callable[..., None], arguments: tuple[Any, ...], number: int) -> None:
    before = numba.get_num_threads()
    if before == number:
        loop(*arguments)
        return
    numba.set_num_threads(number)
    try:
        loop(*arguments)
    finally:
        numba.set_num_threads(before)
