"""Times as multiples of another step's, in turn in one process: what two machines can compare."""

from __future__ import annotations

import time

import numpy as np

from .common import FAST, limit, rule_of, timing, tracks

#: Rounds, unless they take longer than so many seconds; never less than five.
ROUNDS, SECONDS = 25, 1.0


def ratio(steps, to):
    """The other contestant's time as a multiple of ``to``'s."""
    for step in steps.values():
        step()  # compiles
    begin = time.perf_counter()
    for step in steps.values():
        step()
    rounds = int(SECONDS / (time.perf_counter() - begin))
    found = timing.interleaved(steps, to, min(ROUNDS, max(5, rounds)))
    (name,) = set(steps) - {to}
    return found[name].ratio


class Ratio:
    """What the tables share."""

    version = "1"
    timeout = 300
    unit = "x"


class AgainstNumpy(Ratio):
    """A step on the automatic backend, to the reference's."""

    params = (FAST, (2**12, 2**20))
    param_names = ("rule", "entries")

    def track_ratio(self, name, entries):
        rule, shape = rule_of(name), (entries // 64, 64)
        step = {backend: tracks.step(rule, shape, backend) for backend in ("auto", "numpy")}
        return ratio(step, "numpy")


class AgainstLimit(Ratio):
    """A step, to ``w -= lr * g`` over as many entries."""

    params = (FAST,)
    param_names = ("rule",)

    def track_ratio(self, name):
        step = tracks.step(rule_of(name), (4096, 1024))
        return ratio({"ours": step, "limit": limit(2**22)}, "limit")


class SmallTensors(Ratio):
    """Two hundred tensors of 4,000 entries, to one tensor of all of them."""

    params = (("Adam", "SM3"),)
    param_names = ("rule",)

    def track_ratio(self, name):
        many = tracks.step(rule_of(name), {str(k): (40, 100) for k in range(200)})
        return ratio({"many": many, "one": tracks.step(rule_of(name), (8000, 100))}, "one")


class Rows(Ratio):
    """A table of which 1 % of the rows have gradients: the automatic backend, to the reference."""

    params = (("SGD", "AdaGrad", "SM3", "RowWiseAdaGrad", "CountSketchAdam", "CountSketchAdaGrad"),)
    param_names = ("rule",)

    def track_ratio(self, name):
        steps = {b: tracks.row_step(rule_of(name), 50_000, 500, 128, b) for b in ("auto", "numpy")}
        return ratio(steps, "numpy")


class Layouts(Ratio):
    """A tensor that is not laid out row by row, to one that is."""

    params = (("Adam", "SM3"), ("fortran", "row slice", "every second"))
    param_names = ("rule", "layout")

    def track_ratio(self, name, layout):
        odd = {
            "fortran": lambda x: np.asfortranarray(x),
            "row slice": lambda x: np.concatenate([x, x], axis=1)[:, : x.shape[1]],
            "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        }[layout]
        rule, shape = rule_of(name), (2048, 512)
        return ratio(
            {"odd": tracks.step(rule, shape, layout=odd), "plain": tracks.step(rule, shape)}, "plain"
        )
