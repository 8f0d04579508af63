"""Hyper-parameters of parameter groups, without torch: what a group shows, overrides and may change."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import schedules
from memopt_ref.errors import CheckpointMismatchError, HyperparameterError
from memopt_ref.interop import torch_groups, torch_stored
from memopt_ref.parts.schedule import Schedule
from tests.table import all_cases

EACH = [pytest.param(case, id=case.name) for case in all_cases()]
MATRIX = [((4, 3), np.dtype(np.float32))]


def group_of(rule, **keys):
    return torch_groups.with_rule({"params": [], **keys}, rule)


def layout(rule, shape):
    return {n: (s.shape, s.dtype) for n, s in rule.slots(shape, np.dtype(np.float32)).items()}


@pytest.mark.parametrize("case", EACH)
def test_a_live_rule_is_the_rule_itself_until_the_group_is_written(case):
    group = group_of(case.rule)
    kinds = [(shape, np.dtype(np.float32)) for shape in case.shapes]
    rule, fixed = torch_groups.live(group, kinds)
    torch_groups.check_fixed(group, fixed)
    assert rule.at(3) == case.rule.at(3)
    for shape, _ in kinds:
        assert layout(rule, shape) == layout(case.rule, shape)


@pytest.mark.parametrize("case", EACH)
def test_every_number_is_shown_and_either_counts_or_is_refused_when_it_changes(case):
    group = group_of(case.rule)
    kinds = [(case.shapes[-1], np.dtype(np.float32))]
    _, fixed = torch_groups.live(group, kinds)
    for name, (key, index) in torch_groups.places(case.rule).items():
        old = group[key]
        now = torch_groups.look_up(group, (key, index))
        value = now / 2 if isinstance(now, float) and now else 0.25
        group[key] = value if index is None else tuple(value if k == index else v for k, v in enumerate(old))
        if name in fixed:
            with pytest.raises(HyperparameterError, match="decides what state"):
                torch_groups.check_fixed(group, fixed)
        else:
            rule, _ = torch_groups.live(group, kinds)
            assert getattr(rule.at(1), name) == value
        group[key] = old


def test_the_names_are_those_of_torch_where_it_has_others():
    group = group_of(mo.Adam(learning_rate=0.5, beta1=0.8))
    assert group["lr"] == 0.5
    assert group["betas"] == (0.8, 0.999)
    assert not {"learning_rate", "beta1", "beta2"} & set(group)
    assert group_of(mo.SGD(momentum=0.9))["momentum"] == 0.9


@pytest.mark.parametrize(
    ("keys", "changes"),
    [
        ({"lr": 0.5}, {"learning_rate": 0.5}),
        ({"learning_rate": 0.5}, {"learning_rate": 0.5}),
        ({"lr": np.float32(0.5)}, {"learning_rate": 0.5}),
        ({"betas": (0.5, 0.75)}, {"beta1": 0.5, "beta2": 0.75}),
        ({"betas": [0.5, 0.75]}, {"beta1": 0.5, "beta2": 0.75}),
        ({"beta2": 0.75, "eps": 1e-3}, {"beta2": 0.75, "eps": 1e-3}),
        ({"weight_decay": 0.0, "weight_decay_mode": "decoupled"}, {"weight_decay_mode": "decoupled"}),
        ({"name": "head", "lr_scale": 0.1, "initial_lr": 3.0, "no_decay": True}, {}),
    ],
)
def test_a_group_overrides_hyper_parameters_by_either_name(keys, changes):
    group = group_of(mo.Adam(), **keys)
    assert group["rule"] == mo.Adam(**changes)
    assert group_of(group["rule"]).items() <= {k: v for k, v in group.items() if k in group}.items()
    for key in ("name", "lr_scale", "initial_lr", "no_decay"):
        assert (key in group) == (key in keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weight_decy": 0.1}, "Did you mean 'weight_decay'"),
        ({"momentum": 0.9}, "Adam has no such hyper-parameter"),
        ({"lr": -1.0}, "Adam.learning_rate"),
        ({"betas": 0.9}, "a pair of numbers"),
        ({"betas": (0.9,)}, "a pair of numbers"),
        ({"betas": (0.9, 1.0)}, "Adam.beta2"),
        ({"lr": True}, "Adam.learning_rate"),
    ],
)
def test_a_wrong_hyper_parameter_in_a_group_is_refused(keys, message):
    with pytest.raises(HyperparameterError, match=message):
        group_of(mo.Adam(), **keys)


def test_a_schedule_in_a_group_is_taken_at_the_step():
    group = group_of(mo.SGD(learning_rate=schedules.WarmUp(0.5, 5, power=1)))
    rule, _ = torch_groups.live(group, MATRIX)
    assert rule.at(1).learning_rate == 0.1
    group["lr"] = group["lr"] * 0.5
    assert rule.at(5).learning_rate == 0.25
    group["lr"] = 0.75
    assert rule.at(5).learning_rate == 0.75


@pytest.mark.parametrize("bad", ["0.1", None, True, [0.1], -0.1, float("nan")])
def test_what_is_no_number_is_refused_at_the_next_step(bad):
    group = group_of(mo.SGD())
    rule, _ = torch_groups.live(group, MATRIX)
    group["lr"] = bad
    with pytest.raises(HyperparameterError, match=r"lr|learning_rate"):
        rule.at(1)


def test_a_number_that_decides_the_slots_is_held_to_what_it_was():
    """The check would miss it if slots were asked of a rule that forgot its momentum."""
    group = group_of(mo.SGD(momentum=0.9))
    rule, fixed = torch_groups.live(group, MATRIX)
    assert set(fixed) == {"dampening"}  # it needs a counter
    group["momentum"] = 0.0
    assert "m" in rule.at(1).as_built.slots(*MATRIX[0])
    assert rule.at(1).momentum == 0
    group = group_of(mo.SGD())
    rule, fixed = torch_groups.live(group, MATRIX)
    assert set(fixed) == {"momentum"}
    group["momentum"] = 0.9
    with pytest.raises(HyperparameterError, match=r"momentum.*got 0\.9; wanted 0\.0.*cycle_momentum=False"):
        torch_groups.check_fixed(group, fixed)


@pytest.mark.parametrize("case", EACH)
def test_a_stored_group_is_plain_values_and_comes_back(case):
    group = {**group_of(case.rule), "step": 7, "initial_lr": 0.5}
    plain = torch_stored.packed({**group, "params": [0]})
    text = json.dumps(plain)
    assert f'"rule": "{case.rule.name}(' in text
    back = torch_stored.unpacked(plain, group, "param_groups[0]")
    assert back == group
    assert back["rule"] is group["rule"]


@dataclasses.dataclass(frozen=True)
class Halving(Schedule):
    """A schedule for the tests."""

    start: float

    def __call__(self, step):
        return self.start / step


def test_stored_schedules_are_compared_and_never_made_from_text():
    group = group_of(mo.Adam(learning_rate=Halving(0.5), beta1=Halving(0.25)))
    plain = torch_stored.packed(group)
    assert plain["lr"] == "Halving(start=0.5)"
    assert plain["betas"] == ("Halving(start=0.25)", 0.999)
    assert torch_stored.unpacked(plain, group, "g")["betas"] == group["betas"]
    for other in (mo.Adam(learning_rate=Halving(0.75)), mo.Adam(learning_rate=0.5)):
        with pytest.raises(CheckpointMismatchError, match=r"'lr'.*stored schedule Halving\(start=0.5\)"):
            torch_stored.unpacked(plain, group_of(other), "g")


def test_a_function_as_a_schedule_is_known_by_its_name():
    def decay(step):
        return 0.1

    group = group_of(mo.SGD(learning_rate=schedules.Function(decay)))
    text = torch_stored.packed(group)["lr"]
    assert "decay" in text
    assert "0x" not in text


def test_another_rule_is_refused():
    plain = torch_stored.packed(group_of(mo.Adam()))
    with pytest.raises(CheckpointMismatchError, match=r"g: got the state of Adam\(.*wanted SGD\("):
        torch_stored.unpacked(plain, group_of(mo.SGD()), "g")
    with pytest.raises(CheckpointMismatchError, match="another optimizer"):
        torch_stored.unpacked({"lr": 0.1, "params": [0]}, group_of(mo.SGD()), "g")
    del plain["betas"]
    with pytest.raises(CheckpointMismatchError, match="no 'betas'"):
        torch_stored.unpacked(plain, group_of(mo.Adam()), "g")
