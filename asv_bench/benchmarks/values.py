"""Figures that every machine reproduces: any change of one is a change of the library."""

from __future__ import annotations

from .common import FAST, RULES, SkipNotImplemented, rule_of, tracks

SHAPE = (512, 128)
THEOREMS = (
    *("ogd.tuned", "ogd.adanorm", "momentum.tuned", "adagrad.mirror", "adagrad.dual", "adagrad.full"),
    *("ftrl.proximal", "sm3.I", "sm3.II", "shampoo.tuned", "error_feedback.topk", "count_sketch.adagrad"),
)


class State:
    """Bytes of state."""

    version = "1"
    params = (RULES,)
    param_names = ("rule",)

    def track_state_bytes_per_parameter(self, name):
        return tracks.state_bytes_per_parameter(rule_of(name), SHAPE)

    track_state_bytes_per_parameter.unit = "bytes"

    def track_bytes_that_were_not_planned(self, name):
        return tracks.planner_difference(rule_of(name), SHAPE)

    track_bytes_that_were_not_planned.unit = "bytes"

    def track_least_bytes_moved(self, name):
        return tracks.least_bytes_moved(rule_of(name), SHAPE)

    track_least_bytes_moved.unit = "bytes"


class Borrowed:
    """Bytes that a step borrows, for an entry of a tensor of 2^20."""

    version = "1"
    params = (FAST,)
    param_names = ("rule",)

    def track_borrowed_bytes(self, name):
        return tracks.borrowed_bytes(rule_of(name), (1024, 1024)) / 2**20

    track_borrowed_bytes.unit = "bytes"


class Tightness:
    """Largest ratio of a regret to its bound in ``memopt verify run --suite core``."""

    version = "1"
    timeout = 300
    params = (THEOREMS,)
    param_names = ("theorem",)

    def setup_cache(self):
        try:
            return tracks.tightness()
        except ImportError:
            return {}

    def track_tightness(self, found, theorem):
        if theorem not in found:
            raise SkipNotImplemented(f"{theorem} is not in the suite at this commit")
        return found[theorem]

    track_tightness.unit = "of the bound"
