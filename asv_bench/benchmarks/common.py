"""What the benchmarks share: the library's own stop-watch and figures, and the rules by their lasting names.

asv runs these files, as they are today, against the library as it was at some commit. So what is measured
comes from the installed library through its public names, and how it is measured from this checkout.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from asv_runner.benchmarks.mark import SkipNotImplemented

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# Kernels are compiled once a commit, and measured choices kept, beside asv's environments.
os.environ.setdefault("MEMOPT_CACHE_DIR", str(HERE.parent / ".asv" / "kernels"))


def of_checkout(path: str) -> ModuleType:
    """A module of this checkout that needs nothing beside it but public names."""
    name = "checkout_" + Path(path).stem
    if name not in sys.modules:
        spec = spec_from_file_location(name, ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def of_bench(name: str) -> ModuleType:
    """A module of this checkout's ``memopt_ref/bench``, those that it imports from there included."""
    package = "checkout.bench"
    if package not in sys.modules:
        for whole, folder in (("checkout", "memopt_ref"), (package, "memopt_ref/bench")):
            sys.modules[whole] = made = ModuleType(whole)
            made.__path__ = [str(ROOT / folder)]
    return import_module(f"{package}.{name}")


timing = of_checkout("backends/timing.py")
tracks = of_bench("tracks")

RULES = tuple(tracks.RULES)
#: Rules whose step costs what its memory traffic costs.
FAST = tuple(name for name in RULES if name not in tracks.MATRIX)
#: Entries: where a step is mostly its launch, within a core's caches, and beyond them.
SIZES = (2**12, 2**16, 2**20)
BACKENDS = ("auto", "numpy", "numba", "cupy")


def rule_of(name: str):
    """The rule, where the library has it already; the benchmark is skipped where it has not."""
    try:
        return tracks.rule(name)
    except AttributeError:
        raise SkipNotImplemented(f"no {name} at this commit") from None


def shape_of(name: str, entries: int):
    """The shape; the smallest is that of the rule's own limit where this is below it, others are skipped."""
    found = tracks.shape(name, entries)
    if found[0] * found[1] < entries and entries > SIZES[0]:
        raise SkipNotImplemented(f"{name} is stepped on {tracks.MATRIX[name]} entries at most")
    return found


def step_on(backend: str, rule, shape):
    """One step by the kernels of a backend, waited for; skipped where the backend cannot run or has none."""
    import memopt_ref as mo

    if backend in ("auto", "numpy"):
        return tracks.step(rule, shape, backend)
    known = {row.name: row for row in mo.backends.status()}
    if backend not in known:
        raise SkipNotImplemented(f"no backend {backend} at this commit")
    if not known[backend].available:
        raise SkipNotImplemented(known[backend].reason)
    library = "cupy" if backend == "cupy" else "numpy"
    if mo.backends.select(rule, shape, "float32", library, backend).backend.name != backend:
        raise SkipNotImplemented(f"{backend} has no kernel for {rule.name}")
    if backend != "cupy":
        return tracks.step(rule, shape, backend)
    import cupy

    once = tracks.step(rule, shape, backend, layout=cupy.asarray)

    def step():
        once()
        cupy.cuda.get_current_stream().synchronize()

    return step


def limit(entries: int):
    """``w -= lr * g`` over so many entries."""
    try:
        return of_bench("limit").limit(entries)
    except ImportError:
        raise SkipNotImplemented("numba is not installed") from None
