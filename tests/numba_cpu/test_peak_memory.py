"""What a step of a tensor of 64 MiB needs beside parameter, gradient and state, measured: next to nothing.

Two measures, since each sees what the other does not: NumPy's arrays through ``tracemalloc``, and the
process's resident memory through the system's own mark, which compiled code cannot bypass.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numba_cpu

F32 = np.dtype(np.float32)
pytest.importorskip("numba", reason="the kernels need numba")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

MEASURE = """
import sys, tracemalloc
import numpy as np, memopt_ref as mo
from memopt_ref.backends.numba_cpu import engine
from tests.table import dtype_of

OPTIONS = {
    "SGD": {"momentum": 0.9},
    "Adam": {"weight_decay": 0.1},
    "SM3": {"momentum": 0.9},
    "ScaledSign": {"compressor": mo.ScaledSign()},
}
KINDS = {"ScaledSign": mo.ErrorFeedbackSGD}

def rule(name):
    return KINDS.get(name, getattr(mo, name, None))(**OPTIONS.get(name, {}))

def mark():
    # Not ru_maxrss, which a process inherits from its parent, and which cannot be put back.
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

def resident():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

def growth(name, dtype, other, backend, scale, **options):
    itemsize = dtype_of(dtype).itemsize
    make = lambda rows: (np.ones((rows, 4096), dtype_of(dtype)), np.full((rows, 4096), 0.5, dtype_of(other)))
    # Threads and kernels are there after the first step: a compiler needs more memory than any step.
    w, g = make(64 * 2**20 // 4096 // itemsize)
    opt = mo.Optimizer(w, rule(name), backend, nonfinite="raise", **options)
    if backend == "numba":
        assert " numba." in opt.explain(), opt.explain()
    for x in opt.state["leaves"][""].values():
        if isinstance(x, np.ndarray):
            x += 0
    opt.step(g, scale=scale)
    tracemalloc.start()
    open("/proc/self/clear_refs", "w").write("5")
    before = resident()
    opt.step(g, scale=scale)
    grown = mark() - before
    traced = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return max(grown, traced)

for case in sys.argv[1:]:
    name, dtype, other, backend, scale, *norm = case.split(",")
    options = {"max_norm": float(norm[0])} if norm else {}
    print(case, growth(name, dtype, other, backend, float(scale), **options))
"""


def growth(*cases: str) -> dict[str, float]:
    """MiB that the step of each case needs: rule, dtypes of parameter and gradient, backend, scale, norm."""
    command = [sys.executable, "-c", MEASURE, *cases]
    # A measurement for the tuner would be made at the first step, on arrays of its own.
    environment = {**os.environ, "MEMOPT_TUNE": "off"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return {case: float(grown) for case, grown in map(str.split, done.stdout.splitlines())}


#: Every rule that has kernels.
RULES = (
    *(
        "SGD",
        "AdaGrad",
        "AdaGradNorm",
        "RowWiseAdaGrad",
        "FTRLProximal",
        "RMSProp",
        "Adam",
        "AdamW",
        "AMSGrad",
    ),
    *("SM3", "Adafactor", "CountSketchMomentum", "CountSketchAdaGrad", "CountSketchAdam"),
    *("CountSketchRMSProp", "LowRankAdam", "MicroAdam", "TopKAdam", "ErrorFeedbackSGD", "EF21"),
)
CASES = (
    *(f"{name},float32,float32,numba,1" for name in (*RULES, "ScaledSign")),
    "Adam,float32,bfloat16,numba,1",
    "Adam,bfloat16,bfloat16,numba,1",
    "Adam,float32,float16,numba,0.5,0.1",
    "RowWiseAdaGrad,bfloat16,bfloat16,numba,1",
    "ErrorFeedbackSGD,bfloat16,float32,numba,1",
    "CountSketchAdam,bfloat16,bfloat16,numba,1",
    "MicroAdam,float32,bfloat16,numba,1",
)


def test_every_rule_that_has_kernels_is_measured():
    kinds = [getattr(mo, name) for name in mo.__all__]
    rules = [k() for k in kinds if isinstance(k, type) and issubclass(k, mo.Rule) and k is not mo.Rule]
    kernels = numba_cpu.VARIANTS
    served = {
        type(rule).__name__ for rule in rules if any(k.supports(rule, (4096, 4096), F32)[0] for k in kernels)
    }
    assert served == set(RULES)


def test_a_step_with_the_check_for_nan_needs_less_than_4_mebibytes():
    assert {case: grown for case, grown in growth(*CASES).items() if grown >= 4} == {}


def test_the_reference_needs_more_and_is_seen_to():
    case = "SGD,float32,bfloat16,numpy,1"
    assert growth(case)[case] > 64
