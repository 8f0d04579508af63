"""``python -m tests.tuning_writers write|tune|kill FOLDER [naive]``: many processes and one store.

It forks, from a process without threads. ``write``: 16 processes keep 12 entries each, and 4 that all of them
keep. ``tune``: 16 processes tune the same keys at once, with a kernel that needs no compiler. ``kill``:
writers of one entry, each killed at a random moment. Prints what is found afterwards as JSON. ``naive`` keeps
all in one file, or writes into the file that is there.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import memopt_ref as mo
from memopt_ref.backends import Backend, Variant, numpy_ref, registry
from memopt_ref.backends.tuning import machine, measure, settle, store
from tests.checkpoint_killer import write_over

PROCESSES, OWN, SHARED, KILLS = 16, 12, 4, 12
SIZES = [64 << k for k in range(4)]


def entry(name: str, size: int = 1) -> store.Entry:
    return store.Entry(name, "numpy_ref", {}, "numpy_ref", {"x" * size: 1.0}, {}, {}, 5, 0.0, "2026-11-21")


def forked(task) -> list[int]:
    """Run ``task(k)`` in 16 processes that begin together; their exit codes."""
    gate, children = os.pipe(), []
    for k in range(PROCESSES):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(gate[1])
                os.read(gate[0], 1)
                task(k)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(gate[0])
    os.close(gate[1])
    return [os.waitpid(child, 0)[1] for child in children]


def keep_in_one_file(found: store.Entry) -> None:
    """The naive way: read all, add one, write all."""
    path = store.prepared() / "all.json"
    everything = json.loads(path.read_text()) if path.exists() else {}
    everything[found.key] = 1
    store.put(path, json.dumps(everything).encode())


def write(naive: bool) -> dict[str, int]:
    keep = keep_in_one_file if naive else store.write
    store.prepared()

    def many(k: int) -> None:
        for n in range(OWN):
            keep(entry(f"own {k} {n}"))
            keep(entry(f"shared {n % SHARED}"))

    codes = forked(many)
    one = store.folder() / "all.json"
    kept = len(json.loads(one.read_text())) if naive else len(list(store.entries()))
    return {"failed": sum(map(bool, codes)), "wanted": PROCESSES * OWN + SHARED, "kept": kept}


def slow(rule, w, g, state, pause=0.002):
    time.sleep(pause)
    numpy_ref.step(rule, w, g, state)


def tune() -> dict[str, int]:
    """Each process steps tensors of four buckets; how many keys are kept, and how often was measured."""
    module = sys.modules[__name__]
    module.VARIANTS = (Variant("toy", "bitwise", numpy_ref.supports, slow, {"pause": (0.002, 0.0)}),)
    registry._backends = {
        "toy": Backend("toy", "numpy", __spec__.name, automatic=True),
        "numpy": registry.known("numpy", "a test"),
    }
    sys.modules[__spec__.name] = module
    machine.company = lambda: lambda: 0.0
    settle.SMALLEST, settle.PROCESS_SECONDS, measure.ROUNDS = 1, 60.0, 6
    store.folder()  # the sources are looked at once, before anyone is forked
    counted, measured = os.pipe()
    timed = measure.timed

    def counting(*arguments):
        os.write(measured, b"x")
        return timed(*arguments)

    measure.timed = counting

    def steps(k: int) -> None:
        settle._born = os.getpid()
        for n in SIZES:
            opt = mo.Optimizer(np.ones(n), mo.SGD())
            opt.step(np.ones(n))
            assert opt._choices[""].tuned
            assert "measured" in opt.explain()
            assert "not measured" not in opt.explain()

    codes = forked(steps)
    os.close(measured)
    with open(counted, "rb") as file:
        times = len(file.read())
    kept = len(list(store.entries()))
    return {"failed": sum(map(bool, codes)), "wanted": len(SIZES), "kept": kept, "measured": times}


def kill(naive: bool) -> dict[str, int]:
    """How often a killed writer left no readable entry, and whether the next writer was hindered."""
    chance, lost, hindered = random.Random(7), 0, 0
    path = store.prepared() / store.file_of("key")
    store.write(entry("key"))
    for k in range(KILLS):
        child = os.fork()
        if child == 0:
            size = 0
            while True:
                size = (size + 997) % 50_000
                if naive:
                    write_over(path, store.encoded(entry("key", size + 1)))
                else:
                    store.write(entry("key", size + 1))
        time.sleep(0.02 + 0.05 * chance.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                lost += store.read("key") is None
            except RuntimeWarning:
                lost += 1
        hindered += not store.write(entry("key", k + 1))
        hindered += store.read("key") != entry("key", k + 1)
    left = sum(p.name.endswith(".tmp") for p in store.folder().iterdir())
    return {"lost": lost, "hindered": hindered, "left": left}


if __name__ == "__main__":
    what, folder, *options = sys.argv[1:]
    os.environ["MEMOPT_CACHE_DIR"] = str(Path(folder))
    os.environ["MEMOPT_TUNE"] = "auto"
    print(json.dumps(tune() if what == "tune" else {"write": write, "kill": kill}[what]("naive" in options)))
