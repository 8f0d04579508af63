"""``python -m tests.faults.saves FOLDER [naive]``, faults.c preloaded: every call of a save goes wrong once.

Each save happens in a forked child, the whole of it once for every call and every way to go wrong. What is
on disk afterwards is judged by bytes that were written beforehand without faults, and by the safetensors
library, never by the reader under test. Prints counts as JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import memopt_ref as mo
from memopt_ref.errors import CheckpointWriteError

NOTHING, FAIL, KILL_BEFORE, KILL_AFTER, KILL_HALFWAY = range(5)
WAYS = [(FAIL, e) for e in (errno.ENOSPC, errno.EIO, errno.EACCES)]
WAYS += [(KILL_BEFORE, 0), (KILL_AFTER, 0), (KILL_HALFWAY, 0)]

saved, refused_as_before, refused_in_place, killed = range(4)


def save(path: Path, step: int, naive: bool = False) -> None:
    """An optimizer that is full of its step's number."""
    opt = mo.Optimizer({"w": np.full(3000, step, np.float32)}, mo.Adam())
    opt.state["step"] = step
    if not naive:
        opt.save(path, params=True)
        return
    opt.save(path.with_name("elsewhere"), params=True, keep=1)
    with path.open("wb") as file:
        file.write(path.with_name("elsewhere").read_bytes())


def outcome(
    faults: ctypes.CDLL, at: int, how: int, error: int, action: Callable[[], None]
) -> tuple[int, int]:
    """What became of ``action`` in a child of its own, and how many calls it made."""
    end, report = os.pipe()
    child = os.fork()
    if child == 0:
        found = 99
        faults.fault_arm(at, how, error)
        try:
            action()
            found = saved
        except CheckpointWriteError as refused:
            found = refused_as_before if "is as it was" in str(refused) else refused_in_place
        except OSError:
            found = refused_as_before
        finally:
            calls = faults.fault_count()
            os.write(report, bytes([found]) + calls.to_bytes(4, "little"))
            os._exit(0)
    os.close(report)
    answer = os.read(end, 5)
    os.close(end)
    os.waitpid(child, 0)
    return (answer[0], int.from_bytes(answer[1:], "little")) if answer else (killed, at)


def cases(faults: ctypes.CDLL, folder: Path, naive: bool) -> Iterator[tuple[int, bytes | None]]:
    """(what became of it, the bytes at the checkpoint's place) for every call and every way."""
    path = folder / "run.memopt"
    for how, error in WAYS:
        for at in count(1):
            for entry in folder.iterdir():
                entry.unlink()
            save(path, 1)
            save(path, 2)
            found, calls = outcome(faults, at, how, error, lambda: save(path, 3, naive))
            if calls < at:
                break  # the save has fewer calls than that
            yield found, path.read_bytes() if path.exists() else None
            if not naive:
                save(path, 4)  # whatever was left behind, the next save succeeds and tidies up
                assert not list(folder.glob(".*"))
                assert float(load_file(path)["params/w"][0]) == 4


def main(folder: Path, naive: bool) -> dict[str, int]:
    """Count what the faults have done."""
    faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
    whole = {}
    for step in (2, 3):
        save(folder / "whole", step)
        whole[(folder / "whole").read_bytes()] = step
        assert float(load_file(folder / "whole")["state/w/m"].size) == 3000
    counts = dict.fromkeys(("cases", "refusals", "kills", "lost", "wrong words"), 0)
    for found, contents in cases(faults, folder, naive):
        step = whole.get(contents or b"", -1)
        counts["cases"] += 1
        counts["refusals"] += found in (refused_as_before, refused_in_place)
        counts["kills"] += found == killed
        counts["lost"] += step == -1
        told = {saved: step == 3, refused_as_before: step == 2, refused_in_place: step == 3, killed: step > 0}
        counts["wrong words"] += not told.get(found, False)
    return counts


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), "naive" in sys.argv)))
