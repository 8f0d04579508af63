"""Figures that every machine reproduces: any change of one is a change of the library."""

from __future__ import annotations

import os

from .common import FAST, ROOT, RULES, SkipNotImplemented, of_bench, rule_of, tracks

SHAPE = (512, 128)
THEOREMS = (
    *("ogd.tuned", "ogd.adanorm", "momentum.tuned", "adagrad.mirror", "adagrad.dual", "adagrad.full"),
    *("ftrl.proximal", "sm3.I", "sm3.II", "shampoo.tuned", "error_feedback.topk", "count_sketch.adagrad"),
    *("error_feedback.sign", "ef21.mean", "microadam.error", "microadam.sent"),
)
#: As the records of a suite name their players; the others have no theorem about regret that says anything.
PLAYERS = (
    *("SGD", "AdaGradNorm", "AdaGrad", "FullMatrixAdaGrad", "FTRLProximal", "SM3", "Shampoo"),
    *("ErrorFeedbackSGD", "CountSketchAdaGrad"),
)

cuda = of_bench("tracks_cuda")


def of_rule(name):
    """The rule, and the shape of which its figures are told."""
    entries = SHAPE[0] * SHAPE[1]
    few = tracks.MATRIX.get(name, entries) < entries
    return rule_of(name), tracks.shape(name, entries) if few else SHAPE


class State:
    """Bytes of state."""

    version = "1"
    params = (RULES,)
    param_names = ("rule",)

    def track_state_bytes_per_parameter(self, name):
        return tracks.state_bytes_per_parameter(*of_rule(name))

    track_state_bytes_per_parameter.unit = "bytes"

    def track_bytes_that_were_not_planned(self, name):
        return tracks.planner_difference(*of_rule(name))

    track_bytes_that_were_not_planned.unit = "bytes"

    def track_least_bytes_moved(self, name):
        return tracks.least_bytes_moved(*of_rule(name))

    track_least_bytes_moved.unit = "bytes"


class Borrowed:
    """Bytes that a step borrows, for an entry of a tensor of 2^20, or of fewer where that is arithmetic."""

    version = "1"
    params = (RULES,)
    param_names = ("rule",)

    def track_borrowed_bytes(self, name):
        few = name not in FAST
        shape = tracks.shape(name, 2**20) if few else (1024, 1024)
        return tracks.borrowed_bytes(rule_of(name), shape, times=1 if few else 5) / (shape[0] * shape[1])

    track_borrowed_bytes.unit = "bytes"


class Suite:
    """One run of ``memopt verify run --suite core``, which is the same on every machine."""

    version = "1"
    timeout = 300

    def setup_cache(self):
        try:
            return tracks.tightness()
        except ImportError:
            return {"theorem": {}, "rule": {}}

    def worst(self, found, of, name):
        """A largest ratio, where the suite has it at this commit."""
        if name not in found[of]:
            raise SkipNotImplemented(f"{name} is not in the suite at this commit")
        return found[of][name]


class Tightness(Suite):
    """Largest ratio of what a theorem bounds to its bound."""

    params = (THEOREMS,)
    param_names = ("theorem",)

    def track_tightness(self, found, theorem):
        return self.worst(found, "theorem", theorem)

    track_tightness.unit = "of the bound"


class Regret(Suite):
    """Largest ratio of a rule's regret to a bound of it."""

    params = (PLAYERS,)
    param_names = ("rule",)

    def track_regret(self, found, rule):
        return self.worst(found, "rule", rule)

    track_regret.unit = "of the bound"


class Cuda:
    """The most that a CUDA kernel costs in float32 on any of three devices, as its committed table says."""

    version = "1"
    params = (tuple(cuda.most(cuda.committed(ROOT))),)
    param_names = ("kernel",)

    def setup(self, kernel):
        found = cuda.most(cuda.committed(ROOT, os.environ.get("ASV_COMMIT")))
        if kernel not in found:
            raise SkipNotImplemented(f"no kernel {kernel} at this commit")
        self.cost = found[kernel]

    def track_registers(self, kernel):
        return self.cost.registers

    track_registers.unit = "registers"

    def track_spilled_bytes(self, kernel):
        return self.cost.spilled

    track_spilled_bytes.unit = "bytes"

    def track_code_bytes(self, kernel):
        return self.cost.code

    track_code_bytes.unit = "bytes"
