"""What the tests of checkpoints share: optimizers to store, images to compare, and a forger of files."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import memopt_ref as mo
from memopt_ref.checkpoint import layout
from memopt_ref.errors import CheckpointError
from tests.table import dtype_of

#: Counts of kills, flips and examples are multiplied with it; a nightly run sets 20 or more.
SCALE = int(os.environ.get("MEMOPT_TEST_SCALE", "1"))


def fingerprint(opt: mo.Optimizer) -> str:
    """A hash of parameters, state and both clocks: dtypes, shapes and bytes."""
    found = hashlib.sha256(repr((opt.step_count, sorted(opt._rules.items()))).encode())
    values = {f"p/{path}": w for path, w in opt._arrays.items()}
    for path, slots in opt.state["leaves"].items():
        values |= {f"s/{path}/{name}": value for name, value in slots.items()}
    for name in sorted(values):
        array = np.asarray(values[name])
        found.update(f"{name} {type(values[name])} {array.dtype} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def parameters(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "emb": rng.standard_normal((20, 6)).astype(np.float32),
        "net": [
            {"w": rng.standard_normal((6, 5)), "bias": rng.standard_normal(5).astype(dtype_of("bfloat16"))}
        ],
        "Größe/../x": np.array(1.5, np.float16),
    }


def gradients(params: Any, step: int) -> Any:
    rng = np.random.default_rng([99, step])
    flat = mo.optimizer.tree.flatten(params)
    return flat.rebuild(
        {p: np.asarray(rng.standard_normal(w.shape)).astype(w.dtype) for p, w in flat.leaves.items()}
    )


def rules() -> tuple[mo.Rule, list[tuple[str, mo.Rule]]]:
    warm = mo.schedules.WarmUp(0.1, 5) * mo.schedules.CoolDown(1.0, 100)
    return mo.Adam(learning_rate=warm), [
        ("emb", mo.CountSketchAdam(compression=2)),
        ("*bias", mo.MicroAdam(block=4, density=0.3, window=3)),
        ("net/*", mo.SM3(momentum=0.9, cover=mo.HashCover(depth=2, width=7, seed=3))),
    ]


def optimizer(steps: int = 3, seed: int = 0, **options: Any) -> mo.Optimizer:
    rule, groups = rules()
    params = parameters(seed)
    opt = mo.Optimizer(params, rule, groups=groups, **options)
    advance(opt, steps)
    return opt


def advance(opt: mo.Optimizer, steps: int) -> mo.Optimizer:
    for _ in range(steps):
        opt.step(gradients(opt.params, opt.step_count))
    return opt


def adam(size: int = 6000, steps: int = 1) -> mo.Optimizer:
    """A larger file of plain slots: 72 kB for the default size."""
    w = np.linspace(-1, 1, size, dtype=np.float32).reshape(-1, 20)
    return advance(mo.Optimizer({"w": w}, mo.Adam()), steps)


# A forger, who knows the checksums


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def forged(header: dict[str, Any] | str, data: bytes) -> bytes:
    """The file of this header, canonically written and with a good checksum of its own."""
    text = header if isinstance(header, str) else json.dumps(header, sort_keys=True, separators=(",", ":"))
    return layout.sealed(text) + data


def resummed(header: dict[str, Any], data: bytes) -> bytes:
    """:func:`forged`, with good checksums of all tensors too."""
    spans = [header[name]["data_offsets"] for name in sorted(header) if name != "__metadata__"]
    header["__metadata__"]["tensors"] = "".join(layout.checksum([data[a:b]]) for a, b in spans)
    return forged(header, data)


def with_options(raw: bytes, change: Any) -> bytes:
    """The file with other options: ``change`` gets and returns their JSON, or is their text."""
    header, data = split(raw)
    text = change
    if callable(change):
        text = json.dumps(change(json.loads(header["__metadata__"]["optimizer"])))
    header["__metadata__"]["optimizer"] = text
    return forged(header, data)


def refusal(action: Any) -> str:
    """The message of the CheckpointError that ``action`` raises; any other outcome is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            action()
        except CheckpointError as error:
            return str(error)
    raise AssertionError("nothing was refused")


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path
