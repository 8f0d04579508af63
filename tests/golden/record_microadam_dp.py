"""Record ``microadam_dp.json``: steps of the MicroAdam of github.com/MihaelaHudisteanu/DP-Micro-Adam.

    python tests/golden/record_microadam_dp.py PATH_OF_A_CLONE

Commit c08d3d9e28ae85d9693de982c87e34ce8644c33a, file ``dp_optimizers/opacus/micro_adam.py``: float32 on
the CPU, whole-tensor Top-K, exact error feedback; its three arguments about privacy are not used by the
step. Needs torch.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np

COMMIT = "c08d3d9e28ae85d9693de982c87e34ce8644c33a"
SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.1, "window": 10}
CASES = [
    {"shape": [24, 16], "density": 0.01},
    {"shape": [24, 16], "density": 0.1},
    {"shape": [130], "density": 0.1},
]
STEPS, KEPT = 35, (11, 35)


def problem(shape: list[int]):
    """The start and the gradients, float32; no ties among magnitudes."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape).astype(np.float32), rng.standard_normal((STEPS, *shape)).astype(
        np.float32
    )


def record(clone: str) -> dict:
    """Run the optimizer of the clone on every case."""
    import torch

    sys.path.insert(0, clone)
    optimizer = importlib.import_module("dp_optimizers.opacus.micro_adam").MicroAdam
    cases = []
    for case in CASES:
        start, grads = problem(case["shape"])
        p = torch.nn.Parameter(torch.from_numpy(start.copy()))
        opt = optimizer(
            [p],
            lr=SETTINGS["learning_rate"],
            weight_decay=SETTINGS["weight_decay"],
            l2_norm_clip=None,
            sigma=None,
            batch_size=None,
            num_grads=SETTINGS["window"],
            density=case["density"],
            device="cpu",
        )
        w = {}
        for t, g in enumerate(grads, start=1):
            p.grad = torch.from_numpy(g.copy())
            opt.step()
            if t in KEPT:
                w[str(t)] = [float(str(x)) for x in p.detach().numpy().ravel()]
        cases.append({**case, "w": w})
    return {
        "commit": COMMIT,
        "torch": torch.__version__,
        "settings": SETTINGS,
        "steps": STEPS,
        "cases": cases,
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("microadam_dp.json")
    path.write_text(json.dumps(record(sys.argv[1])) + "\n")
