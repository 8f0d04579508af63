"""Everything is state: an optimizer stopped anywhere goes on in another process with the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.checkpoint import files, verify
from memopt_ref.errors import CheckpointMismatchError, CheckpointWarning, NonFiniteError, TornError
from tests import checkpoint_runs as runs
from tests.checkpoints import adam, advance, fingerprint, gradients, optimizer, parameters, refusal

ROOT = Path(__file__).parent.parent


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.memopt"


def test_every_rule_stopped_at_every_step_resumes_in_a_fresh_process_with_the_same_bits(
    tmp_path, monkeypatch
):
    # A thousand files, none of which need outlive the machine.
    monkeypatch.setattr(files.os, "fsync", lambda fd: None)
    wanted = runs.straight(tmp_path)
    command = [sys.executable, "-m", "tests.checkpoint_runs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout)
    assert sum(map(len, found.values())) > 1000
    for name, final in wanted.items():
        assert found[name] == final, name


def forgets_a_counter(opt):
    for slots in opt.state["leaves"].values():
        if "t" in slots:
            slots["t"] = np.int64(0)


def forgets_the_clock_of_the_tree(opt):
    opt.state["step"] = 0


def widens_a_moment(opt):
    for slots in opt.state["leaves"].values():
        slots |= {n: v.astype(np.float64) for n, v in slots.items() if v.dtype == np.float32}


def rounds_a_moment(opt):
    for slots in opt.state["leaves"].values():
        for name, value in slots.items():
            if value.dtype == np.float32 and value.ndim:
                value[...] = value.astype(np.float16)
                slots[name] = value


@pytest.mark.parametrize(
    "wrong", [forgets_a_counter, forgets_the_clock_of_the_tree, widens_a_moment, rounds_a_moment]
)
def test_a_resume_that_loses_something_is_noticed(wrong, file):
    opt = optimizer(3)
    opt.save(file, params=True)
    resumed = mo.Optimizer.load(file, parameters(1))
    wrong(resumed)
    assert fingerprint(advance(resumed, 4)) != fingerprint(advance(opt, 4))


def test_groups_schedules_options_and_parameters_come_back_as_they_were(file):
    opt = optimizer(3, nonfinite="skip", max_norm=2.5)
    opt.save(file, params=True)
    params = parameters(1)
    resumed = mo.Optimizer.load(file, params)
    assert resumed.params is params
    assert fingerprint(resumed) == fingerprint(opt)
    assert resumed._rules == opt._rules
    assert (resumed._nonfinite, resumed._max_norm) == ("skip", 2.5)
    assert resumed.step({**gradients(params, 3), "emb": np.full((20, 6), np.nan)}) is False
    assert fingerprint(advance(resumed, 3)) == fingerprint(advance(opt, 3))


def test_without_params_the_given_arrays_are_the_parameters(file):
    opt = optimizer(3)
    opt.save(file)
    resumed = mo.Optimizer.load(file, parameters(1))
    assert np.array_equal(resumed.params["emb"], parameters(1)["emb"])
    for path, w in resumed._arrays.items():
        w[...] = opt._arrays[path]
    assert fingerprint(advance(resumed, 2)) == fingerprint(advance(opt, 2))


def test_parameters_of_another_layout_are_loaded_into_their_places(file):
    w = np.arange(12.0).reshape(3, 4)
    mo.Optimizer(w.T, mo.Adam()).save(file, params=True)
    other = np.zeros((4, 6))
    mo.Optimizer.load(file, other[:, ::2])
    assert np.array_equal(other[:, ::2], w.T)
    assert not other[:, 1::2].any()


def test_equal_state_in_another_order_gives_equal_bytes(tmp_path):
    one, two = parameters(), parameters()
    two = {key: two[key] for key in reversed(list(two))}
    for name, params in (("one", one), ("two", two)):
        opt = mo.Optimizer(params, mo.Adam())
        opt.step(gradients(params, 0))
        opt.save(tmp_path / name, params=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("poison", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_refused_gradient_leaves_the_bytes_of_the_checkpoint_as_they_are(policy, poison, tmp_path):
    opt = optimizer(2, nonfinite=policy)
    opt.save(tmp_path / "before", params=True)
    bad = gradients(opt.params, 2)
    bad["emb"][3, 3] = poison
    if policy == "raise":
        with pytest.raises(NonFiniteError):
            opt.step(bad)
    else:
        assert opt.step(bad) is False
    opt.save(tmp_path / "after", params=True)
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


def test_a_torn_optimizer_is_not_saved(file):
    class Breaking(mo.SGD):
        def step(self, w, g, state):
            raise KeyboardInterrupt

    opt = mo.Optimizer(np.ones(3), Breaking())
    with pytest.raises(KeyboardInterrupt):
        opt.step(np.ones(3))
    with pytest.raises(TornError):
        opt.save(file)
    assert not file.exists()


# What cannot be stored is said, and supplied again


def halving(step):
    return 1.0 / step


def test_a_function_is_accepted_in_use_named_when_saving_and_supplied_when_loading(file):
    rule = mo.SGD(learning_rate=mo.schedules.Function(halving), momentum=0.5)
    opt = mo.Optimizer(np.ones(3), rule, groups=())
    opt.step(np.ones(3))
    with pytest.warns(CheckpointWarning, match=r"not stored: SGD\.learning_rate \(a Function\); pass rule="):
        opt.save(file, params=True)
    assert verify(file).step == 1
    with pytest.raises(CheckpointMismatchError, match=r"SGD without SGD\.learning_rate.*rule=\.\.\."):
        mo.Optimizer.load(file, np.ones(3))
    resumed = mo.Optimizer.load(file, np.ones(3), rule=rule)
    for each in (opt, resumed):
        each.step(np.ones(3))
    assert fingerprint(resumed) == fingerprint(opt)


def test_a_function_inside_a_group_or_a_product_is_supplied_by_groups(file):
    rate = 0.5 * mo.schedules.Function(halving)
    params = {"a": np.ones(2), "bias": np.ones(2)}
    groups = [("bias", mo.Adam(learning_rate=rate))]
    opt = mo.Optimizer(params, mo.SGD(momentum=0.9), groups=groups)
    opt.step(params)
    with pytest.warns(CheckpointWarning):
        opt.save(file)
    with pytest.raises(CheckpointMismatchError, match=r"^bias: .*groups="):
        mo.Optimizer.load(file, params, rule=mo.SGD(momentum=0.9))
    resumed = mo.Optimizer.load(file, params, groups=groups)
    assert resumed._rules == opt._rules
    other = mo.Optimizer.load(file, params, rule=mo.SGD(learning_rate=3.0, momentum=0.9), groups=groups)
    assert other._rules["a"].learning_rate == 3.0
    assert other._rules["bias"] == groups[0][1]


def test_a_rule_of_ones_own_keeps_its_state_in_the_file_and_is_supplied_again(file):
    class Own(mo.Adam):
        pass

    opt = mo.Optimizer(np.ones(3), Own())
    opt.step(np.ones(3))
    with pytest.warns(CheckpointWarning, match="a Own"):
        opt.save(file)
    assert {t.name for t in verify(file).tensors} == {"step", "state//m", "state//v", "state//t"}
    assert mo.Optimizer.load(file, np.ones(3), rule=Own()).state["leaves"][""]["t"] == 1


def test_a_cover_of_very_many_sets_is_supplied_again(file):
    n = 40_000
    rule = mo.SM3(cover=mo.IndexCover(tuple((i, (i + 1) % n) for i in range(n))))
    opt = mo.Optimizer(np.ones(n), rule)
    with pytest.warns(CheckpointWarning, match="more than 65536 values"):
        opt.save(file)
    assert mo.Optimizer.load(file, np.ones(n), rule=rule)._rules[""] is rule


def test_what_can_be_stored_is_stored_without_a_word(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer().save(file)


# Mismatches name the leaf, the slot, what is stored and what is wanted


@pytest.mark.parametrize(
    ("stored", "rule", "message"),
    [
        (mo.Adam(), mo.SGD(), "w, slot m: got float32[300, 20] stored; wanted no such slot of SGD"),
        (mo.Adam(), mo.SM3(momentum=0.9), "w, slot t: got int64[] stored; wanted no such slot of SM3"),
        (mo.SGD(), mo.SGD(momentum=0.9), "w, slot m: got nothing stored; wanted float32[300, 20] of SGD"),
        (mo.SGD(), mo.Adam(), "w, slot m: got nothing stored; wanted float32[300, 20] of Adam"),
    ],
)
def test_another_rules_slots_are_refused(stored, rule, message, file):
    w = np.zeros((300, 20), np.float32)
    mo.Optimizer({"w": w}, stored).save(file)
    assert refusal(lambda: mo.Optimizer.load(file, {"w": w}, rule=rule)).startswith(message)


def test_a_slot_of_another_dtype_is_refused_and_not_cast(file):
    params = {"w": np.ones(4, np.float32)}
    rule = mo.MicroAdam(density=0.5, value_dtype="float32", error_bits=None)
    mo.Optimizer(params, rule).save(file)
    found = refusal(lambda: mo.Optimizer.load(file, params, rule=rule.replace(value_dtype="bfloat16")))
    assert found.startswith(
        "w, slot V: got float32[20] stored; wanted bfloat16[20] of MicroAdam. Nothing is cast"
    )


OTHERS = [
    ({"w": np.zeros((300, 20))}, "w: got a parameter float64[300, 20]; wanted float32[300, 20]"),
    ({"w": np.zeros((9, 2), "f4")}, "w: got a parameter float32[9, 2]; wanted float32[300, 20]"),
    ({"v": np.zeros((300, 20), "f4")}, "w: got no parameter of this path; wanted float32[300, 20]"),
    (
        {"w": np.zeros((300, 20), "f4"), "b": np.zeros(3)},
        "b: got a parameter float64[3]; wanted nothing, as in",
    ),
]


@pytest.mark.parametrize(("params", "message"), OTHERS)
def test_other_parameters_are_refused(params, message, file):
    adam().save(file)
    assert refusal(lambda: mo.Optimizer.load(file, params)).startswith(message)


def test_a_refused_load_has_written_no_parameter(file):
    adam().save(file, params=True)
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)
    w = np.zeros((300, 20), np.float32)
    refusal(lambda: mo.Optimizer.load(file, {"w": w}))
    assert not w.any()
