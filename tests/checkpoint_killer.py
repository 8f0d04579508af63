"""``python -m tests.checkpoint_killer FOLDER KILLS SEED [naive]``: savers, each killed at a random moment.

It forks, from a process without threads. A saver saves one state after the other; after the kill the newest
checkpoint must be whole and at least as new as the last one that the saver reported. Prints the number of
checkpoints lost and of temporary files left behind, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import memopt_ref as mo
from memopt_ref.checkpoint import store
from memopt_ref.errors import CheckpointError

SIZE = 2**18


def saver(path: Path, step: int, report: int, naive: bool) -> None:
    """Save ever newer states until killed; every array is full of the step's number."""
    opt = mo.Optimizer({"w": np.zeros(SIZE, np.float32)}, mo.Adam())
    while True:
        step += 1
        opt.state["step"] = step
        for name in "mv":
            opt.state["leaves"]["w"][name][:] = step
        if naive:
            good = path.with_suffix(".good")
            opt.save(good, keep=1)
            write_over(path, good.read_bytes())
        else:
            opt.save(path)
        os.write(report, step.to_bytes(4, "little"))


def write_over(path: Path, contents: bytes, pieces: int = 100) -> None:
    """The naive way: into the old file, and slowly enough for most kills to fall in between."""
    size = -(-len(contents) // pieces)
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(contents), size):
            file.write(contents[start : start + size])
            os.fsync(file.fileno())


def newest(path: Path) -> int:
    """The step of the checkpoint, whose arrays must be of one save; -1 if it is lost."""
    try:
        store.verify(path)
        opt = mo.Optimizer.load(path, {"w": np.zeros(SIZE, np.float32)})
    except CheckpointError:
        return -1
    slots = opt.state["leaves"]["w"]
    same = np.all(slots["m"] == opt.step_count) and np.all(slots["v"] == opt.step_count)
    return opt.step_count if same else -1


def kill_one(path: Path, last: int, seconds: float, naive: bool) -> tuple[int, int]:
    """The newest step that a killed saver has reported, and the newest that is found."""
    end, report = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        try:
            saver(path, last, report, naive)
        finally:
            os._exit(1)
    os.close(report)
    os.read(end, 4)  # until the first save is done
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    reported = last + 1
    while number := os.read(end, 4):
        reported = int.from_bytes(number, "little")
    os.close(end)
    return reported, newest(path)


def main(folder: Path, kills: int, seed: int, naive: bool) -> dict[str, int]:
    moments, path = random.Random(seed), folder / "run.memopt"
    lost, left, last = 0, 0, 0
    for _ in range(kills):
        reported, found = kill_one(path, last, moments.uniform(0, 0.3 if naive else 0.03), naive)
        lost += found < reported
        last = max(reported, found)
        left = max(left, len(list(folder.glob(".*.tmp"))))
    opt = mo.Optimizer({"w": np.zeros(SIZE, np.float32)}, mo.Adam())
    opt.save(path)
    names = sorted(entry.name for entry in folder.iterdir() if not naive)
    return {"lost": lost, "left": left, "saves": last, "files": len(names)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "naive" in sys.argv)))
