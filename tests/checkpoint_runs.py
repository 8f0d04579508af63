"""Every rule of the table, saved before every step; and gone on with from each.

``python -m tests.checkpoint_runs FOLDER`` goes on, and prints the final fingerprints.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import memopt_ref as mo
from memopt_ref import schedules
from memopt_ref.parts.row_sparse import RowSparse
from tests.checkpoints import SCALE, fingerprint
from tests.table import Case, all_cases, dtype_of

STEPS = 12

#: Runs are stopped on the reference and gone on with on this backend, whose bits must be the same.
BACKEND = os.environ.get("MEMOPT_TEST_BACKEND", "numpy")


def cases() -> list[Case]:
    """The table, and rules with schedules."""
    warm = schedules.WarmUp(0.1, 6) * schedules.Linear(1.0, 0.5, 10)
    return [
        *all_cases(),
        Case("scheduled-adam", mo.Adam(learning_rate=warm, beta1=schedules.Piecewise((4,), (0.9, 0.8)))),
        Case("scheduled-sgd", mo.SGD(momentum=schedules.Linear(0.0, 0.9, 8), weight_decay=warm)),
    ]


def dtypes(case: Case, k: int) -> tuple[str, ...]:
    """All dtypes where the run is stopped once, one of them where it is stopped everywhere."""
    return case.dtypes if k else case.dtypes[len(case.name) % len(case.dtypes) :][:1]


def stops(k: int) -> tuple[int, ...]:
    """After which steps a run is stopped."""
    return (STEPS - 5,) if k and SCALE == 1 else tuple(range(STEPS))


def parameters(case: Case, k: int) -> dict[str, Any]:
    """A leaf of each dtype."""
    shape = max(case.shapes, key=lambda shape: (len(shape) == 2, np.prod(shape, dtype=int)))
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(shape).astype(dtype_of(name)) for name in dtypes(case, k)}


def gradients(params: dict[str, Any], step: int) -> dict[str, Any]:
    """Dense and row-sparse in turn; now and then the first leaf gets none."""
    rng = np.random.default_rng([4, step])
    made: dict[str, Any] = {}
    for k, (path, w) in enumerate(params.items()):
        g = np.asarray(rng.standard_normal(w.shape)).astype(w.dtype)
        sparse = (step + k) % 3 == 1 and w.ndim > 0
        made[path] = RowSparse(np.array([step % len(w)]), g[:1], w.shape) if sparse else g
    if step % 5 == 2:
        made[next(iter(made))] = None
    return made


def go_on(opt: mo.Optimizer) -> str:
    while opt.step_count < STEPS:
        opt.step(gradients(opt.params, opt.step_count))
    return fingerprint(opt)


def runs() -> list[tuple[str, Case, int]]:
    return [(f"{case.name}.{k}", case, k) for case in cases() for k in (0, 1)]


def straight(folder: Path) -> dict[str, list[str]]:
    """The final fingerprint of each run, once for each stop; checkpoints are left in ``folder``."""
    final = {}
    for name, case, k in runs():
        (folder / name).mkdir()
        opt = mo.Optimizer(parameters(case, k), case.rule, backend="numpy")
        for step in range(STEPS):
            if step in stops(k):
                opt.save(folder / name / str(step), params=True, keep=1)
            opt.step(gradients(opt.params, step))
        final[name] = [fingerprint(opt)] * len(stops(k))
    return final


def resumed(folder: Path) -> dict[str, list[str]]:
    """The final fingerprints of each run, gone on from each of its checkpoints."""
    found = {}
    for name, case, k in runs():
        found[name] = []
        for step in stops(k):
            zeros = {path: np.zeros_like(w) for path, w in parameters(case, k).items()}
            opt = mo.Optimizer.load(folder / name / str(step), zeros, backend=BACKEND)
            found[name].append(go_on(opt))
    return found


if __name__ == "__main__":
    print(json.dumps(resumed(Path(sys.argv[1]))))
