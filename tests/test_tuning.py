"""The parts of the tuner: modes, keys, the comparison with the reference, the race."""

from __future__ import annotations

import os
import time
import warnings
from math import prod

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.tuning import candidates, inputs, machine, measure, modes
from memopt_ref.backends.tuning import key as keys
from memopt_ref.errors import BackendError
from tests import tuning_toys as toys
from tests.table import all_cases, dtype_of

F32 = np.dtype(np.float32)


# Modes ------------------------------------------------------------------------------------------------------


def test_with_before_the_environment_before_auto(monkeypatch):
    monkeypatch.delenv("MEMOPT_TUNE", raising=False)
    assert modes.mode() == "auto"
    monkeypatch.setenv("MEMOPT_TUNE", "")
    assert modes.mode() == "auto"
    monkeypatch.setenv("MEMOPT_TUNE", "load")
    assert modes.mode() == "load"
    with mo.tuning.use_mode("off"):
        assert modes.mode() == "off"
        with mo.tuning.use_mode("force"):
            assert modes.mode() == "force"
        assert modes.mode() == "off"
    assert modes.mode() == "load"


def test_a_mode_that_there_is_not_is_an_error_with_advice_before_anything_is_made(monkeypatch):
    monkeypatch.setenv("MEMOPT_TUNE", "on")
    with pytest.raises(BackendError, match=r"MEMOPT_TUNE: got 'on'; wanted one of 'off', 'load', 'auto'"):
        mo.Optimizer(np.ones(3), mo.SGD())
    with pytest.raises(BackendError, match="use_mode: got 'fast'"):
        mo.tuning.use_mode("fast")


# Keys -------------------------------------------------------------------------------------------------------


def key(rule=mo.Adam(), shape=(300, 700), dtype=F32, layout="c", names=("a", "b"), threads=2):  # noqa: B008
    return keys.key_of(rule, shape, dtype, layout, names, threads)


ALIKE = {
    "learning rate": {"rule": mo.Adam(learning_rate=1)},
    "a number": {"rule": mo.Adam(beta1=0.5, eps=1e-3)},
    "a schedule": {"rule": mo.Adam(beta1=mo.schedules.Linear(0.9, 0.5, 10))},
    "shape": {"shape": (131_072,)},
    "rank": {"shape": (2, 50, 1500)},
}
DIFFERENT = {
    "rule": {"rule": mo.AMSGrad()},
    "decay": {"rule": mo.Adam(weight_decay=0.1)},
    "mode of decay": {"rule": mo.AdamW()},
    "size": {"shape": (262_144,)},
    "dtype": {"dtype": np.dtype(np.float64)},
    "half": {"dtype": dtype_of("bfloat16")},
    "layout": {"layout": "fortran"},
    "threads": {"threads": 1},
    "rivals": {"names": ("a",)},
    "default": {"names": ("b", "a")},
}


@pytest.mark.parametrize("change", ALIKE.values(), ids=ALIKE)
def test_what_changes_no_speed_changes_no_key(change):
    assert key(**change) == key()
    assert key(**change).text == key().text


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT)
def test_what_changes_the_speed_changes_the_key_and_its_file(change):
    other = key(**change)
    assert other != key()
    assert keys.file_of(other.text) != keys.file_of(key().text)


def test_the_numbers_0_and_1_are_kernels_of_their_own():
    texts = {key(mo.SM3(beta2=x)).text for x in (0.0, 0.5, 0.9, 1.0)}
    assert len(texts) == 3
    assert key(mo.CountSketchAdam(seed=3)).text == key(mo.CountSketchAdam(seed=4)).text
    assert key(mo.CountSketchAdam(depth=3)).text != key(mo.CountSketchAdam(depth=5)).text


def test_a_bucket_is_a_power_of_two_for_rules_of_entries_and_one_an_axis_for_others():
    assert key(shape=(1 << 17,)).bucket == key(shape=((1 << 18) - 1,)).bucket == (18,)
    assert key(shape=(1 << 18,)).bucket == (19,)
    sm3 = mo.SM3()
    assert key(sm3, (300, 700)).bucket == key(sm3, (511, 512)).bucket == (9, 10)
    assert key(sm3, (300, 700)).bucket != key(sm3, (700, 300)).bucket
    assert key(layout="strided").bucket == (9, 10)


def test_measuring_takes_bounded_memory_however_large_the_tensor_is():
    for rule in (mo.Adam(), mo.SM3(), mo.MicroAdam(), mo.Adafactor()):
        for shape in ((1 << 40,), (1 << 20, 1 << 20), (3, 1 << 36)):
            found = key(rule, shape, np.dtype(np.float64))
            slots = rule.slots(found.shape, np.dtype(np.float64))
            nbytes = 16 * prod(found.shape) + sum(slot.nbytes for slot in slots.values())
            assert keys.LARGEST / 8 < nbytes <= keys.LARGEST
    assert key(shape=(1 << 40,)) == key(shape=(1 << 30,))


def test_every_rule_has_a_key_that_is_the_same_in_every_process():
    for case in all_cases():
        shape = max(case.shapes, key=prod)
        text = key(case.rule, shape).text
        assert hash(case.rule) == hash(case.rule.at(1).as_built)
        assert " at 0x" not in text
        assert len(text) < 2000, case.name


def test_a_function_in_a_rule_does_not_carry_its_address_into_the_key():
    assert keys._option(None, print) == "<built-in function print>"


def test_layouts_are_told_apart():
    x = np.zeros((4, 6))
    assert [keys.layout_of(a) for a in (x, x.T, x[:, :3], x[::2], x[0])] == [
        "c",
        "fortran",
        "strided",
        "strided",
        "c",
    ]
    for layout in ("c", "fortran", "strided"):
        made = inputs.make(mo.Adam(), (6, 9), F32, layout, hard=True)
        assert keys.layout_of(made.w) == layout
        assert [keys.layout_of(g) for g in made.gradients] == [layout] * 3
    assert keys.layout_of(inputs.make(mo.Adam(), (6,), F32, "strided", hard=False).w) == "strided"


def test_inputs_are_the_same_every_time_and_the_last_gradient_is_singular():
    one, two = (inputs.make(mo.Adam(), (999,), F32, "c", hard=True) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one.gradients, two.gradients, strict=True))
    first, second, last = one.gradients
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    assert not np.array_equal(first, second)
    assert np.isnan(last).any()
    assert np.isinf(last).any()
    assert (np.abs(last) < np.finfo(F32).tiny).any()


# The comparison ---------------------------------------------------------------------------------------------


def compared(*variants, rule=mo.Adam(), shape=(300, 700), dtype=F32, clock=time.perf_counter):  # noqa: B008
    everybody = [candidates.Candidate(v, k) for v in variants for k in v.combinations(2)]
    return measure.compare(rule, dtype, key(rule, shape, dtype), everybody, clock)


@pytest.mark.parametrize("step", toys.WRONG, ids=lambda step: step.__name__)
def test_a_kernel_with_other_bits_is_left_out_loudly(step):
    with pytest.warns(RuntimeWarning, match=rf"toy\.{step.__name__} is left out for .*Adam.*report this"):
        found = compared(toys.toy(toys.quick), toys.toy(step), *numpy_ref.VARIANTS)
    assert toys.toy(step).name in found.wrong
    assert toys.toy(toys.quick).name in [c.label for c in found.candidates]


def test_a_wrong_default_gives_way_and_the_reference_is_always_left():
    with pytest.warns(RuntimeWarning, match="the bits of the reference after step 1"):
        found = compared(toys.toy(toys.one_bit_off))
    assert [c.label for c in found.candidates] == ["numpy_ref"]
    with pytest.warns(RuntimeWarning, match="after step 3"):
        found = compared(toys.toy(toys.no_infinity), toys.toy(toys.quick))
    assert found.candidates[0].label == "toy.quick"


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("rule", [mo.Adam(), mo.SM3(momentum=0.9), mo.Adafactor()], ids=lambda r: r.name)
def test_right_kernels_pass_silently(rule, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compared(toys.toy(toys.quick), *numpy_ref.VARIANTS, rule=rule, dtype=dtype_of(dtype))
    assert found.wrong == {}
    assert "toy.quick" in [c.label for c in found.candidates]


def test_one_nan_is_as_good_as_another():
    x = np.array([1.0, np.nan], np.float32)
    assert measure._same(x, -x * np.float32(-1))
    assert measure._same(np.array([np.nan], F32), -np.array([np.nan], F32))
    assert not measure._same(np.array([0.0], F32), np.array([-0.0], F32))
    assert not measure._same(np.array([np.nan], F32), np.array([1.0], F32))
    assert not measure._same(np.zeros(2, F32), np.zeros(2))


def test_a_kernel_that_does_not_serve_the_measured_shape_is_no_candidate():
    found = compared(toys.toy(toys.quick, supports=toys.vectors_alone), *numpy_ref.VARIANTS, rule=mo.SM3())
    assert found.slow == {"toy.quick": "only vectors"}
    assert [c.label for c in found.candidates] == ["numpy_ref"]


def test_another_kernel_that_is_far_behind_is_not_raced():
    slow, both = toys.toy(toys.paused), {"pause": (toys.FAST, toys.SLOW)}
    found = compared(toys.toy(toys.quick), slow, shape=(64,), clock=toys.CLOCK)
    assert found.slow == {"toy.paused": "more than 3 times slower than toy.quick on a small tensor"}
    assert found.spent == pytest.approx(2 * (toys.SLOW + toys.FAST))
    found = compared(toys.toy(toys.paused, both), shape=(64,), clock=toys.CLOCK)
    assert found.slow == {}, "another setting of the default is raced"


# The race ---------------------------------------------------------------------------------------------------


class Track:
    """Runners on a clock of their own: each takes its seconds, and a start line tells who ran."""

    def __init__(self, *seconds):
        self.now, self.order = 0.0, []
        self.steps = [self._runner(k, s) for k, s in enumerate(seconds)]

    def _runner(self, k, seconds):
        def run():
            self.now += seconds
            self.order.append(k)

        return run

    def race(self, limit=1e9, default=0):
        return measure.race(self.steps, default, limit, lambda: self.now)


def test_contestants_take_turns_there_and_back():
    track = Track(1.0, 1.1, 1.2)
    least, rounds = track.race()
    assert rounds == measure.ROUNDS
    assert least == pytest.approx([1.0, 1.1, 1.2])
    assert track.order[2:8] == [0, 1, 2, 2, 1, 0], (
        "after a step to warm up and one to find the sample's length"
    )


def test_who_falls_behind_leaves_but_for_the_default():
    track = Track(9.0, 1.0, 1.4, 2.0)
    track.race()
    runs = [track.order.count(k) for k in range(4)]
    assert runs == [measure.ROUNDS + 2, measure.ROUNDS, measure.ROUNDS, measure.EARLIEST]


def test_a_race_ends_in_time_but_plays_one_round():
    assert Track(1.0, 1.0).race(limit=0.0)[1] == 1
    assert Track(1.0, 1.0).race(limit=7.0)[1] == 3


def test_short_steps_are_repeated_until_the_clock_can_tell_them():
    track = Track(1e-6, 2e-6)
    least, _ = track.race()
    assert least == pytest.approx([1e-6, 2e-6])
    assert track.order[2:202] == [0] * 200


class Chosen:
    """``measure.timed`` on a clock of its own, where each candidate takes the seconds in its knob."""

    def __init__(self, *seconds):
        self.now = 0.0
        variant = toys.toy(self.step, {"takes": seconds})
        everybody = [candidates.Candidate(variant, knobs) for knobs in variant.combinations(2)]
        self.compared = measure.Compared(everybody, {}, {}, 0.0)

    __name__ = "chosen"

    def step(self, rule, w, g, state, takes=None):
        self.now += self.compared.candidates[0].variant.knobs["takes"][0] if takes is None else takes

    def result(self, limit=1e9):
        return measure.timed(mo.SGD(), F32, key(mo.SGD()), self.compared, limit, lambda: self.now)


@pytest.mark.parametrize(
    ("seconds", "taken"), [((1.0, 0.97, 0.96), {}), ((1.0, 0.97, 0.94), {"takes": 0.94}), ((1.0, 2.0), {})]
)
def test_the_default_stays_unless_it_is_beaten_by_5_percent(seconds, taken):
    assert Chosen(*seconds).result().chosen.knobs == taken


def test_without_that_margin_noise_would_choose(monkeypatch):
    monkeypatch.setattr(measure, "MARGIN", 0.0)
    assert Chosen(1.0, 0.97, 0.96).result().chosen.knobs == {"takes": 0.96}


def test_too_few_rounds_change_nothing():
    assert Chosen(1.0, 0.1).result(limit=1.0).chosen.knobs == {}
    assert Chosen(1.0, 0.1).result(limit=20.0).chosen.knobs == {"takes": 0.1}


# The machine ------------------------------------------------------------------------------------------------


def test_combinations_name_only_what_is_not_the_default():
    variant = toys.toy(toys.quick, {"threads": (None, 1, 2, 4), "run": (8, 16)})
    assert variant.combinations(1) == [{}, {"run": 16}]
    assert variant.combinations(3) == [
        {},
        {"run": 16},
        {"threads": 1},
        {"threads": 1, "run": 16},
        {"threads": 2},
        {"threads": 2, "run": 16},
    ]


def test_the_fingerprint_knows_versions_settings_and_sources(monkeypatch, tmp_path):
    here = machine.environment()
    assert here == machine.environment()
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "workqueue")
    assert machine.fingerprint(machine.environment()) != machine.fingerprint(here)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "kernel.cu").write_text("1")
    first = machine.hash_of([tmp_path])
    (tmp_path / "deep" / "kernel.cu").write_text("2")
    second = machine.hash_of([tmp_path])
    (tmp_path / "deep" / "notes.txt").write_text("2")
    assert first != second == machine.hash_of([tmp_path])
    assert "host" not in str(here).lower()


def test_company_is_what_others_use_and_not_what_this_process_uses(monkeypatch):
    ticks = iter(
        ["cpu  100 0 0 900 0 0 0 0 0 0\ncpu0 1\ncpu1 1\n", "cpu  300 0 0 900 0 0 0 0 0 0\ncpu0 1\ncpu1 1\n"]
    )
    monkeypatch.setattr(machine.Path, "read_text", lambda path, encoding: next(ticks))
    times = iter([os.times_result((1, 0, 0, 0, 0)), os.times_result((2, 0, 0, 0, 0))])
    monkeypatch.setattr(machine.os, "times", lambda: next(times))
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    clock = iter([0.0, 1.0])
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(clock))
    assert machine.company()() == pytest.approx((2 - 1 - 0.02) / 2), "two seconds were used, one of them here"


def test_where_the_system_does_not_say_there_is_no_company(monkeypatch):
    def none(path, encoding):
        raise FileNotFoundError

    monkeypatch.setattr(machine.Path, "read_text", none)
    assert machine.company()() == 0.0
