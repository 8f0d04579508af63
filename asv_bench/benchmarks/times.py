"""Absolute times, for the trend on one machine only."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from .common import BACKENDS, RULES, SIZES, SkipNotImplemented, rule_of, shape_of, step_on, tracks

FIRST_STEP = """
import time, numpy as np, memopt_ref as mo
begin = time.perf_counter()
w = np.ones((2**12, 64), np.float32)
mo.Optimizer(w, mo.{rule}()).step(w)
print(time.perf_counter() - begin)
"""


def least(step, times):
    """Least seconds of so many calls."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return float(np.min(seconds))


class Step:
    """One step; each call goes on from the last, on gradients that keep every value in range."""

    version = "1"
    params = (BACKENDS[1:], RULES, SIZES)
    param_names = ("backend", "rule", "entries")
    warmup_time = 0.05
    sample_time = 0.02
    repeat = (3, 5, 0.3)
    timeout = 300

    def setup(self, backend, name, entries):
        self.step = step_on(backend, rule_of(name), shape_of(name, entries))
        self.step()

    def time_step(self, backend, name, entries):
        self.step()


class StartUp:
    """What a new process waits for."""

    version = "1"
    timeout = 300

    def timeraw_import(self):
        return "import memopt_ref"

    def timeraw_import_of_kernels(self):
        return "import memopt_ref; import memopt_ref.backends.numba_cpu"

    def track_first_step_from_the_cache(self):
        return first_step("Adam")

    track_first_step_from_the_cache.unit = "seconds"

    def track_dispatch(self):
        """Seconds of a step of a tensor that costs nothing itself."""
        return least(tracks.step(rule_of("Adam"), (16,)), 2000)

    track_dispatch.unit = "seconds"


class FirstStep:
    """The first step of a new process whose kernels were compiled before."""

    version = "1"
    timeout = 300
    params = (("SGD", "SM3", "Adafactor", "MicroAdam", "CountSketchAdam", "ErrorFeedbackSGD"),)
    param_names = ("rule",)

    def track_first_step_from_the_cache(self, rule):
        return first_step(rule)

    track_first_step_from_the_cache.unit = "seconds"


def first_step(rule):
    """Least seconds of some processes, the first of which compiles."""
    rule_of(rule)
    times = []
    for _ in range(4):
        command = [sys.executable, "-c", FIRST_STEP.replace("{rule}", rule)]
        times.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return min(times[1:])


class LookUp:
    """What the tuner costs where there is nothing to measure any more."""

    version = "1"

    def setup(self):
        try:
            from memopt_ref.backends import select, tuning
        except ImportError:
            raise SkipNotImplemented("no tuning at this commit") from None
        rule, self.w = rule_of("Adam"), np.zeros(2**18, np.float32)
        tuning.tune([rule], [self.w.shape])
        self.settle = lambda: tuning.settled(self.choice, rule, self.w)
        self.tuning, self.choice = tuning, select(rule, self.w.shape, self.w.dtype)

    def track_in_the_process(self):
        """Seconds for a tensor like one that the process has settled before."""
        with self.tuning.use_mode("load"):
            return least(self.settle, 2000)

    track_in_the_process.unit = "seconds"

    def track_on_the_disk(self):
        """Seconds for a tensor that an earlier process has settled."""

        def step():
            self.tuning.forget()
            self.settle()

        with self.tuning.use_mode("load"):
            return least(step, 200)

    track_on_the_disk.unit = "seconds"
