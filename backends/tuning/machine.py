"""What a measured time belongs to: this processor, these libraries, these sources. Nothing is imported."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SCHEMA = 1
LIBRARIES = ("numpy", "numba", "llvmlite", "ml_dtypes")
SETTINGS = ("NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY", "NUMBA_CPU_NAME")
#: The packages whose sources decide how fast a kernel is; folders below them count too.
SOURCES = ("memopt_ref.rules", "memopt_ref.parts", "memopt_ref.backends")


def processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_available() -> int:
    """How many threads a kernel may use: as Numba is told, once it is loaded or by the environment."""
    numba = sys.modules.get("numba")
    if numba is not None and hasattr(numba, "get_num_threads"):
        return int(numba.get_num_threads())
    told = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) > 0 else processors()


def environment() -> dict[str, Any]:
    """Everything that a measurement depends on beside its key; the host's name and load are not in it."""
    return {
        "schema": SCHEMA,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "processors": processors(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "settings": {name: os.environ[name] for name in SETTINGS if os.environ.get(name)},
        "sources": _hash_of_sources(),
    }


def fingerprint(found: dict[str, Any]) -> str:
    """The name of an environment.

    Examples
    --------
    >>> fingerprint({"a": 1}) == fingerprint({"a": 1}) != fingerprint({"a": 2})
    True
    """
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@functools.cache
def _processor() -> str:
    """The processor's name and a hash of what it can do, which a virtual machine may hide in part."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    abilities = " ".join(sorted((told.get("flags") or told.get("Features") or "").split()))
    name = told.get("model name") or told.get("CPU part") or platform.processor()
    return f"{name} ({hashlib.sha256(abilities.encode()).hexdigest()[:8]})"


def _places(package: str) -> list[str]:
    spec = find_spec(package)
    return [] if spec is None else list(spec.submodule_search_locations or [])


@functools.cache
def _hash_of_sources() -> str:
    return hash_of(Path(place) for package in SOURCES for place in _places(package))


def hash_of(folders: Any) -> str:
    """Hash of all Python and CUDA sources in these folders and below."""
    digest = hashlib.sha256()
    for folder in map(os.fspath, folders):
        # Paths as text: a first step waits for this, and objects would take twice as long.
        walked = ((where, name) for where, _, names in os.walk(folder) for name in names)
        files = [os.path.join(where, name) for where, name in walked if name.endswith((".py", ".cu", ".cuh"))]
        for name, file in sorted(
            (os.path.relpath(file, folder).replace(os.sep, "/"), file) for file in files
        ):
            with open(file, "rb") as source:
                digest.update(f"\0{name}\0".encode() + hashlib.sha256(source.read()).digest())
    return digest.hexdigest()[:16]


def company(used: Callable[[], tuple[float, float, int]] | None = None) -> Callable[[], float]:
    """A function that tells how much of all processors others used since this one was called, from 0 to 1.

    Parameters
    ----------
    used : function, optional
        Tells seconds of a clock, seconds of processors that others used, and how many processors there are.

    Examples
    --------
    >>> told = iter([(10.0, 3.0, 4), (12.0, 5.02, 4)])
    >>> round(company(lambda: next(told))(), 3)
    0.25
    """
    ask = _used if used is None else used
    begin, before, cores = ask()

    def others() -> float:
        now, busy, _ = ask()
        # The system counts in hundredths of a second: a tick at either end may be another's.
        return min(1.0, max(0.0, busy - before - 0.02) / (cores * max(now - begin, 1e-9)))

    return others


def _used() -> tuple[float, float, int]:
    """What the system counts as busy, less what this process used itself; 0 where it does not say."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return time.monotonic(), 0.0, 1
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, lines[0].split()[1:9])
    own, cores = os.times(), sum(line.startswith("cpu") for line in lines) - 1
    busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), busy - own.user - own.system, cores
