"""Record trajectories of other installed libraries: ``python -m tests.golden.record [LIBRARY ...]``.

It writes ``tests/golden/<library>.json``: the versions, problems (initial weights and gradients), and for
each call of ``tests/dialect_calls.py`` the weights after every step. ``tests/test_golden.py`` replays the
calls through the dialects.

Defects that are worked around, so that a recording is what the call means:

* optax cannot step a 0-d parameter with sm3, and pytorch_optimizer steps one by another algorithm in Shampoo
  and in SM3 with ``beta``: no 0-d problem for these (``scalars=False``);
* torch.optim.Adafactor squares eps[0] and makes NaN of a row of zeros if that is 0: eps[0] = 1e-15 or more;
* torch.optim.Adafactor takes the epsilon of the first parameter's dtype for a group: one parameter a run;
* Keras keeps the learning rate in float32 unless told otherwise: see ``tests/oracles.py``;
* pytorch_optimizer's SM3 resets untouched rows on sparse gradients: only dense ones are recorded.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tests import oracles
from tests.dialect_calls import CALLS

FOLDER = Path(__file__).parent
SHAPES = ((), (5,), (3, 4), (2, 3, 2))
DTYPES = ("float64", "float32")
STEPS = 8


def problem(shape: tuple[int, ...], dtype: str) -> tuple[Any, list[Any]]:
    """Weights and gradients; some gradient entries are exactly zero, and sizes differ by entry."""
    rng = np.random.default_rng([20, len(shape), *shape])
    size = 10.0 ** rng.uniform(-2, 1, shape)
    grads = [size * rng.standard_normal(shape) * (rng.random(shape) < 0.85) for _ in range(STEPS)]
    return np.asarray(rng.standard_normal(shape), dtype), [np.asarray(g, dtype) for g in grads]


def numbers(array: Any) -> list[float]:
    """The shortest decimals that give the entries back in their dtype."""
    flat = np.asarray(array).ravel()
    written = [float(str(x)) for x in flat]
    assert np.array_equal(np.array(written, flat.dtype), flat), flat
    return written


def record(library: str) -> dict[str, Any]:
    problems, runs = {}, []
    for shape in SHAPES:
        for dtype in DTYPES:
            w, grads = problem(shape, dtype)
            key = f"{dtype}[{','.join(map(str, shape))}]"
            problems[key] = {
                "shape": list(shape),
                "dtype": dtype,
                "weights": numbers(w),
                "gradients": [numbers(g) for g in grads],
            }
    for call in (call for call in CALLS if call.library == library):
        limits = {"float64": call.float64, "float32": call.float32, "reason": call.reason}
        run = {"function": call.function, "arguments": call.arguments, "limits": limits, "weights": {}}
        for shape in SHAPES if call.scalars else SHAPES[1:]:
            for dtype in DTYPES:
                weights = oracles.run(library, call.function, call.arguments, *problem(shape, dtype))
                key = f"{dtype}[{','.join(map(str, shape))}]"
                run["weights"][key] = [numbers(w) for w in weights]
        runs.append(run)
    return {"library": library, "versions": oracles.versions(library), "problems": problems, "runs": runs}


def write(library: str) -> Path:
    """One line for each problem and run, so that a change reads well in a diff."""
    made = record(library)
    lines = [f'"library": {json.dumps(library)}', f'"versions": {json.dumps(made["versions"])}']
    problems = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in made["problems"].items())
    runs = ",\n".join(f"  {json.dumps(run)}" for run in made["runs"])
    lines += [f'"problems": {{\n{problems}\n}}', f'"runs": [\n{runs}\n]']
    path = FOLDER / f"{library}.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return path


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or list(oracles.RUNNERS):
        path = write(name)
        print(f"{path.relative_to(FOLDER.parent.parent)}: {path.stat().st_size / 1e3:.0f} kB")
