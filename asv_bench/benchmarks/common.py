"""What the benchmarks share: the library's own stop-watch and figures, and the rules by their lasting names.

asv runs these files, as they are today, against the library as it was at some commit. So what is measured
comes from the installed library through its public names, and how it is measured from this checkout.
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from asv_runner.benchmarks.mark import SkipNotImplemented

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# Kernels are compiled once a commit, beside asv's environments.
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


timing = of_checkout("backends/timing.py")
tracks = of_checkout("memopt_ref/bench/tracks.py")

RULES = tuple(tracks.RULES)
#: Rules whose step costs what its memory traffic costs.
FAST = tuple(name for name in RULES if name not in ("Shampoo", "GGT", "LowRankAdam"))


def rule_of(name: str):
    """The rule, where the library has it already; the benchmark is skipped where it has not."""
    try:
        return tracks.rule(name)
    except AttributeError:
        raise SkipNotImplemented(f"no {name} at this commit") from None


def limit(entries: int):
    """``w -= lr * g`` over so many entries."""
    try:
        import numba
    except ImportError:
        raise SkipNotImplemented("numba is not installed") from None
    descend = of_checkout("memopt_ref/bench/_limit.py").descend
    w, g = tracks.normal((entries,), 1), tracks.normal((entries,), 2, 1e-2)
    pieces = 4 * numba.get_num_threads()
    return lambda: descend(w, g, w.dtype.type(1e-3), pieces)
