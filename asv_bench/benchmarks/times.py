"""Absolute times, for the trend on one machine only."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from .common import FAST, rule_of, tracks

FIRST_STEP = """
import time, numpy as np, memopt_ref as mo
begin = time.perf_counter()
w = np.ones(2**18, np.float32)
mo.Optimizer(w, mo.Adam()).step(w)
print(time.perf_counter() - begin)
"""


class Step:
    """One step; each call goes on from the last, on gradients that keep every value in range."""

    version = "1"
    params = (("auto", "numpy"), FAST)
    param_names = ("backend", "rule")
    warmup_time = 0.05
    sample_time = 0.02
    repeat = (3, 5, 0.5)
    timeout = 300

    def setup(self, backend, name):
        self.step = tracks.step(rule_of(name), (1024, 64), backend)
        self.step()

    def time_step(self, backend, name):
        self.step()


class StartUp:
    """What a new process waits for."""

    version = "1"

    def timeraw_import(self):
        return "import memopt_ref"

    def track_first_step_from_the_cache(self):
        times = []
        for _ in range(4):
            done = subprocess.run(
                [sys.executable, "-c", FIRST_STEP], capture_output=True, text=True, check=True
            )
            times.append(float(done.stdout))
        return min(times[1:])

    track_first_step_from_the_cache.unit = "seconds"

    def track_dispatch(self):
        """Seconds of a step of a tensor that costs nothing itself."""
        step = tracks.step(rule_of("Adam"), (16,))
        times = []
        for _ in range(2000):
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
        return float(np.min(times))

    track_dispatch.unit = "seconds"
