"""Times as multiples of another step's, in turn in one process: what two machines can compare."""

from __future__ import annotations

import time
import warnings

import numpy as np

from .common import (
    BACKENDS,
    FAST,
    RULES,
    SIZES,
    SkipNotImplemented,
    limit,
    of_bench,
    rule_of,
    shape_of,
    step_on,
    timing,
    tracks,
)

#: Rounds, unless they take longer than so many seconds; never less than five.
ROUNDS, SECONDS = 25, 1.0

peers = of_bench("peers")


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

    params = (FAST, SIZES)
    param_names = ("rule", "entries")

    def track_ratio(self, name, entries):
        rule, shape = rule_of(name), shape_of(name, entries)
        return ratio({backend: tracks.step(rule, shape, backend) for backend in ("auto", "numpy")}, "numpy")


class Backends(Ratio):
    """A step by a backend that is named, to the reference's: its kernels whatever the size."""

    params = (BACKENDS[2:], FAST, SIZES)
    param_names = ("backend", "rule", "entries")

    def track_ratio(self, backend, name, entries):
        rule, shape = rule_of(name), shape_of(name, entries)
        steps = {"kernel": step_on(backend, rule, shape), "numpy": tracks.step(rule, shape, "numpy")}
        return ratio(steps, "numpy")


class AgainstLimit(Ratio):
    """A step, to ``w -= lr * g`` over as many entries."""

    params = (FAST,)
    param_names = ("rule",)

    def track_ratio(self, name):
        step = tracks.step(rule_of(name), (4096, 1024))
        return ratio({"ours": step, "limit": limit(2**22)}, "limit")


class AgainstPeers(Ratio):
    """A step, to another library's on the same tensor; skipped where that is not installed."""

    params = (("torch", "optax"), tuple(n for n in (*peers.TORCH, "SM3", "SM3 momentum") if n in RULES))
    param_names = ("library", "rule")

    def setup(self, library, name):
        if not peers.installed(library):
            raise SkipNotImplemented(f"{library} is not installed in this environment")

    def track_ratio(self, library, name):
        shape = (4096, 1024)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peers warn of their own beta features
            theirs = peers.PEERS[library](name, {"w": shape})
            if theirs is None:
                raise SkipNotImplemented(f"{library} has no {name}")
            return ratio({"ours": tracks.step(rule_of(name), shape), "theirs": theirs}, "theirs")


class RowsAgainstPeers(Ratio):
    """CountSketchAdam on a table of which 2 % of the rows have gradients, to torch's SparseAdam."""

    def setup(self):
        if not peers.installed("torch"):
            raise SkipNotImplemented("torch is not installed in this environment")

    def track_ratio(self):
        size = 50_000, 1000, 256
        theirs = peers.torch_sparse_adam(*size)
        return ratio({"ours": tracks.row_step(rule_of("CountSketchAdam"), *size), "theirs": theirs}, "theirs")


class SmallTensors(Ratio):
    """Two hundred tensors of 4,000 entries, to one tensor of all of them."""

    params = (("Adam", "SM3", "SGD", "AdaGrad", "Adafactor"),)
    param_names = ("rule",)

    def track_ratio(self, name):
        many = tracks.step(rule_of(name), {str(k): (40, 100) for k in range(200)})
        return ratio({"many": many, "one": tracks.step(rule_of(name), (8000, 100))}, "one")


class Rows(Ratio):
    """A table of which 1 % of the rows have gradients: the automatic backend, to the reference."""

    params = (
        (
            *("SGD", "AdaGrad", "SM3", "RowWiseAdaGrad", "CountSketchAdam", "CountSketchAdaGrad"),
            *("CountSketchMomentum", "CountSketchRMSProp", "SM3 momentum"),
        ),
    )
    param_names = ("rule",)

    def track_ratio(self, name):
        steps = {b: tracks.row_step(rule_of(name), 50_000, 500, 128, b) for b in ("auto", "numpy")}
        return ratio(steps, "numpy")


class Layouts(Ratio):
    """A tensor that is not laid out row by row, to one that is."""

    params = (("Adam", "SM3", "Adafactor", "MicroAdam"), ("fortran", "row slice", "every second"))
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
