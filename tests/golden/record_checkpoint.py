"""Record ``checkpoint_v<version>.json``: a checkpoint of this format, and how the run went on from it.

``python -m tests.golden.record_checkpoint``. It never writes over a recording: files of every released
version must load for ever.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

import memopt_ref as mo
from memopt_ref.checkpoint import layout
from tests.checkpoints import parameters
from tests.test_checkpoint_format import golden_gradients

STEPS = 4


def recording() -> dict[str, object]:
    """A run of five rules, saved after three steps; the weights then, and after each of four steps more."""
    rules = [
        ("emb", mo.CountSketchAdam(compression=2, hash=mo.MultiplyShift())),
        ("*bias", mo.MicroAdam(block=4, density=0.3, window=3, rounding="stochastic", seed=5)),
        ("net/*", mo.SM3(momentum=0.9, cover=mo.HashCover(depth=2, width=7, seed=3))),
    ]
    rate = mo.schedules.Linear(0.1, 0.05, 6) * 0.5
    opt = mo.Optimizer(
        parameters(), mo.Adam(learning_rate=rate), groups=rules, nonfinite="skip", max_norm=50.0
    )
    for step in range(3):
        opt.step(golden_gradients(opt, 10 + step))
    with tempfile.TemporaryDirectory() as folder:
        opt.save(Path(folder, "run.memopt"), params=True)
        raw = Path(folder, "run.memopt").read_bytes()
    weights = []
    for step in range(STEPS):
        weights.append({path: w.tobytes().hex() for path, w in opt._arrays.items()})
        opt.step(golden_gradients(opt, step))
    return {"step": 3, "library": mo.__version__, "file": base64.b64encode(raw).decode(), "weights": weights}


if __name__ == "__main__":
    version = layout.FORMAT.rpartition(" ")[2]
    path = Path(__file__).parent / f"checkpoint_v{version}.json"
    with path.open("x") as file:
        json.dump(recording(), file, indent=1)
        file.write("\n")
