"""Recorded trajectories of other libraries, replayed through the dialects; ``golden/record.py`` made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memopt_ref import dialects
from memopt_ref.rules.base import Rule

LIBRARIES = ("torch", "optax", "keras", "transformers", "pytorch_optimizer")
FOLDER = Path(__file__).parent / "golden"
RECORDS = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in LIBRARIES}


def name_of(library: str, run: dict[str, Any]) -> str:
    given = ", ".join(f"{name}={value}" for name, value in run["arguments"].items())
    return f"{library}.{run['function']}({given})"


RUNS = [
    pytest.param(library, run, id=name_of(library, run))
    for library in LIBRARIES
    for run in RECORDS[library]["runs"]
]


def rule_of(library: str, run: dict[str, Any]) -> Rule:
    """The rule that the recorded call means; a JSON list was a tuple."""
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in run["arguments"].items()}
    return getattr(getattr(dialects, library), run["function"])(**arguments)


def worst(library: str, run: dict[str, Any], rule: Rule) -> dict[str, float]:
    """Largest difference of weights over the largest weight, by dtype."""
    found = {"float64": 0.0, "float32": 0.0}
    for key, recorded in run["weights"].items():
        problem = RECORDS[library]["problems"][key]
        shape, dtype = tuple(problem["shape"]), problem["dtype"]
        w = np.array(problem["weights"], dtype).reshape(shape)
        state = rule.init(w)
        scale = max(np.max(np.abs(recorded)), np.max(np.abs(problem["weights"])))
        for g, want in zip(problem["gradients"], recorded, strict=True):
            w, state = rule.update(w, np.array(g, dtype).reshape(shape), state)
            assert w.dtype == dtype
            gap = np.max(np.abs(w - np.array(want, dtype).reshape(shape)).astype(np.float64)) / scale
            found[dtype] = float(np.maximum(found[dtype], gap))  # NaN wins
    return found


@pytest.mark.parametrize(("library", "run"), RUNS)
def test_dialect_replays_the_recorded_trajectory(library, run):
    found = worst(library, run, rule_of(library, run))
    limits = run["limits"]
    assert found["float64"] <= limits["float64"], limits["reason"]
    assert found["float32"] <= limits["float32"], limits["reason"]


def test_limits_are_the_usual_ones_or_have_a_reason():
    for library in LIBRARIES:
        for run in RECORDS[library]["runs"]:
            limits = run["limits"]
            usual = limits["float64"] <= 1e-12 and limits["float32"] <= 2e-6
            assert usual or limits["reason"], name_of(library, run)


#: A convention of each family, turned into its neighbour's: every one must show.
MUTANTS = {
    "torch.Adagrad": {"eps": 0.0, "eps_root": 1e-3},
    "torch.RMSprop": {"beta2": 0.98},
    "torch.Adam": {"bias_correction": "eps_hat"},
    "torch.AdamW": {"weight_decay_mode": "l2"},
    "torch.SGD": {"momentum": 0.8},
    "torch.Adafactor": {"weight_decay_mode": "decoupled"},
    "optax.adagrad": {"initial_accumulator": 0.0},
    "optax.rmsprop": {"eps": 1e-4},
    "optax.adam": {"eps_root": 1e-6},
    "optax.adamw": {"weight_decay": 1e-2},
    "optax.amsgrad": {"form": "torch"},
    "optax.adafactor": {"factor_axes": "last", "min_dim": 0},
    "optax.sm3": {"momentum": 0.0},
    "optax.scale_by_sm3": {"ema": "ratchet"},
    "keras.Adagrad": {"eps_root": 0.0, "eps": 1e-3},
    "keras.RMSprop": {"centered": False},
    "keras.Adam": {"bias_correction": "paper", "eps": 1e-3},
    "keras.Ftrl": {"l2": 0.15, "beta": 0.1},
    "transformers.Adafactor": {"momentum_of": "update", "beta1": 0.4},
    "pytorch_optimizer.SM3": {"eps_root": 1e-2},
    "pytorch_optimizer.Shampoo": {"exponent": -0.5},
    "pytorch_optimizer.FTRL": {"centre": "origin"},
    "pytorch_optimizer.AdaFactor": {"beta2": 0.4},
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_convention_is_caught(name):
    library, function = name.split(".")
    caught = 0
    for run in (run for run in RECORDS[library]["runs"] if run["function"] == function):
        rule = rule_of(library, run)
        fields = {k: v for k, v in MUTANTS[name].items() if hasattr(rule, k)}
        if fields:
            found = worst(library, run, rule.replace(**fields))
            caught += found["float64"] > 10 * run["limits"]["float64"]
    assert caught > 0


def test_every_recording_names_its_versions():
    for library in LIBRARIES:
        assert {library, "numpy"} <= set(RECORDS[library]["versions"])
