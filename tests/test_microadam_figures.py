"""MicroAdam against figures that this code did not make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from memopt_ref.parts.quantize import unpack
from memopt_ref.rules.microadam import MicroAdam
from tests.golden import record_microadam_dp
from tests.steps import trajectory
from tests.wrong_microadam import FlatScatter, Forgets, QuantiseFirst, WindowClock


def wave(t: int):
    i, j = np.meshgrid(np.arange(6), np.arange(4), indexing="ij")
    return np.sin((i + 1) * (j + 2) * 0.37 + 0.9 * t)


def wave_start():
    i, j = np.meshgrid(np.arange(6), np.arange(4), indexing="ij")
    return np.sin(0.3 * i + 0.7 * j + 0.1)


WAVE = {"learning_rate": 1e-2, "weight_decay": 0.1, "window": 3, "density": 0.25, "value_dtype": "float64"}
WAVE_FIGURES = {
    "dense": ({"error_bits": None}, (0.077914317634, -0.529742147061, 14.088900944394)),
    "no-feedback": ({"error_bits": 0}, (0.063738947245, -0.539066305095, 14.089902016335)),
    "4-bit": ({"error_bits": 4, "bucket": 8}, (0.082842607490, -0.529742147077, 14.142615583312)),
    "4-bit-blocks": ({"bucket": 8, "block": 10}, (0.082728609854, -0.534079397591, 14.128569227208)),
}


def assert_wave_figures(kind, name: str) -> None:
    """w[0, 0], w[-1, -1] and the sum after 12 steps, given to 12 decimals; float64 leaves 1e-14 a step."""
    arguments, want = WAVE_FIGURES[name]
    *_, last = trajectory(kind(**WAVE, **arguments), wave_start(), map(wave, range(1, 13)))
    w = last["w"]
    np.testing.assert_allclose((w[0, 0], w[-1, -1], w.sum()), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", WAVE_FIGURES)
def test_twelve_steps_give_the_figures_of_the_specification(name):
    """Computed apart from this code, with codes by division and float64 bounds; none is next to a tie."""
    assert_wave_figures(MicroAdam, name)


@pytest.mark.parametrize(
    ("mutant", "name"),
    [(WindowClock, "dense"), (FlatScatter, "dense"), (QuantiseFirst, "4-bit"), (Forgets, "dense")],
)
def test_the_figures_catch(mutant, name):
    with pytest.raises(AssertionError):
        assert_wave_figures(mutant, name)


def test_four_steps_of_the_4_bit_buffer_are_those_of_the_specification():
    rule = MicroAdam(**WAVE, error_bits=4, bucket=8)
    steps = list(trajectory(rule, wave_start(), map(wave, range(1, 5))))
    first = steps[0]
    assert first["taken"].tolist() == [0, 1, 7, 15, 16, 21]
    np.testing.assert_allclose(first["e_min"], (-0.658186, -0.885889, -0.809433), rtol=0, atol=1e-6)
    np.testing.assert_allclose(first["e_max"], (0.690075, 0.511401, 0.902172), rtol=0, atol=1e-6)
    codes = "7 7 15 12 15 8 0 7 10 0 1 11 2 1 15 10 7 9 15 1 0 7 4 2"
    assert unpack(first["e"], 24).tolist() == [int(c) for c in codes.split()]
    assert steps[1]["taken"].tolist() == [6, 9, 12, 14, 19, 22]
    assert steps[2]["taken"].tolist() == [3, 5, 8, 11, 17, 21]
    assert steps[3]["taken"].tolist() == [1, 2, 4, 15, 22, 23]
    assert steps[3]["I"][:6].tolist() == [1, 2, 4, 15, 22, 23]  # the fourth step is row 0 again
    want = (0.07760307, 0.69847064, 0.99932227, 0.81688179)
    np.testing.assert_allclose(steps[3]["w"][0], want, rtol=0, atol=5e-9)


def assert_agrees_with_the_recording(kind) -> None:
    """float32 on both sides: 2e-6 is 35 steps of half an ulp of weights below 4."""
    recording = json.loads((Path(__file__).parent / "golden" / "microadam_dp.json").read_text())
    assert recording["steps"] == 35
    for case in recording["cases"]:
        w, gradients = record_microadam_dp.problem(case["shape"])
        rule = kind(
            **recording["settings"],
            density=case["density"],
            block=32768,
            value_dtype="float32",
            error_bits=None,
        )
        for t, values in enumerate(trajectory(rule, w, gradients), start=1):
            if str(t) in case["w"]:
                want = np.array(case["w"][str(t)], np.float32).reshape(w.shape)
                np.testing.assert_allclose(values["w"], want, rtol=0, atol=2e-6)


def test_agrees_with_an_implementation_in_torch_past_the_wrap_of_the_ring():
    assert_agrees_with_the_recording(MicroAdam)


def test_the_recording_catches_a_clock_that_stops_at_the_window():
    with pytest.raises(AssertionError):
        assert_agrees_with_the_recording(WindowClock)
